"""The names of the service's processes, and the base class of all messages."""

import enum
from typing import NewType

import msgspec

RankId = NewType("RankId", int)
ApiServerId = NewType("ApiServerId", int)
Incarnation = NewType("Incarnation", int)
RequestId = NewType("RequestId", int)
"""Unique within one API server; a rank keys requests by (ApiServerId, RequestId)."""


class Role(enum.StrEnum):
    API = "api"
    ENGINE = "engine"
    RAY = "ray"
    """The one process that talks to the Ray cluster."""


class StartupStage(enum.StrEnum):
    """The stages of a child's start, in order. Each has its own progress deadline."""

    STARTED = "started"
    IMPORTED = "imported"
    WEIGHTS = "weights"
    CACHE = "cache"
    WARM_UP = "warm-up"
    ATTACHED = "attached"
    READY = "ready"

    @property
    def position(self) -> int:
        """How many stages come before it."""
        return list(StartupStage).index(self)


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all messages; subclasses carry the integer tag."""


class Place(Message, frozen=True):
    """A position in the fleet, such as rank 3. It stays the same while the processes that fill it come and go."""

    role: Role
    index: int
    """The API server's number, or the rank."""
    worker: int = 0
    """The tensor-parallel worker of a rank; worker 0 is the rank itself and leads the others."""

    def __str__(self) -> str:
        if self.role is Role.RAY:
            return "ray"
        return f"{self.role} {self.index}" + (f" tp {self.worker}" if self.worker else "")


class ChildId(Message, frozen=True):
    """One start of the process in a place."""

    place: Place
    incarnation: Incarnation

    def __str__(self) -> str:
        return str(self.place)
