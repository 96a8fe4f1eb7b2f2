"""Fixtures for all tests."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from service import Service


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
