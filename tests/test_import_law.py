"""Imports go down only, siblings never import each other, and what is heavy stays where it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import phalanx

PACKAGE = Path(phalanx.__file__).parent

MAY_IMPORT = {
    "machine": set(),
    "config": set(),
    "protocol": {"config"},
    "transport": {"protocol"},
    "checkpoint": {"config"},
    "child": {"protocol", "transport"},
    "kernels": {"config", "protocol"},
    "models": {"config", "protocol", "kernels"},
    "engine": {"machine", "config", "protocol", "transport", "child", "kernels", "models"},
    "api": {"config", "protocol", "transport", "child"},
    "hosting": {"protocol", "transport", "child"},
    "node": {"config", "protocol", "transport", "child", "checkpoint", "hosting"},
    "ray_backend": {"config", "protocol", "transport", "child"},
    "supervisor": {"config", "protocol", "transport", "child", "hosting"},
    # It drives the service from outside, as its users and the operating system do.
    "chaos": {"machine"},
    "cli": {
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


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_the_rooms_below_it(module: Path) -> None:
    here = room(module)
    assert here in MAY_IMPORT, f"{here} is a new room: say in this test what it may import"
    rooms = {name.split(".")[1] for name in imported(module) if name.startswith("phalanx.")}
    assert rooms - {here} <= MAY_IMPORT[here]


@pytest.mark.parametrize("module", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_heavy_is_imported_at_the_top_of_a_package_or_outside_the_engine(module: Path) -> None:
    heavy = {name.split(".")[0] for name in imported(module)} & HEAVY
    if module.name == "__init__.py" or room(module) not in {"engine", "models", "kernels", "ray_backend"}:
        assert heavy == set()


@pytest.mark.parametrize("entry", ["phalanx.api.__main__", "phalanx.supervisor.supervisor", "phalanx.cli"])
def test_light_processes_never_load_what_is_heavy(entry: str) -> None:
    script = f"import sys, {entry}; print(*sorted({HEAVY | {'numpy'}!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
