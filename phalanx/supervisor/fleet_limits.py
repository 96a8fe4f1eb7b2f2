"""How long the fleet waits for what, and how often it starts again what falls."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FleetLimits:
    """How long the fleet waits for what, in seconds, and how often it starts again what falls."""

    startup: float
    """How long a child may be in one stage without progress."""
    shutdown: float
    """How long it may take to end once it was sent Stop."""
    cluster: float = 10.0
    """How much longer the Ray driver may take: it takes actors and placement groups down."""
    dump: float = 1.0
    """How long a stuck child gets to print where it stands."""
    kill: float = 5.0
    """How long it may take to end after SIGKILL; only a process stuck in the kernel takes longer."""
    drain: float = 0.0
    """How long running requests get to finish before Stop is sent."""
    step: float = 60.0
    """How long a serving child that has work may make no step."""
    max_restarts: int = 0
    """How often one rank or API server is started again within `window`; with 0 any death ends the service."""
    window: float = 60.0
    failed_starts: int = 5
    """How many starts in a row may fail before it is given up."""
    min_ranks: int = 1
    backoff: float = 0.5
    """The pause before a second try to start; it doubles with each further one, up to `longest_backoff`."""
    longest_backoff: float = 30.0
    link: float = 20.0
    """How long a silent connection to another machine counts as open; see `transport.listener.tune`."""
    last_words: float = 1.0
    """How long after a child's end its pipes may stay open (a grandchild may hold them), or the other way round."""
