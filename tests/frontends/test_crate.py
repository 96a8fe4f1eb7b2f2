"""The front-end's own tests, in Rust: frames, handshake, messages, router, sampling; and the protocol's vectors."""

from collections.abc import Callable


def test_the_crates_own_tests_pass(build: Callable[..., str]) -> None:
    printed = build("test", "--release")
    assert "test result: ok" in printed
    assert "vectors::what_we_send_is_written_byte_for_byte ... ok" in printed
