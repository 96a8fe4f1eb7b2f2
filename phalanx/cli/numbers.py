"""Numbers that commands take besides the configuration's."""

from phalanx.cli.options import UsageError


def whole(text: str, flag: str, least: int, most: int | None = None) -> int:
    """Raises UsageError: it is no whole number within the bounds."""
    if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise UsageError(f"{flag} {text} is not a whole number {bounds}")
    return int(text)


def above_zero(text: str, flag: str, what: str = "a number") -> float:
    """Raises UsageError: it is no finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UsageError(f"{flag} {text} is not {what} above 0")
    return number
