"""Options of `phalanx serve`, made from the configuration tree: one flag a field, one help group a struct.

Flags and the fields of a `--config` file have the same names and pass through the same checks; the command line
wins over the file, the file over the defaults.
"""

import argparse
import difflib
import math
import sys
import textwrap
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import msgspec
from msgspec import inspect

from phalanx.config import OPTION_GROUPS, HttpOptions, Options
from phalanx.streams import show


class UsageError(ValueError):
    """The command line or the configuration file asks for what cannot be; the message says why, in one line."""


@dataclass(frozen=True)
class Option:
    """One field of the configuration tree."""

    group: str
    name: str
    annotation: Any
    kind: inspect.Type
    default: Any
    help: str
    short: tuple[str, ...]
    secret: bool
    """Whether its value must not be shown in any message."""
    size: bool
    """Whether it takes a number of thousands or of 1024s too: 4g, 4G."""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def repeated(self) -> bool:
        """Whether it takes several values."""
        return isinstance(self.kind, inspect.VarTupleType)

    @property
    def boolean(self) -> bool:
        return isinstance(self.kind, inspect.BoolType)

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        return _in_words(self.kind)

    def convert(self, value: Any, origin: str, *, from_text: bool) -> Any:
        """The value in the field's type.

        Args:
            origin: where the value was given, for the error.
            from_text: the value is given as a string that stands for it, as on a command line.

        Raises:
            UsageError: the option takes no such value.
        """
        refuse_bytes(value, origin)
        if from_text and isinstance(self.kind, inspect.LiteralType) and value not in self.kind.values:
            value = next((known for known in self.kind.values if str(known) == value), value)
        if self.repeated and not isinstance(value, list | tuple):
            value = [value]
        if self.repeated and from_text and not self.secret and len(value) == 1:
            value = _listed(value[0])
        # A string option takes "null" and "7" as they are.
        strict = not from_text or not _is_number(self.kind)
        try:
            converted = msgspec.convert(_expanded(value) if self.size else value, self.annotation, strict=strict)
        except msgspec.ValidationError:
            shown = "what was given" if self.secret else _shown(value)
            raise UsageError(f"{origin}: {shown} is not {self.expected} ({self.help})") from None
        if isinstance(converted, float) and not math.isfinite(converted):
            raise UsageError(f"{origin}: {_shown(value)} is not a finite number ({self.help})")
        return converted


def _all_options() -> dict[str, Option]:
    options = {}
    for group, struct in OPTION_GROUPS.items():
        # `get_type_hints` keeps Annotated where `fields` may show it resolved.
        hints = typing.get_type_hints(struct, include_extras=True)
        for found in msgspec.structs.fields(struct):
            hint = hints[found.name]
            described = inspect.type_info(hint)
            assert isinstance(described, inspect.Metadata), f"{found.name} has no help line"
            kind = described.type
            if isinstance(kind, inspect.UnionType):
                kind = next(kind_ for kind_ in kind.types if not isinstance(kind_, inspect.NoneType))
            help_line = (described.extra_json_schema or {})["description"]
            extra = described.extra or {}
            options[found.name] = Option(
                group, found.name, hint, kind, found.default, help_line, extra["short"], extra["secret"], extra["size"]
            )
    return options


OPTIONS = _all_options()
POSITIONAL = "model"
_SECRET_FLAGS = {option.flag for option in OPTIONS.values() if option.secret}


@dataclass(frozen=True)
class Given:
    """What was asked for: the options, complete with defaults, and where each given value came from."""

    options: Options
    origins: Mapping[str, str]
    """Where each value was given, by option: `--flag` or `FILE: name`. Options that were not given are not in it."""
    warnings: tuple[str, ...] = ()
    """Sentences on what is allowed and not wise."""

    def with_http(self, http: HttpOptions) -> "Given":
        """The same with other HTTP options, for when files and sockets have said what flags could not."""
        return replace(self, options=msgspec.structs.replace(self.options, http=http))


def build(command_line: Mapping[str, Any], file: Mapping[str, Any], file_name: str) -> Given:
    """Put the configuration together. `command_line` holds text (or bool), `file` typed values, by option name.

    Raises:
        UsageError: a value is not what its option takes.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, value in file.items():
        origin = f"{file_name}: {name}"
        values[name], origins[name] = OPTIONS[name].convert(value, origin, from_text=False), origin
    for name, value in command_line.items():
        option = OPTIONS[name]
        origin = "MODEL" if name == POSITIONAL else option.flag
        values[name], origins[name] = option.convert(value, origin, from_text=not option.boolean), origin
    tree: dict[str, dict[str, Any]] = {group: {} for group in OPTION_GROUPS}
    for name, value in values.items():
        tree[OPTIONS[name].group][name] = value
    return Given(msgspec.convert(tree, Options), origins)


def _listed(text: str) -> list[Any]:
    """The list that was typed as JSON, `["a", "b"]`, or the one word that was typed."""
    try:
        found = msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError:
        return [text]
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """Words for the end of an error: `; did you mean X?`, or none where no known name is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


_INSTEAD = {
    "gpu_memory_utilization": "it is for CUDA, and models run on CPUs so far; there --kv-cache-memory-share sets the "
    "share of free memory for the KV cache",
    "enforce_eager": "nothing is captured on CPUs, so leave it out",
}
"""Options of vLLM that have no meaning here yet, and what to do about it."""


def instead_of(name: str) -> str:
    """Words for the end of an error: `: ADVICE` for an option that others have, as a flag or in a file, or none."""
    known = name.removeprefix("--").removeprefix("no-").replace("-", "_")
    return f": {_INSTEAD[known]}" if known in _INSTEAD else ""


class Parser(argparse.ArgumentParser):
    """The parser of a command: it raises UsageError, and takes names of options with dashes or underscores."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def print_help(self, file: Any = None) -> None:
        """Print the help; raises OutputLost where argparse would say nothing and succeed."""
        show(self.format_help().rstrip())

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The values that were given, by destination.

        Raises:
            UsageError: an unknown option, a missing value, a second MODEL.
        """
        known = sorted(name for action in self._actions for name in action.option_strings)
        arguments = [_dashed(argument) for argument in arguments]
        taking = ""
        for argument in arguments:
            name = argument.partition("=")[0]
            if name == "--":
                break
            if name == "--model" and "--model" not in known:
                raise UsageError(f"{name}: MODEL is given without a flag, as the first argument")
            if name in known:
                taking = name
            elif name.startswith("-") and not _is_negative_number(name) and name != "-":
                if taking in _SECRET_FLAGS:
                    raise UsageError(f"{taking}: a key that begins with a dash is written {taking}=KEY")
                raise UsageError(f"{name} is not an option{instead_of(name) or nearest(name, known)}")
        namespace, rest = self.parse_known_args(arguments)
        if rest:
            takes_model = any(action.dest == POSITIONAL and not action.option_strings for action in self._actions)
            raise UsageError(f"unexpected argument {rest[0]!r}" + (": there is one MODEL" if takes_model else ""))
        given = {name: value for name, value in vars(namespace).items() if value is not None}
        for name, value in given.items():
            refuse_bytes(value, "MODEL" if name == POSITIONAL else f"--{name.replace('_', '-')}")
        return given


def serve_parser() -> Parser:
    """The parser of `phalanx serve`; its help is grouped as the configuration tree is."""
    parser = Parser(
        prog="phalanx serve",
        usage="phalanx serve [MODEL] [options]",
        description="Serve one language model over an OpenAI-compatible HTTP API.",
        epilog="Names may be written with dashes or underscores. Ctrl-C ends the service.",
        formatter_class=_HelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", help="TOML or YAML file with these options, flat or by group; flags win over it"
    )
    for group, struct in OPTION_GROUPS.items():
        section = parser.add_argument_group((struct.__doc__ or group).strip())
        for option in OPTIONS.values():
            if option.group == group:
                _add(section, option)
    return parser


def _add(section: argparse._ArgumentGroup, option: Option) -> None:
    help_line = _help(option)
    if option.name == POSITIONAL:
        section.add_argument(option.name, nargs="?", metavar="MODEL", help=help_line)
    elif option.boolean:
        action = argparse.BooleanOptionalAction
        section.add_argument(*option.short, option.flag, action=action, dest=option.name, help=help_line)
    elif option.repeated:
        names, metavar = (*option.short, option.flag), _metavar(option)
        section.add_argument(*names, dest=option.name, metavar=metavar, help=help_line, nargs="+", action="extend")
    else:
        section.add_argument(*option.short, option.flag, dest=option.name, metavar=_metavar(option), help=help_line)


def _help(option: Option) -> str:
    notes = []
    if isinstance(option.kind, inspect.IntType | inspect.FloatType) and (limits := _limits(option.kind)):
        notes.append(limits)
    if option.boolean:
        notes.append(f"default: {'yes' if option.default else 'no'}")
    elif option.default not in (None, ()):
        notes.append(
            f"default: {option.default:g}" if isinstance(option.default, float) else f"default: {option.default}"
        )
    return (option.help + (f" ({'; '.join(notes)})" if notes else "")).replace("%", "%%")


def _metavar(option: Option) -> str:
    match option.kind:
        case inspect.LiteralType(values=values):
            return "{" + ",".join(str(value) for value in values) + "}"
        case inspect.IntType():
            return "N"
        case inspect.FloatType():
            return "X"
        case _:
            return option.name.rpartition("_")[2].upper()


def _in_words(kind: inspect.Type) -> str:
    match kind:
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(str(value) for value in values) if len(values) > 1 else f"{values[0]!s}"
        case inspect.IntType() | inspect.FloatType():
            noun = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
            return f"{noun} {_limits(kind)}".rstrip()
        case inspect.BoolType():
            return "true or false"
        case inspect.VarTupleType():
            return "a list of texts"
        case _:
            return "text"


def _limits(kind: inspect.IntType | inspect.FloatType) -> str:
    parts = []
    if kind.ge is not None and kind.le is not None:
        return f"from {kind.ge:g} to {kind.le:g}" if kind.ge < kind.le else f"equal to {kind.ge:g}"
    for limit, words in ((kind.ge, "at least"), (kind.gt, "above"), (kind.le, "at most"), (kind.lt, "below")):
        if limit is not None:
            parts.append(f"{words} {limit:g}")
    return ", ".join(parts)


def _is_number(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.IntType | inspect.FloatType)


def _is_negative_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def refuse_bytes(value: Any, origin: str) -> None:
    """Raise UsageError for what no JSON and no message can hold as text: the name of a file can be any bytes."""
    texts = value if isinstance(value, list | tuple) else [value]
    try:
        "".join(text for text in texts if isinstance(text, str)).encode()
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        if encoding == "utf-8":
            raise UsageError(f"{origin}: it is not UTF-8 text; a folder or file of such a name needs another") from None
        raise UsageError(
            f"{origin}: letters that the encoding of this locale, {encoding}, does not have: "
            "set another locale, such as LC_ALL=C.UTF-8"
        ) from None


def _dashed(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else argument


_MULTIPLES = {
    letter: base**power for base, letters in ((1000, "kmgt"), (1024, "KMGT")) for power, letter in enumerate(letters, 1)
}


def _expanded(value: Any) -> Any:
    """The number that a size such as 4g stands for, as vLLM reads it: thousands in small letters, 1024s in capitals."""
    if not isinstance(value, str):
        return value
    number, multiple = value[:-1], _MULTIPLES.get(value[-1:])
    return int(number) * multiple if multiple is not None and number.isascii() and number.isdecimal() else value


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str, **further: Any) -> None:
        further.setdefault("max_help_position", 36)
        super().__init__(prog, **further)

    def _split_lines(self, text: str, width: int) -> list[str]:
        # An option's name that is broken at a hyphen cannot be found or copied.
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        # `-dp, --data-parallel-size N`: the value once, not after each name.
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return ", ".join(action.option_strings) + " " + self._format_args(action, str(action.metavar))
