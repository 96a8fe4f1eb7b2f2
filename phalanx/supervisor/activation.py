"""HTTP sockets that a service manager bound and passed (sd_listen_fds(3)).

It holds them too, across restarts of the service: who connects while nobody serves waits in their backlogs (law 1).
"""

import contextlib
import errno
import os
import socket
from collections.abc import MutableMapping, Sequence

from phalanx.child import FIRST_INHERITED
from phalanx.transport.listener import BACKLOG, WILDCARDS, HttpSockets, look_up, spelt

NAME = "http"
"""FileDescriptorName= of the sockets: a descriptor meant for something else is never taken for one."""


class UnfitSockets(OSError):
    """What was passed cannot be served on; says which and what to change."""


def passed_sockets(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that this process was started with; once. Empty: none.

    The variables leave `environment`: they are about this process's descriptors, not about its children's.

    Raises:
        UnfitSockets: one is not a listening TCP socket or socket file named `http`.
    """
    pid, count, names = (environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()):
        return []  # Meant for another process, which forgot to take them out of the environment.
    if not count.isdecimal():
        raise UnfitSockets(f"LISTEN_FDS={count} is not a number of descriptors")
    named = names.split(":") if names else []
    descriptors = range(FIRST_INHERITED, FIRST_INHERITED + int(count))
    if len(named) != len(descriptors):
        raise UnfitSockets(
            f"{len(descriptors)} sockets were passed and {len(named)} names (LISTEN_FDNAMES={names}): "
            f"set FileDescriptorName={NAME} in the socket unit"
        )
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(_taken(number, name)) for number, name in zip(descriptors, named, strict=True)]
        if len({sock.getsockname()[1] for sock in on_ports(sockets)}) > 1:
            raise UnfitSockets(
                f"the sockets passed listen at {_listed(sockets)}, and a service has one HTTP address, or several with "
                "one port: let every ListenStream= have the same"
            )
        stack.pop_all()
    return sockets


def on_ports(sockets: Sequence[socket.socket]) -> list[socket.socket]:
    """Those of them that are no socket files."""
    return [sock for sock in sockets if sock.family != socket.AF_UNIX]


def check_address(sockets: Sequence[socket.socket], host: str | None, port: int | None) -> None:
    """The sockets that were passed win over --host and --port, which may say the same but nothing else.

    `host`, `port`: as they were asked for; None: they were not.

    Raises:
        UnfitSockets: they name another address.
    """
    names = [sock.getsockname() for sock in on_ports(sockets)]
    if port and {port} != {name[1] for name in names}:
        wanted = f"--port {port}"
    elif host is not None and not (names and {name[0] for name in names} <= _addresses(host)):
        wanted = f"--host {host}"
    else:
        return
    raise UnfitSockets(
        f"{wanted} contradicts the sockets that the service manager passed, which listen at {_listed(sockets)}: "
        "leave --host and --port out, or change ListenStream= in the socket unit"
    )


def dealt_by_address(sockets: Sequence[socket.socket], api_servers: int) -> list[HttpSockets]:
    """Deal the sockets to the API servers: each gets one at each address.

    Raises:
        UnfitSockets: nobody would accept from some of them.
    """
    addresses = dict.fromkeys(sock.getsockname() for sock in sockets)
    at_each = [[sock for sock in sockets if sock.getsockname() == address] for address in addresses]
    return list(zip(*(dealt(some, api_servers) for some in at_each), strict=True))


def dealt(sockets: Sequence[socket.socket], api_servers: int) -> list[socket.socket]:
    """Deal the k sockets of one address to the API servers: server i gets socket i mod k, so that some may share one.

    Raises:
        UnfitSockets: nobody would accept from some of them.
    """
    if len(sockets) > api_servers:
        raise UnfitSockets(
            f"{len(sockets)} sockets were passed for {api_servers} API server{'s' if api_servers > 1 else ''}: clients "
            f"whose connections the kernel puts into the others would wait for ever. Give --api-server-count "
            f"{len(sockets)}, or take ListenStream= lines out of the socket unit"
        )
    further = [sockets[index % len(sockets)].dup() for index in range(len(sockets), api_servers)]
    return [*sockets, *further]


def _taken(descriptor: int, name: str) -> socket.socket:
    """Raises UnfitSockets where it is nothing to accept HTTP connections from."""
    which = f"descriptor {descriptor} that the service manager passed ({name})"
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        what = "is not open" if error.errno == errno.EBADF else "is no socket"
        raise UnfitSockets(f"{which} {what}") from None
    try:
        _check(sock, which, name)
    except BaseException:
        sock.close()
        raise
    return sock


def _check(sock: socket.socket, which: str, name: str) -> None:
    if name != NAME:
        raise UnfitSockets(f"{which} is not named {NAME}: set FileDescriptorName={NAME} in the socket unit")
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX) or sock.type != socket.SOCK_STREAM:
        raise UnfitSockets(
            f"{which} is no TCP socket and no socket file: ListenStream= takes a port, an address and a port, or a path"
        )
    if isinstance(sock.getsockname(), bytes):
        raise UnfitSockets(
            f"{which} has an abstract name, which every user may connect to: let ListenStream= name a path, and "
            "SocketMode= who may"
        )
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return
    if _is_connected(sock):
        raise UnfitSockets(f"{which} is a connection and not a listening socket: set Accept=no in the socket unit")
    if not sock.getsockname() or sock.getsockname()[1] == 0:
        raise UnfitSockets(f"{which} does not listen, and has no {_place(sock)} to listen on")
    # An earlier run gave up the API server of this socket, and shut it for everybody: see `Sockets.retire`.
    sock.listen(BACKLOG)


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _addresses(host: str) -> set[str]:
    """What the socket may be bound to where `host` is asked for."""
    found = {str(target[0]) for _, target in look_up(host, 0)}
    # systemd's `ListenStream=8000` is [::], which takes IPv4 as well.
    return found | set(WILDCARDS) if found & set(WILDCARDS) else found


def _listed(sockets: Sequence[socket.socket]) -> str:
    return " and ".join(sorted({_spelt(sock) for sock in sockets}))


def _spelt(sock: socket.socket) -> str:
    name = sock.getsockname()
    return str(name) if sock.family == socket.AF_UNIX else spelt(*name[:2])


def _place(sock: socket.socket) -> str:
    return "path" if sock.family == socket.AF_UNIX else "port"
