"""Nodes under test: processes of their own, alone or with stand-ins as children."""

import json
import sys
from pathlib import Path

from support.fake_supervisor import SECRET
from support.service import Service

NODE = (sys.executable, "-m", "phalanx.node")
STAND_IN_NODE = (sys.executable, str(Path(__file__).with_name("stand_in_node.py")))
JOIN = (sys.executable, "-m", "phalanx", "join")


class Program(Service):
    """A program that ends with its service, read and swept as a service is."""

    takes_port = False


def node(control: str, *ranks: int, flags: tuple[str, ...] = (), env: dict[str, str] | None = None) -> Program:
    """`python -m phalanx.node`, whose children are the real ones."""
    return Program(*_arguments(control, ranks), *flags, command=NODE, env={"PHALANX_SECRET": SECRET, **(env or {})})


def stand_in_node(control: str, *ranks: int, flags: tuple[str, ...] = (), env: dict[str, str] | None = None) -> Program:
    """The same with `stand_in_child.py` as every child; what it does is told by DEED in its environment."""
    environment = {"PHALANX_SECRET": SECRET, **(env or {})}
    return Program(*_arguments(control, ranks), *flags, command=STAND_IN_NODE, env=environment)


def join(
    control: str,
    first: int,
    count: int,
    *flags: str,
    env: dict[str, str] | None = None,
    on: tuple[str, ...] = (),
    program: tuple[str, ...] = JOIN,
) -> Program:
    """`phalanx join`; `on` precedes the command, to run it elsewhere."""
    ranks = ("--data-parallel-start-rank", str(first), "--data-parallel-size-local", str(count))
    environment = {"PHALANX_SECRET": SECRET, **(env or {})}
    return Program("--control", control, *ranks, *flags, command=(*on, *program), env=environment)


def _arguments(control: str, ranks: tuple[int, ...]) -> tuple[str, ...]:
    return ("--control", control, "--places", json.dumps([["engine", rank, 0] for rank in ranks]))
