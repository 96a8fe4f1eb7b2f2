"""Chat messages to a prompt, by the checkpoint's own jinja template in a sandbox.

Templates see what transformers gives them (`messages`, `tools`, `add_generation_prompt`, the special tokens,
`raise_exception`, `strftime_now`, `tojson`, loop controls, `{% generation %}`), so those of published checkpoints
work as they are. Templates come from the checkpoint or the person who starts the service, never from a request.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from phalanx.checkpoint.template import DEFAULT, stored_templates

RESERVED = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "raise_exception"}
    | {"strftime_now", "bos_token", "eos_token", "pad_token", "unk_token", "chat_template"}
)
"""What `chat_template_kwargs` may not replace."""


_END_OF_FINAL = "END_OF_THE_MESSAGE_TO_CONTINUE "
"""Its space at the end tells whether a template strips messages."""


class NoChatTemplate(NamedTuple):
    """This model's chats are refused."""

    reason: str
    """A sentence for the person who asked."""


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
        """The prompt. `continue_final_message`: it ends where the last message's own text ends.

        Raises TemplateError.
        """
        final = messages[-1].get("content") if continue_final_message else None
        if continue_final_message:
            if not isinstance(final, str):
                raise TemplateError("its last message has no text that an answer could continue")
            messages = [*messages[:-1], {**messages[-1], "content": final + _END_OF_FINAL}]
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
        return text if final is None else _open_ended(text, final)


def _open_ended(text: str, final: str) -> str:
    """Cut a prompt at the mark that was put behind the last message's text, so that the answer continues the text.

    Looking for the text itself would not do: a short one is found in what the template writes behind it.
    """
    end = text.rfind(_END_OF_FINAL.rstrip())
    if end < 0 or final.strip() not in text:
        raise TemplateError("it changes the last message's text, so that it cannot be continued")
    # Where the template has stripped the message, the mark has lost its space, and the text goes on without its own.
    kept = text[:end] if text.startswith(_END_OF_FINAL, end) else text[:end].rstrip()
    # A template may write the last message in several places.
    return kept.replace(_END_OF_FINAL, "").replace(_END_OF_FINAL.rstrip(), "")


class TemplateSource(NamedTuple):
    text: str
    origin: str
    """The file it is from."""


def find_template(folder: Path) -> TemplateSource | NoChatTemplate:
    """The checkpoint's template. Of several named ones it is the one named `default`: no request has tools yet.

    Raises CheckpointError that names the file.
    """
    stored = stored_templates(folder)
    if stored is None:
        return NoChatTemplate("This model's files have no chat template.")
    text = stored.by_name.get(DEFAULT)
    if text is None:
        names = ", ".join(sorted(stored.by_name))
        return NoChatTemplate(f"This model's chat templates have names ({names}), and none is named {DEFAULT}.")
    return TemplateSource(text, str(stored.origin))
