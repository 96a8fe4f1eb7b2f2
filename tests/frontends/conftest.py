"""Fixtures for the compiled front-end's tests: the program, built once, and one of it before stand-ins."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.fake_engine import FakeRank, Script
from support.standing_alone import FrontEnd, NumberedRank

SOURCE = Path(__file__).parents[2] / "frontends" / "tokens-rs"
MISSING = 77
"""Exit status of the build where cargo or the crates are not installed."""


@pytest.fixture(scope="session")
def build() -> Callable[..., str]:
    """Run `build.sh ARGUMENTS`; its output. Skips the test where there is nothing to build with."""

    def run(*arguments: str) -> str:
        # Debian has the crates' sources only, so a first build compiles them: minutes on a loaded machine.
        made = subprocess.run(
            [SOURCE / "build.sh", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if made.returncode == MISSING:
            pytest.skip(f"the compiled front-end cannot be built here: {made.stdout.strip()}")
        assert made.returncode == 0, made.stdout
        return made.stdout

    return run


@pytest.fixture(scope="session")
def program(build: Callable[..., str]) -> Path:
    """The front-end's executable."""
    build()
    return SOURCE / "target" / "release" / "phalanx-tokens"


@pytest.fixture
def start(program: Path, checkpoint_folder: Path) -> Iterator[Callable[..., FrontEnd]]:
    """Start the front-end before a stand-in supervisor."""
    with ExitStack() as stack:

        def started(**options: Any) -> FrontEnd:
            return stack.enter_context(FrontEnd(program, checkpoint_folder, **options))

        yield started


@pytest.fixture
def serve(start: Callable[..., FrontEnd]) -> Callable[..., FrontEnd]:
    """A front-end that serves, with one rank: `serve(what the rank answers, **options)`."""

    def serving(rank: FakeRank | Script | None = None, **options: Any) -> FrontEnd:
        front_end = start(**options).serving()
        front_end.attach(rank if isinstance(rank, FakeRank) else NumberedRank(rank))
        return front_end

    return serving
