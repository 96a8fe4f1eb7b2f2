"""What the service's last report says of a child that was stuck."""

import re
from typing import NamedTuple

from support.service import DEADLINE

_STUCK = re.compile(
    r"^(?P<who>\w+ \d+(?: tp \d+)?) \(pid \d+\) is stuck in stage (?P<stage>\S+): "
    r"waited (?P<waited>\d+\.\d) s for (?P<what>.*), \d+\.\d s in this stage$",
    re.MULTILINE,
)


class Stuck(NamedTuple):
    who: str
    stage: str
    what: str
    """What the supervisor waited for."""


def stuck(stderr: str, limit: float) -> Stuck:
    """Who was stuck, where; the supervisor must have waited `limit` seconds, and what a busy machine adds to that."""
    found = _STUCK.search(stderr)
    assert found, stderr
    assert limit <= float(found["waited"]) < limit + DEADLINE, found[0]
    return Stuck(found["who"], found["stage"], found["what"])
