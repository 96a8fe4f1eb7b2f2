"""Pages that a program writes are as it would write them now."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_page_of_options_is_the_one_that_make_docs_writes() -> None:
    written = subprocess.run([sys.executable, str(ROOT / "tools" / "options_page.py"), "--check"], check=False)
    assert written.returncode == 0, "run `make docs` and commit docs/options.md"


def test_the_page_of_request_fields_is_the_one_that_make_docs_writes() -> None:
    written = subprocess.run([sys.executable, str(ROOT / "tools" / "request_fields_page.py"), "--check"], check=False)
    assert written.returncode == 0, "run `make docs` and commit docs/request-fields.md"
