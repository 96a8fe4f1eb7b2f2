"""The actor that holds the resources of one worker of a rank, and runs its node.

Ray carries this class to the other machine by value, so that it can say there that phalanx is missing; nothing here
imports anything of the package.
"""

import collections
import importlib
import os
import subprocess
import sys
import threading

KEPT_LINES = 40
LINE_LIMIT = 4096
SECRET_VARIABLE = "PHALANX_SECRET"
"""The same as in `phalanx.child`, which cannot be imported here."""


class NodeActor:
    """The actor that runs in one bundle of a placement group."""

    def __init__(self) -> None:
        self._root = ""

    def inspect(self, version: str) -> str | None:
        """Why this machine cannot run a node of `version`; None if it can."""
        try:
            phalanx = importlib.import_module("phalanx")
            importlib.import_module("phalanx.child")
        except ImportError as error:
            return f"phalanx cannot be imported by {sys.executable} there ({error}): install phalanx {version}"
        found = str(phalanx.__version__)
        if found != version:
            return f"phalanx is {found} there, {version} here: install the same release"
        self._root = os.path.dirname(os.path.dirname(os.path.abspath(str(phalanx.__file__))))
        return None

    def run(self, command: list[str], secret: str, kept: list[str]) -> tuple[int, list[str]]:
        """Run `python COMMAND --parent-pid OURS` until it ends: its exit status and its last lines.

        It gets what Ray set for this actor (CUDA_VISIBLE_DEVICES) and `--ray-runtime-env` asked for, but nothing that
        is meant for Ray itself. The secret travels in a call's arguments, which Ray sends straight to this process
        and shows nowhere, and from here in the environment, never in a command line.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        if "OMP_NUM_THREADS" not in kept:
            # Ray's default for an actor that holds no CPU is a single thread; the rank decides on its own.
            environment.pop("OMP_NUM_THREADS", None)
        if os.path.basename(self._root) not in ("site-packages", "dist-packages"):
            # Ray may have made it importable for this process alone, as it does with a driver's working folder.
            paths = [self._root, *environment.get("PYTHONPATH", "").split(os.pathsep)]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, dict.fromkeys(paths)))
        environment[SECRET_VARIABLE] = secret
        # From the thread that stays for as long as the node does: the kernel kills the node with its parent thread.
        process = subprocess.Popen(
            [sys.executable, *command, "--parent-pid", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        tail: collections.deque[str] = collections.deque(maxlen=KEPT_LINES)

        def read() -> None:
            assert process.stdout is not None
            while data := process.stdout.readline(LINE_LIMIT):
                line = data.decode(errors="replace").rstrip()
                if line:
                    tail.append(line)
                    print(line, flush=True)  # into Ray's own log of this actor

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        status = process.wait()
        reader.join(1.0)  # a process that outlived the node may still hold the pipe
        return status, list(tail)
