"""`docs/protocol.md` says what `phalanx/protocol` does: its tables are compared with the structs."""

import enum
import re
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
from msgspec import inspect

from phalanx import config, protocol
from phalanx.child import DIAL_TIMEOUT, EXIT_FAILED, EXIT_ORPHANED, FIRST_INHERITED
from phalanx.protocol import PROTOCOL_VERSION, STEP_SIZES, Message
from phalanx.transport import frames, handshake
from phalanx.transport.security import SECRET_VARIABLE

PAGE = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()
STRUCTS = {
    name: kind
    for module in (handshake, protocol)
    for name, kind in vars(module).items()
    if isinstance(kind, type)
    and issubclass(kind, Message)
    and kind is not Message
    and kind.__module__.startswith(module.__name__)
}
ENUMS = {
    name: kind
    for name, kind in vars(protocol).items()
    if isinstance(kind, type) and issubclass(kind, enum.Enum) and kind.__module__.startswith(protocol.__name__)
}

Row = tuple[str, ...]


def tables() -> dict[str, list[Row]]:
    """The table under each heading that names one thing in backquotes, its head and rule left out."""
    found: dict[str, list[Row]] = {}
    for section in re.split(r"^#+ ", PAGE, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        if named := re.match(r"`(\w+)`", heading):
            rows = re.findall(r"^\| (.*) \|$", body, re.MULTILINE)[2:]
            found[named[1]] = [tuple(cell.strip().replace("\\|", "|") for cell in row.split(" | ")) for row in rows]
    return found


def tag_of(kind: type[Message]) -> int | None:
    tag = kind.__struct_config__.tag
    assert tag is None or isinstance(tag, int)
    return tag


def spelt(kind: inspect.Type) -> str:
    """A field's type in the words of the page."""
    match kind:
        case inspect.IntType():
            return "int"
        case inspect.FloatType():
            return "float"
        case inspect.StrType():
            return "text"
        case inspect.BytesType():
            return "bytes"
        case inspect.BoolType():
            return "bool"
        case inspect.NoneType():
            return "nil"
        case inspect.EnumType(cls):
            return cls.__name__
        case inspect.StructType(cls):
            return cls.__name__
        case inspect.ListType(item) | inspect.VarTupleType(item):
            return f"array of {spelt(item)}"
        case inspect.TupleType(items):
            return f"pair of {spelt(items[0])} and {spelt(items[1])}"
        case inspect.LiteralType():
            return "text"
        case inspect.DictType(key, value):
            return f"map of {spelt(key)} to {spelt(value)}"
        case inspect.UnionType(types):
            return " or ".join(sorted((spelt(each) for each in types), key=lambda word: word == "nil"))
    raise AssertionError(f"the page has no word for {kind}")


def default_of(field: inspect.Field) -> str:
    if field.required:
        return ""
    value: Any = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    match value:
        case None:
            return "nil"
        case "" | b"":
            return "empty"
        case bool():
            return str(value).lower()
        case list() | tuple() | dict() if not value:
            return "empty"
    return str(value)


def test_every_message_is_on_the_page_and_nothing_else() -> None:
    told = {name for name in tables() if name not in ENUMS and name != "Config"}
    assert told == set(STRUCTS)


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_a_message_has_the_tag_and_the_fields_that_the_page_says(name: str) -> None:
    kind = STRUCTS[name]
    heading = re.search(rf"^#+ `{name}`(.*)$", PAGE, re.MULTILINE)
    assert heading
    tag = re.search(r"tag (\d+)", heading[1])
    assert (int(tag[1]) if tag else None) == tag_of(kind)
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    ours = [(f"`{field.name}`", spelt(field.type), default_of(field)) for field in described.fields]
    assert [row[:3] for row in tables()[name]] == ours
    assert all(len(row) == 4 and row[3] for row in tables()[name]), "each field has a meaning"


@pytest.mark.parametrize("name", sorted(ENUMS))
def test_an_enumeration_has_the_values_that_the_page_says(name: str) -> None:
    assert [row[0] for row in tables()[name]] == [f"`{member.value}`" for member in ENUMS[name]]


def test_the_options_that_the_page_tells_of_exist() -> None:
    rows = tables()["Config"]
    assert rows
    for path, kind, _ in rows:
        group, name = path.strip("`").split(".")
        struct = inspect.type_info(get_type_hints(config.Config)[group])
        assert isinstance(struct, inspect.StructType)
        field = next(field.type for field in struct.fields if field.name == name)
        assert kind == spelt(bare(field))


def bare(kind: inspect.Type) -> inspect.Type:
    """Without help text and limits."""
    match kind:
        case inspect.Metadata():
            return bare(kind.type)
        case inspect.UnionType(types):
            return inspect.UnionType(tuple(bare(each) for each in types))
    return kind


def test_the_numbers_on_the_page_are_the_programs() -> None:
    for text in (
        f"Protocol version: **{PROTOCOL_VERSION}**",
        f"steps of at most {', '.join(map(str, STEP_SIZES))} tokens",
        f"`{SECRET_VARIABLE}`",
        f"descriptor {FIRST_INHERITED}",
        f"{frames.MAX_FRAME:,} bytes",
        f"{frames.MAX_UNPROVEN_FRAME:,} bytes",
        f"{handshake.TIMEOUT:g} s",
        f"{handshake.NONCE_BYTES} random bytes",
        f"{DIAL_TIMEOUT:g} s",
        f"status {EXIT_FAILED}",
        f"status {EXIT_ORPHANED}",
    ):
        assert text in PAGE, text


def test_the_handshake_on_the_page_is_the_one_in_the_vectors() -> None:
    told = msgspec.json.decode((Path(__file__).parent / "vectors" / "handshake.json").read_bytes())["transcripts"][0]
    for frame in told["frames"]:
        assert frame["hex"] in PAGE.replace("\n", "").replace(" ", ""), frame["type"]
