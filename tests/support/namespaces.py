"""Two machines that are none: network namespaces with a cable between them. Needs root."""

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest

HEAD, NODE = "10.77.0.1", "10.77.0.2"
"""Their addresses, which exist nowhere else: every port there is free."""


class Machines:
    def __init__(self, head: str, node: str) -> None:
        self._head = head
        self.on_head = ("ip", "netns", "exec", head)
        """What a command is preceded by to run there."""
        self.on_node = ("ip", "netns", "exec", node)

    def cut(self) -> None:
        """Pull the cable out."""
        _ip("-n", self._head, "link", "set", "cable", "down")


@contextlib.contextmanager
def two_machines() -> Iterator[Machines]:
    """Skips the test where this user may not make them."""
    head, node = f"ph-{os.getpid()}-head", f"ph-{os.getpid()}-node"
    try:
        _ip("netns", "add", head)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    try:
        _ip("netns", "add", node)
        _ip("-n", head, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", node)
        for machine, address in ((head, HEAD), (node, NODE)):
            _ip("-n", machine, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", machine, "link", "set", device, "up")
        yield Machines(head, node)
    finally:
        for machine in (head, node):
            subprocess.run(["ip", "netns", "delete", machine], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
