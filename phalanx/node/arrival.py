"""Reaching the supervisor: it may not run yet, its machine may not have a name yet."""

import asyncio
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from phalanx import running_time
from phalanx.node.errors import NodeError
from phalanx.transport.channel import Channel, FrameError, HandshakeRefused, Untrusted, dial
from phalanx.transport.listener import look_up
from phalanx.transport.security import Security

ATTEMPT = 10.0
"""Seconds one attempt may take: a machine that is down does not answer, and may be up a moment later."""

PAUSE = 0.5
"""Seconds between attempts."""

T = TypeVar("T")


async def reach(
    control: str, security: Security, patience: float, waiting: Callable[[str], None], source: str = ""
) -> tuple[Channel, str]:
    """Dial until the supervisor has accepted us, for `patience` seconds and at least once.

    Returns the connection, and the address that answered, where `control` has a name.

    `waiting` is told what keeps us from it, once a reason. `source` is the address of this machine to dial from;
    empty: the system's choice.

    Raises:
        NodeError: nobody answered in time, or who did is no supervisor or has another secret.
    """
    deadline = running_time.now() + patience
    told = ""
    while True:
        allowed = max(1.0, min(ATTEMPT, deadline - running_time.now())) if patience else ATTEMPT
        trouble = ""
        try:
            # A name that does not resolve keeps its thread longer than any socket's timeout.
            async with running_time.timeout(allowed + 1.0):
                return await in_thread(partial(_dial_each, control, security, allowed, source))
        except Untrusted as error:
            raise NodeError(f"{control}: {error}") from None
        except HandshakeRefused as refused:
            raise NodeError(
                f"{control}: {refused}; PHALANX_SECRET and the version of Phalanx must be the same at both ends"
            ) from None
        except FrameError as error:
            raise NodeError(f"what listens at {control} is not the control port of a service: {error}") from None
        except TimeoutError:
            trouble = f"it does not answer within {allowed:.0f} s"
        except OSError as error:
            trouble = error.strerror or str(error)
        if running_time.now() + PAUSE >= deadline:
            within = f" within {patience:g} s" if patience else ""
            raise NodeError(f"no service at {control}{within}: {trouble}")
        if trouble != told:
            told = trouble
            waiting(trouble)
        await asyncio.sleep(PAUSE)


def _dial_each(control: str, security: Security, timeout: float, source: str) -> tuple[Channel, str]:
    """A name may have addresses of both families while the service listens on one."""
    scheme, _, rest = control.partition(":")
    host, _, port = rest.rpartition(":")
    trouble: OSError | None = None
    for family, target in look_up(host.strip("[]"), int(port)):
        found = f"[{target[0]}]" if family == socket.AF_INET6 else target[0]
        address = f"{scheme}:{found}:{port}"
        try:
            return dial(address, security, timeout, source), address
        except (HandshakeRefused, FrameError):
            raise
        except OSError as error:
            trouble = error
    assert trouble is not None, "a name that resolves has an address"
    raise trouble


async def in_thread(work: Callable[[], T]) -> T:
    """Run what blocks beside the loop. Whoever stops waiting leaves it behind: the process ends without it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as failure:
            error = failure
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            pass  # The loop is closed: nobody waits any more.

    threading.Thread(target=run, name="node work", daemon=True).start()
    return await done
