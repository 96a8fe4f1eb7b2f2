"""Which picture of the start a person gets: one that changes in place, or plain lines."""

import os
from typing import TextIO

from phalanx.supervisor.picture import Announce, PlainPicture


def picture_for(stream: TextIO, announce: Announce) -> PlainPicture:
    """Live where the stream is a terminal that can move its cursor."""
    if not stream.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return PlainPicture(stream, announce)
    # Rich is a third of this process's imports, and logs have no use for it.
    from phalanx.supervisor.live_picture import LivePicture

    return LivePicture(stream, announce)
