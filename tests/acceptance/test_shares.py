"""Ranks of two machines: on each they use all CPUs and the set share of its memory, whatever runs on the other."""

import os
import re
import subprocess
import sys
from pathlib import Path

from acceptance.test_join import control_of
from support.fake_supervisor import SECRET
from support.namespaces import HEAD, MEMORY, NODE, two_machines
from support.nodes import join
from support.service import SERVE, Service

from phalanx.kernels.cpu import padded_head_dim
from phalanx.machine import usable_cpus

ADMIN = {"PHALANX_ADMIN_KEY": "an-admin-key-of-the-test"}
SHARE = 0.05
BYTES_A_TOKEN = 2 * 2 * (8 + padded_head_dim(8)) * 4
"""Of the checkpoint's KV cache: layers * KV heads * (keys, and values) * float32."""


def cache_and_threads(service: Service, rank: int) -> tuple[int, int]:
    """Bytes of a rank's KV cache, and its threads, as it tells when it is ready."""
    line = re.compile(rf"engine {rank} +ready .*KV cache ([\d,]+) tokens, float32, (\d+) threads?\n")
    service.wait_until(lambda: line.search(service.stderr) is not None, f"rank {rank} to be ready")
    found = line.search(service.stderr)
    assert found
    return int(found[1].replace(",", "")) * BYTES_A_TOKEN, int(found[2])


def test_each_machine_is_used_whole_and_ranks_that_come_and_go_change_threads_and_no_memory(
    checkpoint_folder: Path,
) -> None:
    cpus = usable_cpus()
    with two_machines() as machines:
        service = Service(
            *(str(checkpoint_folder), "--load-format", "dummy", "-dp", "3", "--data-parallel-size-local", "1"),
            *("--data-parallel-address", HEAD, "--max-num-seqs", "1000000"),
            *("--kv-cache-memory-share", str(SHARE)),
            command=(*machines.on_head, *SERVE),
            env={"PHALANX_SECRET": SECRET, **ADMIN},
        )
        with service, join(control_of(service), 1, 2, on=machines.on_node) as joined:
            service.wait_ready()
            (here, threads), *there = (cache_and_threads(service, rank) for rank in range(3))
            assert threads == cpus
            assert [threads for _, threads in there] == [max(1, cpus - cpus // 2), max(1, cpus // 2)]
            block = 16 * BYTES_A_TOKEN
            assert SHARE * MEMORY[HEAD] - block < here <= SHARE * MEMORY[HEAD]
            for cache, _ in there:
                assert SHARE * MEMORY[NODE] / 2 - block < cache <= SHARE * MEMORY[NODE] / 2

            def scale(ranks: int) -> None:
                command = (*machines.on_head, sys.executable, "-m", "phalanx", "scale", str(ranks))
                scaled = subprocess.run(
                    [*command, "--url", service.address], env=os.environ | ADMIN, capture_output=True, text=True
                )
                assert scaled.returncode == 0, scaled.stderr

            scale(4)
            service.wait_for(f"[engine 0] INFO: threads from now on: {max(1, cpus - cpus // 2)}, since 2 ranks")
            scale(3)
            service.wait_for(f"[engine 0] INFO: threads from now on: {cpus}, since 1 rank")
            assert "[engine 1] INFO" not in service.output
            assert service.stop() == 0
            assert joined.wait() == 0
