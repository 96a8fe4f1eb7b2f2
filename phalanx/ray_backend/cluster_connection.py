"""Join the Ray cluster that was asked for, or the one on this machine, or start one for this service alone."""

import contextlib
import ipaddress
import json
import logging
import os
import secrets
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Ray reads these when it is imported: how long it asks, in silence, a head that does not answer.
os.environ.setdefault("RAY_gcs_server_request_timeout_seconds", "10")
# And how many milliseconds it waits for word of why an actor died, before it says that the actor is unavailable.
os.environ.setdefault("RAY_timeout_ms_task_wait_for_death_info", "10000")

import ray
from ray._private import ray_constants, services, worker
from ray._private.utils import read_ray_address

from phalanx.ray_backend import cleanup_process
from phalanx.ray_backend.errors import ClusterError, in_short
from phalanx.ray_backend.liveness import dial
from phalanx.signals import ignored_ones_kept
from phalanx.transport.private_folder import PrivateFolder

OBJECT_STORE = 80 * 2**20
"""Bytes of a private cluster's object store; nothing is ever put there. Ray's minimum is 75 MiB."""
TRIES = 3
"""Times that Ray asks a head to let us in, a second apart."""


@dataclass(frozen=True)
class ClusterChoice:
    """Which cluster is meant: `address` is None to start one, and `source` says who asked for it."""

    address: str | None
    source: str
    must: bool = True
    """Whether it is an error that nobody answers there; otherwise a cluster is started instead."""


def choose_cluster(option: str | None, environment: str | None, running: str | None) -> ClusterChoice:
    """The cluster of `--ray-address`, else of RAY_ADDRESS, else the last one started on this machine, else a new one.

    Raises:
        ClusterError: the address is one of Ray Client.
    """
    for address, source in ((option, "--ray-address"), (environment, "RAY_ADDRESS")):
        if not address or address == "auto":
            continue
        if address == "local":
            return ClusterChoice(None, source)
        if "://" in address:
            raise ClusterError(f"{source} {address}: give HOST:PORT of the Ray head; Ray Client is not used")
        return ClusterChoice(address, source)
    return ClusterChoice(running, "the cluster last started on this machine", must=False)


@dataclass
class ClusterConnection:
    """This process is a driver of a cluster."""

    head: str
    """HOST:PORT of the Ray head."""
    local_address: str
    """This machine's address, as a connection to the head shows it."""
    private: "PrivateCluster | None"
    """The cluster that was started for this process alone, which ends with it."""

    @property
    def head_target(self) -> tuple[str, int]:
        return _split(self.head)

    def leave(self) -> None:
        """Leave the cluster, or end a private one without a trace. May block while the cluster is in trouble."""
        try:
            ray.shutdown(wait_for_processes=True)
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Have the cleanup process end what is left of a private cluster, and wait for that."""
        if self.private is not None:
            self.private.end()
            self.private = None


class PrivateCluster:
    """A cluster that this process starts for itself: its folder, and the process that cleans up after it."""

    def __init__(self) -> None:
        # Short: Ray keeps socket files 80 characters below it, and the kernel allows 107.
        self._folder = PrivateFolder(Path("/tmp"))
        self._cleanup = cleanup_process.start(self._folder.path)
        self.settings = {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
            "_temp_dir": str(self._folder.path),
        }
        # Ray lets only holders of a token in, and would write a lasting one into the home folder.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

    def end(self) -> None:
        assert self._cleanup.stdin is not None
        self._cleanup.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._cleanup.wait(cleanup_process.LIMIT)
        self._folder.close()


def connect(
    option: str | None, environment: dict[str, Any], cpus: int | None, tell: Callable[[str], None]
) -> ClusterConnection:
    """Make this process a driver of the cluster that is meant.

    Args:
        option: the value of `--ray-address`.
        environment: Ray's runtime environment of all actors.
        cpus: the number of CPUs that a private cluster says it has; None for those that the machine has.
        tell: is called with a line about what is being done.

    Raises:
        ClusterError: nobody answers there, or it does not let us in; says which and why.
    """
    wanted = choose_cluster(option, os.environ.pop("RAY_ADDRESS", None), read_ray_address(None))
    settings: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "namespace": "phalanx",
        "runtime_env": environment,
    }
    head = None
    if wanted.address is not None:
        head = _canonical(wanted)
        tell(f"joining the Ray cluster at {head}")
        try:
            dial(*_split(head)).close()
        except OSError as error:
            if wanted.must:
                raise ClusterError(
                    f"{wanted.source} {wanted.address}: no Ray cluster answers there ({error.strerror or error})"
                ) from None
            head = None
    private = None
    if head is not None:
        settings["address"] = head
        # It listens already; one that turns us away does so at the twentieth try as at the first.
        ray_constants.NUM_REDIS_GET_RETRIES = TRIES
    else:
        tell("starting a Ray cluster on this machine")
        private = PrivateCluster()
        settings |= {**private.settings, "num_cpus": cpus}
    # Told not to pass logs on, Ray still prints what its raylets complain of, with the last 20 lines of their logs.
    # What concerns a rank comes as an exception, and is told by name.
    worker._worker_logs_enabled = False
    try:
        with ignored_ones_kept():
            ray.init(**settings)
        head = str(ray.get_runtime_context().gcs_address)
        with contextlib.closing(dial(*_split(head))) as sock:
            local_address = sock.getsockname()[0]
    except Exception as error:
        if private is not None:
            private.end()
            raise ClusterError(f"a Ray cluster could not be started on this machine: {in_short(error)}") from error
        raise ClusterError(_why_not(head or "", wanted, error)) from error
    return ClusterConnection(head, local_address, private)


def loopback_trouble(address: str, nodes: list[str]) -> str | None:
    """Why nodes must not be told to dial this machine at `address`; None if they may."""
    elsewhere = [node for node in nodes if not _is_loopback(node)]
    if not _is_loopback(address) or not elsewhere:
        return None
    return (
        f"the Ray head is reached from {address}, where {elsewhere[0]} cannot dial this machine: "
        "say --data-parallel-address"
    )


def _why_not(head: str, wanted: ClusterChoice, error: Exception) -> str:
    """The sentence that says what Ray's refusal means, and what to do."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    words = " ".join(str(each) for each in chain)
    where = f"the Ray cluster at {head}"
    if "Version mismatch" in words:
        return f"{where} runs another release than this machine: {in_short(error)}"
    if "uthentic" in words or "auth token" in words.lower():
        mode = os.environ.get("RAY_AUTH_MODE", "unset")
        return (
            f"{where} does not let us in: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to the "
            f"cluster's own (RAY_AUTH_MODE is {mode})"
        )
    if "No node info found" in words:
        return (
            f"this machine is no node of {where}: run `ray start --address={head}` here, or start from one of its nodes"
        )
    return f"{where} ({wanted.source}) cannot be joined: {in_short(chain[-1])}"


def _canonical(wanted: ClusterChoice) -> str:
    try:
        address = services.canonicalize_bootstrap_address(wanted.address)
        assert address is not None
        _split(address)
    except Exception as error:
        raise ClusterError(f"{wanted.source} {wanted.address}: not HOST:PORT ({error})") from None
    return str(address)


def runtime_environment(option: str | None) -> dict[str, Any]:
    """Read `--ray-runtime-env`: JSON, or the name of a file with JSON. Raises ClusterError."""
    if option is None:
        return {}
    try:
        found = json.loads(option if option.lstrip().startswith("{") else Path(option).read_text())
    except (OSError, ValueError) as error:
        raise ClusterError(f"--ray-runtime-env: {error}") from None
    if not isinstance(found, dict):
        raise ClusterError("--ray-runtime-env: not a JSON object")
    return found


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
