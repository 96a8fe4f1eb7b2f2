"""The command line: one file a command."""

import os
import sys
from collections.abc import Sequence
from typing import Protocol

import phalanx
from phalanx import signals, streams
from phalanx.checkpoint.errors import CheckpointError
from phalanx.cli import chaos, join, ranks, scale, serve
from phalanx.cli.options import UsageError, nearest
from phalanx.streams import OutputLost
from phalanx.supervisor.events import ExitCode


class Command(Protocol):
    """The module of one command."""

    SUMMARY: str

    def run(self, arguments: Sequence[str]) -> int:
        """Run the command, and return the exit status."""


_COMMANDS: dict[str, Command] = {
    "serve": serve,
    "join": join,
    "ranks": ranks,
    "scale": scale,
    "chaos": chaos,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `phalanx ARGUMENTS`, and return the exit status."""
    streams.prepare()
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    program = f"phalanx {command}" if command in _COMMANDS else "phalanx"
    try:
        return _run(command, rest)
    except (UsageError, CheckpointError) as error:
        streams.say(sys.stderr, f"{program}: {error}")
        return ExitCode.USAGE
    except FileNotFoundError:
        if not _working_folder_is_gone():
            raise
        advice = "go to another one, or give the whole path of each file"
        streams.say(sys.stderr, f"{program}: the working folder was deleted: {advice}")
        return ExitCode.USAGE
    except OutputLost as lost:
        if lost.reason:
            streams.say(sys.stderr, f"{program}: standard output cannot be written: {lost.reason}")
        return ExitCode.FAILED


def _run(command: str, arguments: Sequence[str]) -> int:
    if command in ("--version", "-V"):
        streams.show(f"phalanx {phalanx.__version__}")
        return ExitCode.OK
    if command in ("--help", "-h", "help"):
        summaries = [f"  {name:<10} {module.SUMMARY}" for name, module in _COMMANDS.items()]
        further = "phalanx COMMAND --help tells a command's options; phalanx --version the version."
        streams.show("\n".join(["usage: phalanx COMMAND [options]", "", *summaries, "", further]))
        return ExitCode.OK
    if command not in _COMMANDS:
        raise UsageError(f"{command} is not a command{nearest(command, _COMMANDS)}")
    signals.accept_at_start()
    return _COMMANDS[command].run(arguments)


def _working_folder_is_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
