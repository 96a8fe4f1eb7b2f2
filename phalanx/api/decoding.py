"""Request bodies into typed requests, with errors that name the field.

A field of OpenAI's that does nothing here yet is declared with `unsupported(...)`: the values that ask for nothing
pass, any other is refused by name.
"""

import difflib
import re
from functools import cache
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from phalanx.api.errors import ApiError

T = TypeVar("T", bound=msgspec.Struct)

_AT = re.compile(r"^(?P<what>.*?)(?: - at (?:`(?P<key>key|value)` in )?`\$(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_STEP = re.compile(r"[^.\[\]]+(?![^\[\]]*\])")
_SHOWN = 100
"""Characters of a client's own text that an error repeats."""


_NOTHING = msgspec.Raw(b"null")

# A factory, because the JSON schema of a type cannot write a Raw as default.
ABSENT: Any = msgspec.field(default_factory=lambda: _NOTHING)
"""Default of a field of type Raw: null."""

_NEUTRAL_SIZE = 100
"""No neutral value is longer than so many bytes of JSON."""


def unsupported(*neutral: Any) -> msgspec.Meta:
    """Mark a field that is known and does nothing here: only `neutral` values, null among them, are accepted.

    Its type is Raw: nothing is built from megabytes that will be refused.
    """
    values = [None, *neutral]
    return msgspec.Meta(
        description="Not supported yet; only values that ask for nothing are accepted.",
        extra_json_schema={"enum": values},
        extra={"neutral": values},
    )


class BodyDecoder(Generic[T]):
    """Decodes JSON into one request type."""

    def __init__(self, request_type: type[T]) -> None:
        self.request_type = request_type
        self._decoder = msgspec.json.Decoder(request_type)

    def decode(self, body: bytes) -> T:
        """Raises ApiError (400) naming what is wrong and where."""
        try:
            request = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise self._invalid(str(error)) from None
        except RecursionError:
            raise ApiError("The request body is nested too deeply.") from None
        except UnicodeDecodeError as error:
            raise ApiError(f"The request body is not valid UTF-8: {error.reason}.") from None
        except msgspec.DecodeError as error:
            raise ApiError(f"The request body is not valid JSON: {error}.") from None
        refuse_unsupported(request)
        return request

    def _invalid(self, text: str) -> ApiError:
        match = _AT.match(text)
        assert match is not None
        path = (match["path"] or "").removeprefix(".")
        unknown = _UNKNOWN.fullmatch(match["what"])
        if unknown is None:
            where = f"a key of {path}" if match["key"] == "key" else path or "the request body"
            return ApiError(f"Invalid value for {where}: {match['what']}.", param=path or None)
        name = unknown["name"]
        names = _field_names(self.request_type, path)
        nearest = difflib.get_close_matches(name[:_SHOWN], names, n=1, cutoff=0.5)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        field = f"{path}.{name}" if path else name
        return ApiError(f"Unknown field {field[:_SHOWN]!r}.{hint}", param=field[:_SHOWN], code="unknown_parameter")


def refuse_unsupported(request: msgspec.Struct, path: str = "") -> None:
    """Raise ApiError (400) for a field marked `unsupported` that holds more than a neutral value."""
    for name, neutral in _unsupported_fields(type(request)):
        value: msgspec.Raw = getattr(request, name)
        if value is _NOTHING:
            continue
        raw = bytes(value)
        if len(raw) > _NEUTRAL_SIZE or msgspec.json.decode(raw) not in neutral:
            raise ApiError(f"{path + name!r} is not supported yet.", param=path + name, code="unsupported_parameter")
        # A Raw keeps the whole body alive.
        setattr(request, name, _NOTHING)


@cache
def _unsupported_fields(request_type: type[msgspec.Struct]) -> tuple[tuple[str, list[Any]], ...]:
    info = inspect.type_info(request_type)
    assert isinstance(info, inspect.StructType)
    return tuple(
        (field.encode_name, field.type.extra["neutral"])
        for field in info.fields
        if isinstance(field.type, inspect.Metadata) and field.type.extra and "neutral" in field.type.extra
    )


def _field_names(root: type[msgspec.Struct], path: str) -> list[str]:
    """Names of the fields that the object at `path` below `root` may have."""
    here = _structs(inspect.type_info(root))
    for step in _STEP.finditer(path):
        here = [
            below
            for struct in here
            for field in struct.fields
            if field.encode_name == step[0]
            for below in _structs(field.type)
        ]
    return [field.encode_name for struct in here for field in struct.fields]


def _structs(info: inspect.Type) -> list[inspect.StructType]:
    """The struct types inside optional, annotated and list types."""
    if isinstance(info, inspect.StructType):
        return [info]
    if isinstance(info, inspect.Metadata):
        return _structs(info.type)
    if isinstance(info, inspect.UnionType):
        return [struct for option in info.types for struct in _structs(option)]
    if isinstance(info, inspect.ListType):
        return _structs(info.item_type)
    return []
