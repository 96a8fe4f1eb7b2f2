"""Pages that a program writes are as it would write them now."""

import re
import subprocess
import sys
from pathlib import Path

from phalanx.checkpoint.families import FAMILIES
from phalanx.checkpoint.files import METADATA
from phalanx.checkpoint.rope import ROPE_TYPES
from phalanx.checkpoint.shape import DTYPES

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
