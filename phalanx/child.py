"""The life of a child of the supervisor, the same for an API server and a rank: enlist, report, end.

A child is told one address, the supervisor's control endpoint, and learns all else over it (law 2).
"""

import argparse
import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import msgspec
import setproctitle

from phalanx.protocol import (
    ApiServers,
    Failed,
    Hello,
    Incarnation,
    Place,
    Pulse,
    Ready,
    Refused,
    Role,
    Share,
    Stage,
    StartupStage,
    ToChild,
    ToSupervisor,
    Welcome,
)
from phalanx.transport.channel import Channel, dial
from phalanx.transport.security import SECRET_VARIABLE, Security
from phalanx.transport.tls import FilesError

FIRST_INHERITED = 3
"""Inherited sockets start at this descriptor, by the systemd convention (sd_listen_fds(3))."""

EXIT_FAILED = 1
EXIT_ORPHANED = 70
"""The supervisor is gone; nobody will read this status, a log of the machine may."""

DIAL_TIMEOUT = 30.0
PULSE = 1.0
"""Seconds between two signs of life."""


@dataclass(frozen=True)
class Launch:
    """The command line, environment and sockets with which a child was started."""

    control: str
    index: int
    incarnation: Incarnation
    security: Security = field(repr=False)
    sockets: Mapping[str, Sequence[socket.socket]]
    """The inherited sockets by name. `engine` may be several: a socket file, and TCP for ranks on other machines."""
    worker: int = 0

    @staticmethod
    def from_process(arguments: list[str]) -> "Launch":
        """Read the command line, the secret and the inherited sockets of this process.

        The secret leaves the environment here, so nothing this process starts or prints inherits it.
        """
        parser = argparse.ArgumentParser(description="A child of the supervisor; not meant to be started by hand.")
        parser.add_argument("--control", required=True, help="the supervisor's control address")
        parser.add_argument("--index", required=True, type=int, help="API server number or rank")
        parser.add_argument("--incarnation", type=int, default=0)
        parser.add_argument("--worker", type=int, default=0, help="tensor-parallel worker of the rank")
        options = parser.parse_args(arguments)
        try:
            security = Security.taken_from(os.environ)
        except FilesError as error:
            parser.error(str(error))
        if security is None:
            parser.error(f"{SECRET_VARIABLE} is not set: this program is started by `phalanx serve`")
        return Launch(
            options.control,
            options.index,
            Incarnation(options.incarnation),
            security,
            _inherited_sockets(),
            options.worker,
        )


def _inherited_sockets() -> dict[str, list[socket.socket]]:
    """The sockets this process was handed, by name; once."""
    if os.environ.pop("LISTEN_PID", None) != str(os.getpid()):
        return {}
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    sockets: dict[str, list[socket.socket]] = {}
    for name, descriptor in zip(names, range(FIRST_INHERITED, FIRST_INHERITED + count), strict=True):
        os.set_inheritable(descriptor, False)
        sockets.setdefault(name, []).append(socket.socket(fileno=descriptor))
    return sockets


class Control:
    """The connection to the supervisor."""

    def __init__(self, channel: Channel, welcome: Welcome, launch: Launch) -> None:
        self._channel = channel
        self.config = welcome.config
        self.api_servers: ApiServers = welcome.api_servers
        """The API servers at the time of Welcome; changes arrive as messages."""
        self.leader = welcome.leader
        self.counted = welcome.counted
        self.share = welcome.share or Share()
        """The part of its machine that a rank was told last."""
        self.security = launch.security

    def send(self, message: ToSupervisor) -> None:
        """Tell the supervisor something, from any thread.

        Ends this process where the supervisor is gone: whichever thread finds that out first, the process ends as
        an orphan, and not as one that failed.
        """
        try:
            self._channel.send(message)
        except ConnectionError:
            os._exit(EXIT_ORPHANED)

    def stage(self, stage: StartupStage, progress: float | None = None, detail: str = "") -> None:
        self.send(Stage(stage, progress, detail))

    def ready(self, detail: str = "", drains: bool = False) -> None:
        self.send(Ready(detail, drains))

    def pulse(self, measure: Callable[[], tuple[int, bool]]) -> None:
        """Tell every second, on a thread of its own, what `measure` gives: rounds made, and whether there is work."""

        def beat() -> NoReturn:
            while True:
                time.sleep(PULSE)
                self.send(Pulse(*measure()))

        threading.Thread(target=beat, name="pulse", daemon=True).start()

    def failed(self, error: BaseException) -> None:
        """Say why this child is about to end; the caller exits with EXIT_FAILED."""
        self.send(Failed(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))))

    def refused(self, reason: str) -> None:
        """Say that what the service was given cannot be served; no traceback would help. The caller exits likewise."""
        self.send(Failed(reason))


def enlist(launch: Launch, role: Role, on_message: Callable[[ToChild], None]) -> Control:
    """Join the service: dial control, say Hello, take the configuration, watch for the supervisor's end.

    `on_message` is called on the watching thread, for every message after Welcome. When the control connection
    ends, this process ends at once, whatever its other threads do.

    Raises:
        ConnectionError, TimeoutError: no supervisor at the address, or it refused us; says why.
    """
    faulthandler.enable()
    setproctitle.setproctitle(f"phalanx {Place(role, launch.index, launch.worker)}")
    channel = dial(launch.control, launch.security, DIAL_TIMEOUT)
    channel.send(Hello(role, launch.index, launch.incarnation, os.getpid(), launch.worker))
    decoder: msgspec.msgpack.Decoder[ToChild] = msgspec.msgpack.Decoder(ToChild)
    welcome = channel.receive(decoder)
    if isinstance(welcome, Refused):
        raise ConnectionRefusedError(f"the supervisor refused us: {welcome.reason}")
    if not isinstance(welcome, Welcome):
        raise ConnectionError(f"the supervisor answered Hello with {type(welcome).__name__}")

    control = Control(channel, welcome, launch)

    def watch() -> NoReturn:
        try:
            while True:
                message = channel.receive(decoder)
                if isinstance(message, Share):
                    control.share = message
                on_message(message)
        except ConnectionError:
            os._exit(EXIT_ORPHANED)
        except BaseException:
            # A defect in a message handler must not leave a child that nobody can stop any more.
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(EXIT_FAILED)

    threading.Thread(target=watch, name="control", daemon=True).start()
    return control
