"""Control connections: who says Hello, and what comes after it."""

import logging
from typing import Protocol

import msgspec

from phalanx import running_time
from phalanx.protocol import ChildId, Hello, NodeHello, Refused, ToSupervisor
from phalanx.supervisor import events
from phalanx.transport import stream
from phalanx.transport.frames import FrameError

log = logging.getLogger(__name__)

_decoder: msgspec.msgpack.Decoder[ToSupervisor] = msgspec.msgpack.Decoder(ToSupervisor)


class Receiver(Protocol):
    """The supervisor, as far as its connections need it."""

    def take(self, event: events.FleetEvent) -> None: ...

    def greeted(self, handler: "ControlHandler", hello: Hello) -> None:
        """Answered by `bind` or `refuse`, before it returns."""

    def node_greeted(self, handler: "ControlHandler", hello: NodeHello) -> None: ...

    def received(self, child: ChildId, message: ToSupervisor) -> None: ...

    def disconnected(self, child: ChildId, reason: str) -> None: ...


class ControlHandler:
    """One control connection: Hello first, then the messages of that child."""

    def __init__(self, supervisor: Receiver, connection: stream.Connection) -> None:
        self._supervisor = supervisor
        self.connection = connection
        self._child: ChildId | None = None

    def bind(self, child: ChildId) -> stream.Connection:
        self._child = child
        return self.connection

    def refuse(self, reason: str, told: bool = False) -> None:
        if not told:
            log.warning("refused a control connection: %s", reason)
        self.connection.send(Refused(reason))
        self.connection.close()

    def received(self, body: bytes) -> None:
        try:
            self._take(body)
        except FrameError as error:
            if self._child is not None:
                # The exit that follows would say less.
                self._supervisor.take(events.Reported(running_time.now(), self._child, str(error), ""))
            raise

    def _take(self, body: bytes) -> None:
        try:
            message = _decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise FrameError(f"{self._child or 'a peer'} sent what is no message: {error}") from error
        if self._child is not None:
            self._supervisor.received(self._child, message)
        elif isinstance(message, Hello):
            self._supervisor.greeted(self, message)
        elif isinstance(message, NodeHello):
            self._supervisor.node_greeted(self, message)
        else:
            raise FrameError(f"a peer sent {type(message).__name__} before Hello")

    def closed(self, reason: str) -> None:
        if self._child is not None:
            self._supervisor.disconnected(self._child, reason)
