"""The command line: one file a command."""

import sys
from collections.abc import Sequence
from typing import Protocol

import phalanx
from phalanx import signals
from phalanx.checkpoint.errors import CheckpointError
from phalanx.cli import chaos, join, ranks, scale, serve
from phalanx.cli.options import UsageError, nearest
from phalanx.supervisor.events import ExitCode


class Command(Protocol):
    """The module of one command."""

    SUMMARY: str

    def run(self, arguments: Sequence[str]) -> int:
        """Run it; returns the exit status."""


_COMMANDS: dict[str, Command] = {
    "serve": serve,
    "join": join,
    "ranks": ranks,
    "scale": scale,
    "chaos": chaos,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `phalanx ARGUMENTS`; returns the exit status."""
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if command in ("--version", "-V"):
        print(f"phalanx {phalanx.__version__}")
        return ExitCode.OK
    if command in ("--help", "-h", "help"):
        print("usage: phalanx COMMAND [options]\n")
        for name, module in _COMMANDS.items():
            print(f"  {name:<10} {module.SUMMARY}")
        print("\nphalanx COMMAND --help tells a command's options; phalanx --version the version.")
        return ExitCode.OK
    if command not in _COMMANDS:
        print(f"phalanx: {command} is not a command{nearest(command, _COMMANDS)}", file=sys.stderr)
        return ExitCode.USAGE
    signals.accept_at_start()
    try:
        return _COMMANDS[command].run(rest)
    except (UsageError, CheckpointError) as error:
        print(f"phalanx {command}: {error}", file=sys.stderr)
        return ExitCode.USAGE
