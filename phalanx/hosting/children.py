"""The program, arguments and environment with which a child is started."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence

from phalanx.protocol import ChildId, Role
from phalanx.transport.audit import audited
from phalanx.transport.security import Security

MODULES: Mapping[Role, str] = {
    Role.API: "phalanx.api",
    Role.ENGINE: "phalanx.engine",
    Role.RAY: "phalanx.ray_backend",
}

_NOT_THEIRS = ("PHALANX_API_KEY", "PHALANX_ADMIN_KEY", "NOTIFY_SOCKET")
"""Variables that are meant for the supervisor alone."""

Commands = Mapping[Role, Sequence[str]]
"""The program of each role, with the arguments that come first."""


def own_commands(frontend: str | None = None) -> Commands:
    """Each role's module, run by this interpreter; `frontend` is a command line to run as API server instead."""
    commands: dict[Role, Sequence[str]] = {role: python(module) for role, module in MODULES.items()}
    if frontend is not None:
        commands[Role.API] = shlex.split(frontend)
    return commands


def python(module: str) -> tuple[str, ...]:
    """-P: a child must not import from the folder the service was started in, unless this process itself does."""
    safe = ("-P",) if sys.flags.safe_path or not _imports_from_working_folder() else ()
    return (sys.executable, *safe, "-m", module)


def _imports_from_working_folder() -> bool:
    try:
        return os.getcwd() in sys.path
    except OSError:
        return False  # It was deleted.


def arguments(control: str, child: ChildId) -> list[str]:
    """The arguments after the program: the control address, which listens already, and which child this is."""
    place = child.place
    worker = ["--worker", str(place.worker)] if place.worker else []
    return [
        *("--control", audited(control)),
        *("--index", str(place.index), "--incarnation", str(child.incarnation)),
        *worker,
    ]


def environment(security: Security, further: Mapping[str, str] | None = None) -> dict[str, str]:
    """A child's whole environment: this process's, `further`, and what proves that it belongs to the service."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_THEIRS}
    return {
        **security.handed_on({**kept, **(further or {})}),
        # Last words must not sit in a buffer when the process dies, nor a native crash die silently.
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        # What is read is read as UTF-8, whatever the locale.
        "PYTHONIOENCODING": "utf-8:backslashreplace",
    }
