"""Imports go down only and never in circles; what is heavy stays where it is needed; a name means one thing."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import phalanx

PACKAGE = Path(phalanx.__file__).parent

MAY_IMPORT = {
    "machine": set(),
    "signals": set(),
    "streams": set(),
    "running_time": set(),
    "config": set(),
    "protocol": {"config"},
    "transport": {"running_time", "protocol"},
    "checkpoint": {"config"},
    "child": {"protocol", "transport"},
    "kernels": {"config", "protocol"},
    "models": {"config", "protocol", "kernels", "checkpoint"},
    "engine": {
        "machine",
        "running_time",
        "config",
        "protocol",
        "transport",
        "child",
        "kernels",
        "checkpoint",
        "models",
    },
    "text": {"config", "protocol", "checkpoint"},
    "api": {"running_time", "config", "protocol", "transport", "child", "text"},
    "hosting": {"protocol", "transport", "child"},
    "node": {"machine", "signals", "running_time", "config", "protocol", "transport", "child", "checkpoint", "hosting"},
    "ray_backend": {"signals", "running_time", "config", "protocol", "transport", "child"},
    "supervisor": {
        "machine",
        "signals",
        "streams",
        "running_time",
        "config",
        "protocol",
        "transport",
        "child",
        "hosting",
    },
    # It drives the service from outside, as its users and the operating system do.
    "chaos": {"machine", "running_time"},
    "cli": {
        "signals",
        "streams",
        "running_time",
        "config",
        "protocol",
        "transport",
        "checkpoint",
        "child",
        "hosting",
        "supervisor",
        "node",
        "ray_backend",
        "api",
        "engine",
        "chaos",
    },
    "__main__": {"cli"},
    "__init__": set(),
}
"""What each room may import besides itself, the bare package (its version) and everything outside."""

HEAVY = {"torch", "transformers", "ray"}

HEAVY_READER = "checkpoint/tensors.py"
"""The one file of a light room that needs torch."""

FILE_NAMES_OF_EVERY_ROOM = {"__init__.py", "__main__.py", "errors.py"}
"""Names that say the same of each room."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(module: Path) -> str:
    first = module.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(module: Path, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(module.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module is not None
            yield node.module
            if node.module == "phalanx":
                yield from (f"phalanx.{alias.name}" for alias in node.names if alias.name != "__version__")


def imports_between_modules() -> dict[str, set[str]]:
    """For each module of the package the modules that it names in an import, wherever in it: for types alone too."""
    names = {module: ".".join(module.relative_to(PACKAGE.parent).with_suffix("").parts) for module in modules()}
    names = {module: name.removesuffix(".__init__") for module, name in names.items()}
    known = set(names.values())
    graph: dict[str, set[str]] = {}
    for module, name in names.items():
        named = graph[name] = set()
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names} & known
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    member = f"{node.module}.{alias.name}"
                    named |= {member if member in known else node.module or ""} & known
    return graph


def cycles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Each set of nodes that all reach each other, itself alone only where it names itself."""
    reached = {node: _reached_from(node, graph) for node in graph}
    return {
        frozenset(other for other in reached[node] if node in reached[other]) for node in graph if node in reached[node]
    }


def _reached_from(start: str, graph: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead += graph[node]
    return found


def test_a_cycle_is_found_wherever_it_closes() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"e"}}
    assert cycles(graph) == {frozenset({"b", "c"}), frozenset({"e"})}


def test_no_modules_import_each_other() -> None:
    assert cycles(imports_between_modules()) == set()


def met_twice(names: Iterable[str]) -> set[str]:
    return {name for name, count in Counter(names).items() if count > 1}


def test_a_name_that_is_met_again_is_found_once() -> None:
    assert met_twice(["Rank", "Place", "Rank", "Node", "Rank"]) == {"Rank"}


def test_no_two_classes_have_one_name() -> None:
    classes = [
        node.name
        for module in modules()
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    assert met_twice(classes) == set()


def test_no_two_files_have_one_name() -> None:
    assert met_twice(module.name for module in modules()) == FILE_NAMES_OF_EVERY_ROOM


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_the_rooms_below_it(module: Path) -> None:
    here = room(module)
    assert here in MAY_IMPORT, f"{here} is a new room: say in this test what it may import"
    rooms = {name.split(".")[1] for name in imported(module) if name.startswith("phalanx.")}
    assert rooms - {here} <= MAY_IMPORT[here]


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_heavy_is_imported_at_the_top_of_a_package_or_outside_the_engine(module: Path) -> None:
    heavy = {name.split(".")[0] for name in imported(module)} & HEAVY
    may_be_heavy = room(module) in {"engine", "models", "kernels", "ray_backend"} or module == PACKAGE / HEAVY_READER
    if module.name == "__init__.py" or not may_be_heavy:
        assert heavy == set()


def test_only_ranks_read_tensors() -> None:
    reader = f"phalanx.{HEAVY_READER.removesuffix('.py').replace('/', '.')}"
    readers = {room(module) for module in modules() if reader in imported(module)}
    assert readers == {"engine"}


@pytest.mark.parametrize("entry", ["phalanx.api.__main__", "phalanx.supervisor.supervisor", "phalanx.cli"])
def test_light_processes_never_load_what_is_heavy(entry: str) -> None:
    script = f"import sys, {entry}; print(*sorted({HEAVY | {'numpy'}!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
