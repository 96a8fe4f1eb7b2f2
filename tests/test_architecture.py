"""docs/architecture.md says what stands where: every room, every object on a request's way, every enum."""

import re
from pathlib import Path

import pytest
from test_import_law import MAY_IMPORT

ROOT = Path(__file__).parent.parent
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


def rows_below(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = ARCHITECTURE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_page_of_architecture_has_a_line_for_every_room_in_an_order_in_which_imports_go_up_only() -> None:
    rooms = [row[0].strip("`") for row in rows_below("The rooms")]
    package = ROOT / "phalanx"
    found = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/*.py")}
    assert sorted(rooms) == sorted(found - {"__init__", "__main__"})
    for place, room in enumerate(rooms):
        assert MAY_IMPORT[room] & set(rooms) <= set(rooms[:place]), room


@pytest.mark.parametrize("heading", ["The life of a request", "How something stands: every enum"])
def test_what_the_page_of_architecture_names_stands_where_it_says(heading: str) -> None:
    rows = rows_below(heading)
    assert rows
    for name, file, *_ in rows:
        text = (ROOT / "phalanx" / file.strip("`")).read_text()
        assert f"class {name.strip('`')}" in text, f"{name} in {file}"


def test_the_page_of_architecture_has_every_enum_that_two_modules_know() -> None:
    named = {row[0].strip("`") for row in rows_below("How something stands: every enum")}
    found = set()
    for room in ("protocol", "supervisor"):
        for path in (ROOT / "phalanx" / room).glob("*.py"):
            found |= set(re.findall(r"^class (\w+)\(enum\.\w+\):", path.read_text(), re.MULTILINE))
    assert found - {"Role"} <= named


def test_every_file_that_the_page_of_architecture_names_exists() -> None:
    rooms = {room for room in MAY_IMPORT if (ROOT / "phalanx" / room).is_dir()}
    files = [name for name in re.findall(r"`([\w/]+\.py)`", ARCHITECTURE) if name.partition("/")[0] in rooms]
    assert len(files) > 40
    assert [name for name in files if not (ROOT / "phalanx" / name).is_file()] == []
