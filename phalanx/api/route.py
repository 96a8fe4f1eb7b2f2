"""What an endpoint is, and which one a request is for."""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from phalanx.api.http import Exchange
from phalanx.api.service import Service


class Access(Enum):
    """Whom an endpoint answers."""

    OPEN = auto()
    """Anybody."""
    KEY = auto()
    """Who has one of --api-key; anybody where there is none."""
    ADMIN = auto()
    """Who has one of --admin-key; nobody where there is none."""


class Route(NamedTuple):
    method: str
    path: str
    """As OpenAPI writes it. One `{name}` in it is `Exchange.parameter`; at the end it takes all that follows."""
    handler: Callable[[Exchange, Service], Awaitable[None]]
    summary: str
    response: type[msgspec.Struct] | str
    """A type, or the media type of an answer that is not one of ours."""
    request: type[msgspec.Struct] | None = None
    event: type[msgspec.Struct] | None = None
    """Of the stream that the request may ask for."""
    unready: type[msgspec.Struct] | None = None
    """Answer with status 503 where it is not an error in the usual form."""
    access: Access = Access.KEY
    status: int = 200
    """Of an answer that is no error."""


class RouteMatch(NamedTuple):
    """What is at a path."""

    methods: dict[str, Route]
    """Empty for an unknown path."""
    parameter: str = ""
    """What stands for the `{name}` of the route's path."""


class Routing:
    """Finds the route of a request."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._exact: dict[str, RouteMatch] = {}
        self._around: dict[tuple[str, str], dict[str, Route]] = {}
        """By what stands before and behind the `{name}`."""
        for route in routes:
            before, brace, rest = route.path.partition("{")
            if brace:
                methods = self._around.setdefault((before, rest.partition("}")[2]), {})
            else:
                methods = self._exact.setdefault(route.path, RouteMatch({})).methods
            methods[route.method] = route
            if route.method == "GET":
                methods["HEAD"] = route

    def at(self, path: str) -> RouteMatch:
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        for (before, behind), methods in self._around.items():
            end = len(path) - len(behind)
            if path.startswith(before) and path.endswith(behind) and end > len(before):
                parameter = path[len(before) : end]
                if not behind or "/" not in parameter:
                    return RouteMatch(methods, parameter)
        return RouteMatch({})
