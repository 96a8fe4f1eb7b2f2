"""Who is who, and the base of all messages."""

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


class StageName(enum.StrEnum):
    """Where a child is on its way to READY, in order; each has its own progress deadline."""

    STARTED = "started"
    IMPORTED = "imported"
    WEIGHTS = "weights"
    CACHE = "cache"
    WARM_UP = "warm-up"
    ATTACHED = "attached"
    READY = "ready"


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all messages; subclasses carry the integer tag."""


class Place(Message, frozen=True):
    """A seat in the fleet; stable while the processes that fill it come and go."""

    role: Role
    index: int
    """API server number or rank."""
    worker: int = 0
    """Tensor-parallel worker of a rank; worker 0 is the rank itself and leads the others."""

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
