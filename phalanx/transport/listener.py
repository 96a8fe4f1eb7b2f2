"""Listening sockets: bound before anything that needs them starts, held, handed on (law 1).

Every function here returns a socket that already listens; nothing returns a bare port. Addresses are written
`unix:/path`, `tcp:host:port` and, where TLS is spoken, `tls:host:port`.
"""

import contextlib
import ctypes
import errno
import os
import socket
import struct
from pathlib import Path
from typing import Any

BACKLOG = 2048
"""The kernel cuts it to net.core.somaxconn. A dead server's connections wait here for its successor."""

WILDCARDS = ("0.0.0.0", "::")

PORTS_TRIED = 16
"""Ports that the kernel may choose, until one is free on every address of a name."""

SocketAddress = tuple[socket.AddressFamily, Any]
"""What `socket` and `bind` or `connect` take."""

HttpSockets = tuple[socket.socket, ...]
"""What one API server accepts clients from: a listening socket an address."""

_SO_ATTACH_FILTER = 26
_RETURN_ZERO = struct.pack("@HBBI", 0x06, 0, 0, 0)
"""A packet filter of one instruction: let 0 bytes of a packet pass (linux/filter.h)."""


class AddressInUse(OSError):
    """Somebody listens on the port already; says who where /proc shows it."""


def bind_unix(path: Path) -> socket.socket:
    """Listen on a socket file that only this user can reach."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def bind_tcp(host: str, port: int = 0) -> socket.socket:
    """Listen on an address of this machine that others can dial; port 0 lets the kernel choose.

    Raises:
        AddressInUse: the port is taken.
        OSError: the host is not an address of this machine, or the port needs privileges.
    """
    family, target = _resolve(host, port)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _refusal(error, host, target[1]) from None
    return sock


def bind_http(host: str, port: int, count: int) -> list[HttpSockets]:
    """Listening sockets for `count` API servers, all on one port, on every address that the host has.

    Port 0 lets the kernel choose one, the same on each address. Of a name with several addresses, those that this
    machine does not have are left out, such as ::1 where there is no IPv6.

    Raises:
        AddressInUse: the port is taken, on one address at least.
        OSError: the host is not an address of this machine, or the port needs privileges.
    """
    addresses = _resolve_all(host)
    for further in range(PORTS_TRIED if port == 0 else 1, 0, -1):
        try:
            return _bind_addresses(addresses, port, count)
        except AddressInUse:
            # What the kernel chose on one address may be taken on another.
            if further == 1:
                raise
    raise AssertionError("a port is tried at least once")


def _bind_addresses(addresses: list[SocketAddress], port: int, count: int) -> list[HttpSockets]:
    bound: list[list[socket.socket]] = []
    absent: OSError | None = None
    with contextlib.ExitStack() as stack:
        for family, target in addresses:
            try:
                sockets = _bind_shared(family, (target[0], port, *target[2:]), count, alone=len(addresses) == 1)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = absent or error
                continue
            bound.append([stack.enter_context(sock) for sock in sockets])
            port = sockets[0].getsockname()[1]
        if absent is not None and not bound:
            raise absent
        stack.pop_all()
    return list(zip(*bound, strict=True))


def _bind_shared(family: socket.AddressFamily, target: Any, count: int, alone: bool) -> list[socket.socket]:
    """`count` listening sockets at one address: the kernel spreads connections over them.

    The first is bound without SO_REUSEPORT, so it fails where anybody listens already, another service of the
    same user included; only then is the option set, which lets our own further sockets join.
    """
    with contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        try:
            for index in range(count):
                sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
                sockets.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6 and not alone:
                    # [::] would take the port of 0.0.0.0 as well.
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if index > 0:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.bind(target)
                if index == 0:
                    target = sock.getsockname()
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.listen(BACKLOG)
        except OSError as error:
            raise _refusal(error, *target[:2]) from None
        stack.pop_all()
    return sockets


def stop_accepting(sock: socket.socket) -> None:
    """Let nobody connect to a listening TCP socket any more, whichever processes hold it.

    Who waits in its queue can still be accepted. Closing our copy would not keep the kernel from filling it, and
    shutting it down resets who waits. Who connects now tries again by itself, and is refused once all have closed it.
    """
    nothing = ctypes.create_string_buffer(_RETURN_ZERO)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(nothing)))


def _refusal(error: OSError, host: str, port: int) -> OSError:
    where = spelt(host, port)
    if error.errno == errno.EADDRINUSE:
        holder = _holder_of_port(port) or "another process"
        return AddressInUse(errno.EADDRINUSE, f"{where} is in use by {holder}")
    return OSError(error.errno, f"cannot listen on {where}: {error.strerror}")


def spelt(host: str, port: int) -> str:
    """The address as a URL has it: `127.0.0.1:8000`, `[::1]:8000`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def address_of(sock: socket.socket, reached_at: str = "", *, encrypted: bool = False) -> str:
    """How to dial a listening socket.

    One that listens on every address of this machine is dialled at `reached_at`, an address of it. `encrypted` says
    that those who dial a TCP socket must speak TLS.

    Raises:
        ValueError: it listens on every address, and none is named.
    """
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[0], name[1]
    if host in WILDCARDS:
        if not reached_at or reached_at in WILDCARDS:
            raise ValueError(f"{host} is where to listen, not where to dial")
        host = reached_at
    return f"{'tls' if encrypted else 'tcp'}:{spelt(host, port)}"


def host_of(name: Any) -> str:
    """The host in what `getsockname` or `getpeername` gives; empty for a socket file."""
    return str(name[0]) if isinstance(name, tuple) else ""


def connect_target(address: str) -> SocketAddress:
    """Family and `connect()` argument of an address.

    Raises:
        ValueError: not an address, or port 0, which nobody can listen on.
    """
    scheme, _, rest = address.partition(":")
    if scheme == "unix" and rest:
        return socket.AF_UNIX, rest
    host, _, port = rest.rpartition(":")
    if scheme in ("tcp", "tls") and host and port.isdecimal() and 0 < int(port) < 65536:
        return _resolve(host.strip("[]"), int(port))
    raise ValueError(f"{address!r} is not an address that can be dialled")


def tune(sock: socket.socket) -> None:
    """Options of an engine-plane connection: no delay for small frames; a half-open TCP peer is noticed."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # What EOF cannot tell (law 3): a machine that vanished. 5 s idle, then 5 probes 2 s apart.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000)


def look_up(host: str, port: int) -> list[SocketAddress]:
    """The addresses of a host, by name or as they are written.

    Raises:
        socket.gaierror: there is no such host.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:
        # A label without letters, or one of more than 63.
        raise socket.gaierror(socket.EAI_NONAME, "it is no name of a host") from None
    return [(family, target) for family, _, _, _, target in found]


def _resolve(host: str, port: int) -> SocketAddress:
    return look_up(host, port)[0]


def _resolve_all(host: str) -> list[SocketAddress]:
    """Each address once, those of IPv4 first: their URLs can be pasted anywhere."""
    return sorted(dict.fromkeys(look_up(host, 0)), key=lambda address: address[0] != socket.AF_INET)


def _holder_of_port(port: int) -> str | None:
    """`name (pid N)` of a process that listens on a TCP port, as far as /proc lets us see."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table) as rows:
            next(rows)
            for row in rows:
                fields = row.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").iterdir() if inodes else ():
        if not process.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if any(os.readlink(entry) in inodes for entry in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"{command[:100] or '?'} (pid {process.name})"
    return None
