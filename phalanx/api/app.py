"""The ASGI application: the key, the route, and every failure as an error of OpenAI's form."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from phalanx.api import request_log
from phalanx.api.app_state import AppState
from phalanx.api.authorization import Keys
from phalanx.api.cors import Cors
from phalanx.api.errors import ApiError, server_error
from phalanx.api.http import ClientConnection, ClientGone, Exchange, Headers, Receive, Scope, Send, header_of
from phalanx.api.known_errors import STOPPING
from phalanx.api.route import Access, Route, RouteMatch, Routing
from phalanx.api.routes import ROUTES

log = logging.getLogger(__name__)


class Application:
    """Plain ASGI and the connection: nothing is wrapped around a request, so a streamed token passes no other layer."""

    def __init__(self, state: AppState, routes: tuple[Route, ...] = ROUTES) -> None:
        self._state = state
        self._routing = Routing(routes)
        self._keys = Keys(state.config.http)
        self._root = state.config.http.root_path
        self._cors = Cors(state.config.http, dict.fromkeys(route.method for route in routes))
        self._signature = (b"x-phalanx-api-server", str(state.engine.index).encode())
        self._running = 0
        """How many requests are being answered, without those that ask how things are or change them."""
        self._on_idle: Callable[[], None] | None = None

    def drain(self, on_idle: Callable[[], None]) -> None:
        """Take no new requests; `on_idle` is called once when none is running any more."""
        self._state.draining = True
        self._on_idle = on_idle
        self._tell_if_idle()

    def _tell_if_idle(self) -> None:
        if self._on_idle is not None and not self._running:
            on_idle, self._on_idle = self._on_idle, None
            on_idle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send, connection: ClientConnection) -> None:
        exchange = Exchange(scope, receive, send, connection)
        exchange.signature += self.mark(scope["headers"])
        if self._root:
            exchange.path = _below(self._root, exchange.path)
        place = self._routing.at(exchange.path)
        exchange.parameter = place.parameter
        route = place.methods.get(exchange.method)
        counts = route is not None and route.access is Access.KEY
        self._running += counts
        try:
            try:
                if self._cors.is_on and self._cors.is_preflight(exchange):
                    await self._cors.answer_preflight(exchange)
                    return
                self._keys.check(_access(place, route), exchange.header(b"authorization"))
                if counts and self._state.draining:
                    raise STOPPING.told()
                await self._check_route(exchange, place, route).handler(exchange, self._state)
            except ApiError as error:
                await self._give_up(exchange, error)
            except ClientGone:
                pass
            except asyncio.CancelledError:
                await self._cut_short(exchange)
            except Exception:
                log.exception("%s %s failed (%s)", exchange.method, exchange.path, exchange.request_id)
                await self._give_up(exchange, server_error("The server failed on this request; its log says why."))
        finally:
            self._running -= counts
            self._tell_if_idle()
            handler = "none" if route is None else route.path
            if self._state.config.http.log_requests and (route is None or route.access is not Access.OPEN):
                request_log.write(exchange, handler)
            method = exchange.method if route is not None else "other"
            status = "gone" if exchange.status is None else f"{exchange.status // 100}xx"
            self._state.metrics.http.add(1, handler, method, status)

    def mark(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """What every answer to a request with these headers carries beside its id."""
        marks = [self._signature]
        if self._cors.is_on:
            marks += self._cors.headers(header_of(headers, b"origin"))
        return marks

    @staticmethod
    def _check_route(exchange: Exchange, place: RouteMatch, route: Route | None) -> Route:
        if route is not None:
            encoding = exchange.header(b"content-encoding")
            if encoding not in (None, b"identity"):
                raise ApiError("Compressed request bodies are not supported.", status=415)
            return route
        if place.methods:
            allowed = ", ".join(place.methods)
            raise ApiError(
                f"{exchange.path} takes {allowed}, not {exchange.method}.",
                status=405,
                headers=((b"allow", allowed.encode()),),
            )
        raise ApiError(f"There is no {exchange.path[:200]} here; GET /openapi.json lists what is.", status=404)

    async def _cut_short(self, exchange: Exchange) -> None:
        """End an answer because the server stops while it works on it."""
        # Cancelled once more where the client does not read: it has had its second.
        with contextlib.suppress(asyncio.CancelledError):
            await self._give_up(exchange, STOPPING.told())

    @staticmethod
    async def _give_up(exchange: Exchange, error: ApiError) -> None:
        if exchange.has_begun:
            await exchange.end_events(b"data: %b\n\n" % error.body)
        else:
            await exchange.refuse(error)


def _below(root: str, path: str) -> str:
    """A path as the table of routes has it, whether the proxy in front has taken its own part of it away or not."""
    return (path[len(root) :] or "/") if path == root or path.startswith(f"{root}/") else path


def _access(place: RouteMatch, route: Route | None) -> Access:
    """Who may know what is at a path, or that nothing is: whoever holds the key that the path itself takes."""
    if route is not None:
        return route.access
    return Access.ADMIN if any(other.access is Access.ADMIN for other in place.methods.values()) else Access.KEY
