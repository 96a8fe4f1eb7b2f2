"""Request bodies into typed requests, with errors that name the field.

A field that does nothing here is declared all the same. Where it is only a hint, with `hint(...)`, any value is taken.
Where it would change the answer, with `unsupported(...)`, the values that ask for nothing pass and any other is refused
by name.
"""

import difflib
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, inspect

from phalanx.api.errors import ApiError
from phalanx.api.unknown_fields import UnknownField, unknown_fields

log = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)

_AT = re.compile(r"^(?P<what>.*?)(?: - at (?:`(?P<key>key|value)` in )?`\$(?P<path>.*)`)?$", re.DOTALL)
_ENUM_VALUE = re.compile(r"Invalid enum value '(?P<value>.*)'", re.DOTALL)
_FLOAT_FOR_INT = re.compile(r"Expected `int\b.*got `float`")
SHOWN = 100
"""Characters of a client's own text that an error repeats."""

_LOGGED = 10
"""Unknown fields that one line of the log names."""

_TOLD = 300
"""Characters of a decoder's message that count, at either end: in the middle it may repeat megabytes of a client's."""

MAX_FIELD = 131072
"""Bytes of JSON of a field that holds no texts to work on: room for all that its type allows."""

LARGE_BODY = 2 * MAX_FIELD

_TEXTS = frozenset({"messages", "prompt", "tokens"})
"""Fields as long as the body may be; what does not fit the model is refused by length in tokens."""


_NOTHING = Raw(b"null")

# A factory, because the JSON schema of a type cannot write a Raw as default.
ABSENT: Any = msgspec.field(default_factory=lambda: _NOTHING)
"""Default of a field of type Raw: null."""

_NEUTRAL_SIZE = 100
"""No neutral value is longer than so many bytes of JSON."""


def unsupported(*neutral: Any, what: str = "") -> msgspec.Meta:
    """Mark a field that is known and does nothing here: only `neutral` values, null among them, are accepted.

    Its type is Raw: nothing is built from megabytes that will be refused. `what` says what it would do.
    """
    values = [None, *neutral]
    return msgspec.Meta(
        description=f"{what} Not supported yet; only values that ask for nothing are accepted.".lstrip(),
        extra_json_schema={"enum": values},
        extra={"neutral": values},
    )


def hint(what: str) -> msgspec.Meta:
    """Mark a field that does nothing here and changes no answer where it does: any value is taken. Its type is Raw."""
    return msgspec.Meta(description=f"{what} Taken and ignored.", extra={"hint": True})


class BodyDecoder(Generic[T]):
    """Decodes JSON into one request type."""

    def __init__(self, request_type: type[T], values: Mapping[str, str] | None = None) -> None:
        """`values`: of values that no field takes, what an error is to say about them."""
        self.request_type = request_type
        self._values = values or {}
        self._decoder = msgspec.json.Decoder(request_type)
        self._short_type = _short_fields(request_type)
        self._short_fields = msgspec.json.Decoder(self._short_type)

    def decode(self, body: bytes, *, strict: bool = False) -> T:
        """Fields that the type does not have are ignored, or refused where `strict`.

        Raises ApiError (400) naming what is wrong and where.
        """
        if len(body) > LARGE_BODY:
            self._refuse_long_fields(body)
        try:
            request = self._decode(body)
        except msgspec.ValidationError as error:
            if strict:
                self._refuse_unknown_fields(body)
            raise self._invalid(str(error)) from None
        except RecursionError:
            raise ApiError(
                "The request body is nested too deeply: hundreds of levels, where a request has a handful."
            ) from None
        except UnicodeDecodeError as error:
            raise ApiError(f"The request body is not valid UTF-8: {error.reason}.") from None
        except msgspec.DecodeError as error:
            raise ApiError(f"The request body is not valid JSON: {error}.") from None
        if strict:
            self._refuse_unknown_fields(body)
        elif log.isEnabledFor(logging.DEBUG):
            names = [found.path[:SHOWN] for found in islice(unknown_fields(body, self.request_type), _LOGGED)]
            if names:
                log.debug("ignored fields that %s does not have: %s", self.request_type.__name__, ", ".join(names))
        refuse_unsupported(request)
        return request

    def _decode(self, body: bytes) -> T:
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            # JSON has one kind of number, and some clients write every one of them as 1.0.
            if _FLOAT_FOR_INT.match(str(error)[:_TOLD]) is None:
                raise
        return self._decoder.decode(self._with_whole_numbers(body))

    def _with_whole_numbers(self, body: bytes) -> bytes:
        """The body with 1 for 1.0 in all fields but those that are texts, or are left as JSON."""
        fields = msgspec.json.decode(body, type=dict[str, Raw])
        for name in self._short_type.__struct_fields__:
            if name in fields:
                with suppress(OverflowError):  # a number beside it is too large to be written again, and for any field
                    fields[name] = Raw(msgspec.json.encode(_whole(msgspec.json.decode(fields[name]))))
        return msgspec.json.encode(fields)

    def _refuse_unknown_fields(self, body: bytes) -> None:
        for unknown in unknown_fields(body, self.request_type):
            raise _unknown_field(unknown)

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
        where = f"a key of {path}" if match["key"] == "key" else path or "the request body"
        known = _ENUM_VALUE.fullmatch(match["what"])
        further = self._values.get(known["value"], "") if known else ""
        return ApiError(f"Invalid value for {where}: {match['what']}.{further and ' '}{further}", param=path or None)


def _unknown_field(unknown: UnknownField) -> ApiError:
    field = unknown.path[:SHOWN]
    nearest = difflib.get_close_matches(unknown.path.rpartition(".")[2][:SHOWN], unknown.known, n=1, cutoff=0.5)
    tip = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return ApiError(f"Unknown field {field!r}.{tip}", param=field, code="unknown_parameter")


def _whole(value: Any) -> Any:
    """Numbers such as 1.0 as 1, in lists and objects too; nothing that 64 bits do not hold."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value


def _short_fields(request_type: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """A type that finds how long each field is which is neither a text to work on nor left as JSON anyhow."""
    names = [
        field.encode_name
        for field in msgspec.structs.fields(request_type)
        if field.encode_name not in _TEXTS and not _is_raw(inspect.type_info(field.type))
    ]
    return msgspec.defstruct("ShortFields", [(name, Raw, ABSENT) for name in names])


def _is_raw(info: inspect.Type) -> bool:
    return isinstance(info, inspect.RawType) or (isinstance(info, inspect.Metadata) and _is_raw(info.type))


def refuse_unsupported(request: msgspec.Struct, path: str = "") -> None:
    """Raise ApiError (400) for a field marked `unsupported` that holds more than a neutral value; empty all others."""
    for name, neutral in _idle_fields(type(request)):
        value: Raw = getattr(request, name)
        if value is _NOTHING:
            continue
        if neutral is not None:
            raw = bytes(value)
            if len(raw) > _NEUTRAL_SIZE or not _is_among(msgspec.json.decode(raw), neutral):
                raise ApiError(
                    f"{path + name!r} is not supported yet.", param=path + name, code="unsupported_parameter"
                )
        # A Raw keeps the whole body alive.
        setattr(request, name, _NOTHING)


def _is_among(value: Any, neutral: list[Any]) -> bool:
    # To Python, 0 equals False; to JSON it does not.
    return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral)


@cache
def _idle_fields(request_type: type[msgspec.Struct]) -> tuple[tuple[str, list[Any] | None], ...]:
    """Each field that does nothing here, with the only values it may have; None: any."""
    info = inspect.type_info(request_type)
    assert isinstance(info, inspect.StructType)
    return tuple(
        (field.encode_name, field.type.extra.get("neutral"))
        for field in info.fields
        if isinstance(field.type, inspect.Metadata) and field.type.extra
    )
