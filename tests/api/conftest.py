"""Fixtures for the API server's tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from support.fake_engine import FakeRank, Script, ServedApi

# Examples have no time limit of their own: other processes may have the cores.
hypothesis.settings.register_profile("shared machine", deadline=None)
hypothesis.settings.load_profile("shared machine")


@pytest.fixture
def serve_api(checkpoint_folder: Path) -> Iterator[Callable[..., ServedApi]]:
    """Start an API server before a stand-in rank: `serve_api(what it answers, **HTTP options)`."""
    with ExitStack() as stack:

        def serve(rank: FakeRank | Script | None = None, **options: Any) -> ServedApi:
            return stack.enter_context(ServedApi(checkpoint_folder, rank, **options))

        yield serve
