"""What the driver says when the cluster lets it down, in one or two lines."""

REASON_LIMIT = 400
"""Characters of Ray's own words that are passed on; its messages run to pages."""

_BEFORE_GUESSES = ("Some common causes include", "There are some potential root causes", "This can be caused by")
"""Where Ray's account of what happened ends and its list of guesses begins."""
_NOT_WORDS = ("\t", "  ", "Traceback (most recent", "During handling of", "The above exception was")
_SAYS_NOTHING = "The actor died unexpectedly before finishing this task."


class ClusterError(Exception):
    """The start cannot go on, or the service not run on; its text is the whole story, no traceback needed."""


class Stopped(Exception):
    """The supervisor said Stop while something else was under way."""


def in_short(error: BaseException) -> str:
    """Ray's words for an error, without its tables of ids and its guesses."""
    text = str(error).replace(_SAYS_NOTHING, "")
    for mark in _BEFORE_GUESSES:
        text = text.partition(mark)[0]
    # Indented are the rows of its tables of ids, and of the tracebacks of its own processes.
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(_NOT_WORDS)]
    words = " ".join(lines) or type(error).__name__
    return words if len(words) <= REASON_LIMIT else words[:REASON_LIMIT].rsplit(" ", 1)[0] + " ..."
