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

_TOLD = 300
"""Characters of a decoder's message that count, at either end: in the middle it may repeat megabytes of a client's."""

MAX_FIELD = 131072
"""Bytes of JSON of a field that holds no texts to work on: room for all that its type allows."""

LARGE_BODY = 2 * MAX_FIELD

_TEXTS = frozenset({"messages", "prompt", "tokens"})
"""Fields as long as the body may be; what does not fit the model is refused by length in tokens."""


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
        self._short_fields = msgspec.json.Decoder(_short_fields(request_type))

    def decode(self, body: bytes) -> T:
        """Raises ApiError (400) naming what is wrong and where."""
        if len(body) > LARGE_BODY:
            self._refuse_long_fields(body)
        try:
            request = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise self._invalid(str(error)) from None
        except RecursionError:
            raise ApiError(
                "The request body is nested too deeply: hundreds of levels, where a request has a handful."
            ) from None
        except UnicodeDecodeError as error:
            raise ApiError(f"The request body is not valid UTF-8: {error.reason}.") from None
        except msgspec.DecodeError as error:
            raise ApiError(f"The request body is not valid JSON: {error}.") from None
        refuse_unsupported(request)
        return request

    def _refuse_long_fields(self, body: bytes) -> None:
        """Raise ApiError (400) before objects are made of millions of entries; what is no JSON is left to `decode`."""
        try:
            fields = self._short_fields.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        for name in fields.__struct_fields__:
            size = len(bytes(getattr(fields, name)))
            if size > MAX_FIELD:
                raise ApiError(f"{name} is {size} bytes of JSON; it may be {MAX_FIELD}.", param=name)

    def _invalid(self, text: str) -> ApiError:
        if len(text) > 2 * _TOLD:
            text = f"{text[:_TOLD]} ... {text[-_TOLD:]}"
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


def _short_fields(request_type: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """A type that finds how long each field is which is neither a text to work on nor left as JSON anyhow."""
    names = [
        field.encode_name
        for field in msgspec.structs.fields(request_type)
        if field.encode_name not in _TEXTS and not _is_raw(inspect.type_info(field.type))
    ]
    return msgspec.defstruct("ShortFields", [(name, msgspec.Raw, ABSENT) for name in names])


def _is_raw(info: inspect.Type) -> bool:
    return isinstance(info, inspect.RawType) or (isinstance(info, inspect.Metadata) and _is_raw(info.type))


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
