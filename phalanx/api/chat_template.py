"""Chat messages to a prompt, by the checkpoint's own jinja template in a sandbox.

Templates see what transformers gives them (`messages`, `tools`, `add_generation_prompt`, the special tokens,
`raise_exception`, `strftime_now`, `tojson`, loop controls, `{% generation %}`), so those of published checkpoints
work as they are. Templates come from the checkpoint or the person who starts the service, never from a request.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from phalanx.api.tokenizer import read_json

RESERVED = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "raise_exception"}
    | {"strftime_now", "bos_token", "eos_token", "pad_token", "unk_token", "chat_template"}
)
"""What `chat_template_kwargs` may not replace."""


class TemplateError(Exception):
    """The template refused the messages or failed on them; str() is its own message."""


class _Generation(Extension):
    """`{% generation %}` marks the assistant's own tokens for training; here it is its body."""

    tags = {"generation"}  # noqa: RUF012 the base class's declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes HTML, which would change the prompt.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


class ChatTemplate:
    def __init__(self, source: str, special: dict[str, str]) -> None:
        """Raises ValueError where the template does not compile."""
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"the chat template does not compile: {error.message} (line {error.lineno})") from error
        self._special = special

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        extra: dict[str, Any] | None = None,
    ) -> str:
        """Raises TemplateError."""
        try:
            text = self._template.render(
                **(extra or {}),
                **self._special,
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
            )
        except jinja2.TemplateError as error:
            raise TemplateError(error.message or type(error).__name__) from error
        except RecursionError:
            raise TemplateError("it nests too deeply") from None
        except Exception as error:
            # A template is a program: what it does to values of unexpected types is the request's error, not ours.
            raise TemplateError(f"{type(error).__name__}: {error}") from error
        return _open_ended(text, messages[-1]["content"]) if continue_final_message else text


def _open_ended(text: str, final: str) -> str:
    """Cut the prompt behind the last message's own text, so that the answer continues it."""
    start = text.rfind(final.strip())
    if start < 0:
        raise TemplateError("it changes the last message's text, so that it cannot be continued")
    # Templates that strip the text have lost the spaces at its end.
    kept = final.lstrip()
    end = start + len(kept if text.startswith(kept, start) else final.strip())
    return text[:end]


def find_template(folder: Path) -> tuple[str, str] | None:
    """The checkpoint's template: its source, and the file it is from; None where it has none.

    Raises ValueError that names the file.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8"), str(path)
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = folder / name
        found = read_json(path).get("chat_template")
        if isinstance(found, list):
            named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
            found = named.get("default")
        if isinstance(found, str):
            return found, str(path)
    return None
