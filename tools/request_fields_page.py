"""Write the tables of docs/request-fields.md from the types of requests, or with --check say whether they are those."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from phalanx.api.admin_endpoints import LeaveRequest, ScaleRequest
from phalanx.api.openai.chat import ChatRequest
from phalanx.api.openai.completions import CompletionRequest
from phalanx.api.openai.messages import AssistantTurn, ContentPart, DeveloperTurn, SystemTurn, Turn, UserTurn
from phalanx.api.openai.sampling import SamplingFields, StreamOptions
from phalanx.api.routes import ROUTES
from phalanx.api.tokens import DetokenizeRequest, TokenizeRequest

PAGE = Path(__file__).parent.parent / "docs" / "request-fields.md"
MARK = "<!-- From here on the page is made by tools/request_fields_page.py. -->\n"

_HINT = " Taken and ignored."
_UNSUPPORTED = " Not supported yet; only values that ask for nothing are accepted."


class Section(NamedTuple):
    title: str
    fields: type[msgspec.Struct]
    without: type[msgspec.Struct] | None = None
    """Its fields stand in a section of their own."""


SECTIONS = (
    Section("`/v1/chat/completions` and `/v1/completions`", SamplingFields),
    Section("`/v1/chat/completions` alone", ChatRequest, SamplingFields),
    Section("`/v1/completions` alone", CompletionRequest, SamplingFields),
    Section("`stream_options`", StreamOptions),
    Section("`messages`: of role `system`, `developer` or `user`", UserTurn),
    Section("`messages`: of role `assistant`, besides these", AssistantTurn, Turn),
    Section("`content`: its parts", ContentPart),
    Section("`/tokenize`", TokenizeRequest),
    Section("`/detokenize`", DetokenizeRequest),
    Section("`/admin/ranks/{rank}/drain`, `resume` and `restart`", LeaveRequest),
    Section("`/admin/scale`", ScaleRequest),
)

SAME_AS_USER = (SystemTurn, DeveloperTurn)
"""Their section is UserTurn's."""


def tables() -> str:
    """All sections, in Markdown."""
    return "\n".join(f"## {section.title}\n\n{_section(section)}" for section in SECTIONS)


def _section(section: Section) -> str:
    (schema,), components = msgspec.json.schema_components([section.fields])
    properties = components[schema["$ref"].rpartition("/")[2]]["properties"]
    left_out = set() if section.without is None else set(section.without.__struct_fields__)
    # The title tells the role.
    left_out.add(section.fields.__struct_config__.tag_field or "")
    rows = {name: of for name, of in properties.items() if name not in left_out}
    hints = {name: of for name, of in rows.items() if _description(of).endswith(_HINT)}
    idle = {name: of for name, of in rows.items() if _description(of).endswith(_UNSUPPORTED)}
    used = {name: of for name, of in rows.items() if name not in hints and name not in idle}
    return "\n".join(
        [
            *_table("field | values | what it does | default", used, _used),
            *_table("taken and ignored | what it asks for elsewhere", hints, _hint),
            *_table("not supported yet | values that pass | what it asks for", idle, _idle),
        ]
    )


def _table(head: str, rows: dict[str, Any], write: Callable[[dict[str, Any]], list[str]]) -> Iterator[str]:
    if rows:
        yield f"| {head} |"
        yield f"|{' --- |' * (head.count('|') + 1)}"
        for name, schema in rows.items():
            yield f"| {' | '.join([f'`{name}`', *write(schema)])} |"
        yield ""


def _used(schema: dict[str, Any]) -> list[str]:
    what, told, default = _description(schema).partition(" Default: ")
    if not told and "default" in schema:
        raise ValueError(f"no default is told: {schema}")
    return [_values(schema), what, default.removesuffix(".") or "must be given"]


def _hint(schema: dict[str, Any]) -> list[str]:
    return [_description(schema).removesuffix(_HINT)]


def _idle(schema: dict[str, Any]) -> list[str]:
    values = ", ".join(f"`{msgspec.json.encode(value).decode()}`" for value in schema["enum"])
    return [values, _description(schema).removesuffix(_UNSUPPORTED)]


def _description(schema: dict[str, Any]) -> str:
    options = [schema, *schema.get("anyOf", ())]
    return next((option["description"] for option in options if "description" in option), "")


def _values(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_values(option) for option in schema["anyOf"] if option.get("type") != "null"))
    if "$ref" in schema:
        return "object"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    match schema["type"]:
        case "boolean":
            return "true or false"
        case "integer" | "number":
            return _number(schema)
        case "string":
            return f"text{_size(schema, 'Length', 'characters')}"
        case "array":
            items = _values(schema["items"])
            return f"list{_size(schema, 'Items', 'entries')}: {items}"
        case _:
            inner = schema.get("additionalProperties")
            return f"object{_size(schema, 'Properties', 'entries')}{f': {_values(inner)}' if inner else ''}"


def _number(schema: dict[str, Any]) -> str:
    kind = "whole number" if schema["type"] == "integer" else "number"
    least, above, most = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if "exclusiveMaximum" in schema:
        most = schema["exclusiveMaximum"] - 1
    if above is not None:
        return f"{kind} above {above} up to {most:,}"
    return f"{kind} from {least:,}" + ("" if most is None else f" to {most:,}")


def _size(schema: dict[str, Any], of: str, things: str) -> str:
    least, most = schema.get(f"min{of}"), schema.get(f"max{of}")
    if least and most:
        return f" of {least} to {most:,} {things}"
    return f" of at most {most:,} {things}" if most else ""


def check_sections() -> None:
    """Raises ValueError for a type of a request's that no section tells of."""
    requests = [route.request for route in ROUTES if route.request is not None]
    there = msgspec.json.schema_components(requests)[1].keys()
    told = {name for section in SECTIONS for name in msgspec.json.schema_components([section.fields])[1]}
    if missing := there - told - {role.__name__ for role in SAME_AS_USER}:
        raise ValueError(f"no section tells of {missing}")
    for role in SAME_AS_USER:
        if role.__struct_fields__ != UserTurn.__struct_fields__:
            raise ValueError(f"{role.__name__} has other fields than UserTurn")


def main() -> int:
    """Write the page, or compare it; returns the exit status."""
    check_sections()
    old = PAGE.read_text()
    new = old.partition(MARK)[0] + MARK + "\n" + tables()
    if "--check" in sys.argv[1:]:
        return 0 if old == new else 1
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
