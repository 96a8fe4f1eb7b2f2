"""Fixtures for all tests."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.checkpoints import write_checkpoint
from support.service import Service

LONG = ("tests/chaos/", "tests/acceptance/test_ray", "tests/ray_backend/", "tests/simulation/", "tests/acceptance/")
"""What takes long, the longest first: two workers that start with it end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deal files out whole to the workers of pytest-xdist, and everything with a Ray cluster to one of them: two
    clusters at a time would have their simulated machines at the same addresses."""
    for item in items:
        file = item.nodeid.partition("::")[0]
        group = "ray" if "ray" in file or file.startswith("tests/ray_backend/") else file
        item.add_marker(pytest.mark.xdist_group(group))
    places = {start: place for place, start in enumerate(LONG)}

    def place(item: pytest.Item) -> int:
        return min((place for start, place in places.items() if item.nodeid.startswith(start)), default=len(LONG))

    items.sort(key=place)


def pytest_configure() -> None:
    """A run in the background of a script ignores SIGINT, and so would every service that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def start_service() -> Iterator[Callable[..., Service]]:
    """Start a service with flags; at the test's end it must stop with exit code 0 and leave nothing.

    A test that ends a service itself (`stop`, `wait`) judges its exit code itself.
    """
    with contextlib.ExitStack() as stack:

        def start(*flags: str, **further: object) -> Service:
            return stack.enter_context(Service(*flags, **further))  # type: ignore[arg-type]

        yield start


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint without weights: configuration, tokenizer, chat template."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))
