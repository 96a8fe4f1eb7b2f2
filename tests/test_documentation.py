"""Pages that a program writes are as it would write them now, and what other pages quote is in the source."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from phalanx.api import known_errors
from phalanx.api.known_errors import KnownError, Unavailable
from phalanx.checkpoint.families import FAMILIES
from phalanx.checkpoint.files import METADATA
from phalanx.checkpoint.rope import ROPE_TYPES
from phalanx.checkpoint.shape import DTYPES
from phalanx.child import EXIT_ORPHANED
from phalanx.protocol import StartupStage
from phalanx.supervisor.events import ExitCode

ROOT = Path(__file__).parent.parent


def test_the_page_of_options_is_the_one_that_make_docs_writes() -> None:
    written = subprocess.run([sys.executable, str(ROOT / "tools" / "options_page.py"), "--check"], check=False)
    assert written.returncode == 0, "run `make docs` and commit docs/options.md"


def test_the_page_of_request_fields_is_the_one_that_make_docs_writes() -> None:
    written = subprocess.run([sys.executable, str(ROOT / "tools" / "request_fields_page.py"), "--check"], check=False)
    assert written.returncode == 0, "run `make docs` and commit docs/request-fields.md"


def test_the_page_of_models_names_what_is_supported_and_every_file_that_is_read() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    rows = {row[0]: row[1] for line in page.splitlines() if len(row := line.strip("| ").split(" | ")) == 2}
    assert set(re.findall(r"`(\w+)`", rows["architecture"])) == set(FAMILIES)
    assert set(re.findall(r"`(\w+)`", rows["rotary embeddings"])) == set(ROPE_TYPES)
    assert set(re.findall(r"`(\w+)`", rows["weights"])) == set(DTYPES)
    assert {name for name in METADATA if f"`{name}`" not in page} == set()


# --- messages that pages quote --------------------------------------------------------------------

TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text()
REFUSALS = (ROOT / "docs" / "models.md").read_text().partition("## What is refused")[2].partition("\n## ")[0]
ANYTHING = "..."


def messages(text: str) -> list[str]:
    """What an entry begins with: `- ` and one or more messages as code."""
    begun = re.findall(r"^(?:- |\*\*.*\*\* The log has the reason: )((?:`[^`]+`(?:, | or )?)+)[.]", text, re.MULTILINE)
    return [message for entry in begun for message in re.findall(r"`([^`]+)`", entry)]


def texts() -> Iterator[str]:
    """Every text in the source with `...` for what is filled in, backquotes taken out."""
    for path in sorted((ROOT / "phalanx").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant | ast.JoinedStr):
                yield text_of(node)


def text_of(node: ast.AST) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"%[sdrg]|\{\w+(?:!r)?\}", ANYTHING, text).replace("`", "")
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part) if isinstance(part, ast.Constant) else ANYTHING for part in parts)
        case _:
            return ANYTHING


def fixed_parts(message: str) -> list[str]:
    return [part for part in message.split(ANYTHING) if part.strip()]


def pattern_of(message: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, fixed_parts(message))), re.DOTALL)


SOURCE = list(texts())


@pytest.mark.parametrize("message", messages(TROUBLE) + messages(REFUSALS))
def test_every_message_that_a_page_quotes_is_one_of_the_program(message: str) -> None:
    assert sum(map(len, fixed_parts(message))) >= 8, "too little is quoted to be found"
    assert any(pattern_of(message).search(text) for text in SOURCE)


def test_messages_are_quoted() -> None:
    assert len(messages(TROUBLE)) >= 50
    assert len(messages(REFUSALS)) >= 10


def test_every_way_in_which_a_config_can_be_unsupported_is_on_the_page_of_models() -> None:
    quoted = messages(REFUSALS)
    for file in ("families", "rope", "shape"):
        tree = ast.parse((ROOT / "phalanx" / "checkpoint" / f"{file}.py").read_text())
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "UnsupportedModel":
                (said,) = map(text_of, call.args)
                assert any(pattern_of(message).match(said) and is_most_of(message, said) for message in quoted), said


def is_most_of(message: str, said: str) -> bool:
    """Whether more than the half of what is always said is quoted: a few common words fit everything."""
    return 2 * sum(map(len, fixed_parts(message))) > sum(map(len, fixed_parts(said)))


def rows_after(heading: str) -> list[list[str]]:
    """The rows of the first table behind a line that has `heading` in it."""
    table = TROUBLE.partition(heading)[2].partition("| ---")[2].partition("\n\n")[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines()[1:]]


def test_the_page_of_troubles_has_every_exit_status_and_stage() -> None:
    assert [row[0] for row in rows_after("## Exit statuses")] == [*map(str, map(int, ExitCode)), str(EXIT_ORPHANED)]
    assert [row[0].strip("`") for row in rows_after("shows the stage")] == [stage.value for stage in StartupStage]


def test_the_page_of_troubles_has_every_code_of_an_error() -> None:
    told = {code for row in rows_after("## A client gets an error") for code in re.findall(r"`(\w+)`", row[1])}
    source = "".join(path.read_text() for path in (ROOT / "phalanx" / "api").rglob("*.py"))
    known = {error.code for error in vars(known_errors).values() if isinstance(error, KnownError | Unavailable)} - {
        None
    }
    named = known | set(re.findall(r'\bcode="(\w+)"', source))
    assert named - told == set()
    assert {code for code in told if f'"{code}"' not in source} == set()
