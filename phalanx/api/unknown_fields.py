"""Which fields of a JSON body its type does not have. They are ignored; `--strict-fields` refuses them."""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import msgspec
from msgspec import Raw, inspect


class UnknownField(NamedTuple):
    """A field of a body that its type does not have."""

    path: str
    """Where it stands, such as `messages[0].contents`."""
    known: tuple[str, ...]
    """The fields that its object may have."""


def unknown_fields(body: bytes, request_type: type[msgspec.Struct]) -> Iterator[UnknownField]:
    """The fields that a type does not have, in the body's order.

    A part of the body that is no JSON, or of another kind than its type, is passed over.
    """
    return _below(body, _kinds(_type_info(request_type)), "")


_type_info = cache(inspect.type_info)


def _below(raw: bytes, types: tuple[inspect.Type, ...], path: str) -> Iterator[UnknownField]:
    raw = raw.lstrip()
    try:
        if raw.startswith(b"{"):
            fields = msgspec.json.decode(raw, type=dict[str, Raw])
            struct = _struct_of(fields, types)
            if struct is not None:
                yield from _in_struct(fields, struct, f"{path}." if path else "")
        elif raw.startswith(b"["):
            inner = tuple(
                kind for each in types if isinstance(each, inspect.ListType) for kind in _kinds(each.item_type)
            )
            for position, item in enumerate(msgspec.json.decode(raw, type=list[Raw]) if inner else ()):
                yield from _below(bytes(item), inner, f"{path}[{position}]")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return


def _in_struct(fields: dict[str, Raw], struct: inspect.StructType, prefix: str) -> Iterator[UnknownField]:
    known = {field.encode_name: field.type for field in struct.fields}
    for name, value in fields.items():
        if name in known:
            inner = _kinds(known[name])
            if inner:
                yield from _below(bytes(value), inner, prefix + name)
        elif name != struct.tag_field:
            yield UnknownField(prefix + name, tuple(known))


def _struct_of(fields: dict[str, Raw], types: tuple[inspect.Type, ...]) -> inspect.StructType | None:
    """The type of an object, which its tag names where there are several; None where none is meant."""
    for struct in types:
        if isinstance(struct, inspect.StructType):
            tag = struct.tag_field and fields.get(struct.tag_field)
            if not struct.tag_field or (tag and msgspec.json.decode(tag) == struct.tag):
                return struct
    return None


def _kinds(info: inspect.Type) -> tuple[inspect.Type, ...]:
    """Those of the types that a value may have which are objects with fields, or lists of such objects."""
    if isinstance(info, inspect.Metadata):
        return _kinds(info.type)
    if isinstance(info, inspect.UnionType):
        return tuple(kind for option in info.types for kind in _kinds(option))
    if isinstance(info, inspect.StructType) or (isinstance(info, inspect.ListType) and _kinds(info.item_type)):
        return (info,)
    return ()
