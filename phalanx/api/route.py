"""What an endpoint is, and which one a request is for."""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from phalanx.api.app_state import AppState
from phalanx.api.http import Exchange


class Access(Enum):
    """Whom an endpoint answers."""

    OPEN = auto()
    """Anybody."""
    KEY = auto()
    """Whoever has one of --api-key, and anybody where none is set."""
    ADMIN = auto()
    """Whoever has one of --admin-key, and nobody where none is set."""


class Route(NamedTuple):
    method: str
    path: str
    """The path as OpenAPI writes it. A `{name}` in it is `Exchange.parameter`; at the end it takes all that follows."""
    handler: Callable[[Exchange, AppState], Awaitable[None]]
    summary: str
    response: type[msgspec.Struct] | str
    """The type of the answer, or the media type of one that has no type here."""
    request: type[msgspec.Struct] | None = None
    event: type[msgspec.Struct] | None = None
    """The type of an event of the stream that a request may ask for."""
    unready: type[msgspec.Struct] | None = None
    """The type of an answer with status 503, where that is not an error in the usual form."""
    access: Access = Access.KEY
    status: int = 200
    """The status of an answer that is no error."""


class RouteMatch(NamedTuple):
    """The routes at a path."""

    methods: dict[str, Route]
    """The routes by method; there are none at an unknown path."""
    parameter: str = ""
    """The part of the path that stands for the `{name}` of the route's path."""


class Routing:
    """Finds the route of a request."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._exact: dict[str, RouteMatch] = {}
        self._around: dict[tuple[str, str], dict[str, Route]] = {}
        """The routes with a `{name}`, by what stands before and behind it."""
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
