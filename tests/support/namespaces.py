"""Two machines that are none: network namespaces with a cable between them, each with a kernel's name and a memory of
its own. Needs root."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HEAD, NODE = "10.77.0.1", "10.77.0.2"
"""Their addresses, which exist nowhere else: every port there is free."""


MEMORY = {HEAD: 2**30, NODE: 2**31}
"""Bytes that are free on each, as its /proc tells."""

PROC = {
    "meminfo": "MemTotal: {total} kB\nMemFree: {free} kB\nMemAvailable: {free} kB\n",
    "sys/kernel/random/boot_id": "{name}\n",
}


class Machines:
    def __init__(self, head: str, node: str, folder: Path) -> None:
        self._head = head
        self.on_head = _inside(head, HEAD, folder / "head")
        """What a command is preceded by to run there."""
        self.on_node = _inside(node, NODE, folder / "node")

    def cut(self) -> None:
        """Pull the cable out."""
        _ip("-n", self._head, "link", "set", "cable", "down")


def _inside(namespace: str, address: str, folder: Path) -> tuple[str, ...]:
    """Runs a command in the namespace, which the kernel shows files of this folder in place of its own."""
    mounts = []
    for name, text in PROC.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.format(name=namespace, free=MEMORY[address] // 1024, total=MEMORY[address] // 512))
        mounts.append(f"mount --bind {file} /proc/{name}")
    # `ip netns exec` gives each command a mount namespace: nobody else sees these.
    return ("ip", "netns", "exec", namespace, "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh")


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
        with tempfile.TemporaryDirectory(prefix="ph-machines-") as folder:
            yield Machines(head, node, Path(folder))
    finally:
        for machine in (head, node):
            subprocess.run(["ip", "netns", "delete", machine], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
