"""Numbers that commands take besides the configuration's."""

import contextlib

from phalanx.cli.options import UsageError


def whole(text: str, flag: str, least: int, most: int | None = None) -> int:
    """The whole number that a text stands for; raises UsageError where it is none within the bounds."""
    if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise UsageError(f"{flag} {text} is not a whole number {bounds}")
    return int(text)


def above_zero(text: str, flag: str, what: str = "a number") -> float:
    """The number that a text stands for; raises UsageError where it is no finite one above 0."""
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < float("inf"):
            return number
    raise UsageError(f"{flag} {text} is not {what} above 0")
