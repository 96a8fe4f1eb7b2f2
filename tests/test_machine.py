"""How many CPUs and how much memory a process has: the tightest of all that limits it, in either version of groups."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from phalanx.machine import cpu_pool, free_memory, memory_pool, usable_cpus

GIB = 2**30
UNLIMITED = "9223372036854771712"
"""What version 1 says where no limit is set."""

VERSION_2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
VERSION_1 = (
    "23 1 254:0 / / rw - ext4 /dev/root rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
)
HYBRID = VERSION_1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
MEMBER_OF_BOTH = "4:memory:/pod/box\n2:cpu,cpuacct:/pod/box\n1:name=systemd:/elsewhere\n0::/pod/box\n"


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def machine(root: Path, memberships: str, mounts: str, files: dict[str, str]) -> Path:
    """A root folder whose kernel has 8 GiB free, and these files in /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n")
    (root / "proc/self/cgroup").write_text(memberships)
    (root / "proc/self/mountinfo").write_text(mounts)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(
    ("memberships", "mounts", "files", "expected"),
    [
        ("", "", {}, 8),
        ("0::/pod/box\n", VERSION_2, {"pod/box/cpu.max": "max 100000"}, 8),
        ("0::/pod/box\n", VERSION_2, {"pod/box/cpu.max": "400000 100000"}, 4),
        ("0::/pod/box\n", VERSION_2, {"pod/box/cpu.max": "50000 100000"}, 1),
        ("0::/pod/box\n", VERSION_2, {"pod/box/cpu.max": "290000 100000"}, 2),
        ("0::/pod/box\n", VERSION_2, {"pod/box/cpu.max": "1600000 100000"}, 8),
        ("0::/pod/box\n", VERSION_2, {"pod/box/cpu.max": "400000 100000", "pod/cpu.max": "60000 20000"}, 3),
        ("0::/pod/box\n", VERSION_2, {"pod/box/cpu.max": "max 100000", "cpu.max": "200000 100000"}, 2),
        (
            MEMBER_OF_BOTH,
            VERSION_1,
            {"cpu,cpuacct/pod/box/cpu.cfs_quota_us": "-1", "cpu,cpuacct/pod/box/cpu.cfs_period_us": "100000"},
            8,
        ),
        (
            MEMBER_OF_BOTH,
            HYBRID,
            {
                "cpu,cpuacct/pod/box/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/pod/box/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/pod/cpu.cfs_quota_us": "500000",
                "cpu,cpuacct/pod/cpu.cfs_period_us": "100000",
                "unified/pod/box/cgroup.procs": "1",
            },
            5,
        ),
        (  # A container that sees its own group alone, by the host's name.
            "2:cpu,cpuacct:/docker/4f\n",
            "32 31 0:29 /docker/4f /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            2,
        ),
        (
            "0::/../other\n",
            "30 23 0:26 /.. /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n",
            {"other/cpu.max": "600000 100000", "cpu.max": "300000 100000"},
            3,
        ),
        (
            "0::/a b\n",
            "30 23 0:26 / /sys/fs/cgroup/two\\040words rw - cgroup2 none rw\n",
            {"two words/a b/cpu.max": "200000 100000"},
            2,
        ),
    ],
)
def test_the_tightest_quota_bounds_the_cpus(
    tmp_path: Path, memberships: str, mounts: str, files: dict[str, str], expected: int
) -> None:
    assert usable_cpus(machine(tmp_path, memberships, mounts, files)) == expected


def test_cpus_that_the_process_may_not_run_on_do_not_count() -> None:
    [first, *_] = sorted(os.sched_getaffinity(0))
    script = f"import os; os.sched_setaffinity(0, {{{first}}}); from phalanx.machine import *; print(usable_cpus())"
    counted = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert counted.stdout == "1\n"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 8 * GIB),
        ({"": "max"}, 8 * GIB),
        ({"": str(3 * GIB)}, 2 * GIB + 4096),
        ({"": str(6 * GIB), "pod": str(2 * GIB)}, GIB + 4096),
        ({"pod/box": str(2**29)}, 0),
    ],
)
def test_the_tightest_limit_of_version_2_bounds_the_memory(
    tmp_path: Path, limits: dict[str, str], expected: int
) -> None:
    """Each group has a gibibyte in use, of which a page is cache that can be dropped."""
    files = {}
    for group, limit in limits.items():
        files |= {
            f"{group}/memory.max": limit,
            f"{group}/memory.high": "max",
            f"{group}/memory.current": str(GIB),
            f"{group}/memory.stat": "anon 5\ninactive_file 4096",
        }
    root = machine(tmp_path, "1:name=other:/x\n0::/pod/box\n", VERSION_2, {k.lstrip("/"): v for k, v in files.items()})
    assert free_memory(root) == expected


def test_what_slows_a_group_down_bounds_its_memory_too(tmp_path: Path) -> None:
    files = {"memory.max": "max", "memory.high": str(2 * GIB), "memory.current": str(GIB), "memory.stat": ""}
    root = machine(tmp_path, "0::/box\n", VERSION_2, {f"box/{name}": text for name, text in files.items()})
    assert free_memory(root) == GIB


@pytest.mark.parametrize("mounts", [VERSION_1, HYBRID])
@pytest.mark.parametrize(
    ("own", "above", "all_above", "expected"),
    [
        (UNLIMITED, UNLIMITED, UNLIMITED, 8 * GIB),
        (str(3 * GIB), UNLIMITED, str(3 * GIB), 2 * GIB + 4096),
        (UNLIMITED, str(5 * GIB), str(5 * GIB), 2 * GIB),
        (UNLIMITED, UNLIMITED, str(2 * GIB), GIB + 4096),
    ],
)
def test_the_tightest_limit_of_version_1_bounds_the_memory(
    tmp_path: Path, mounts: str, own: str, above: str, all_above: str, expected: int
) -> None:
    """The group has a gibibyte in use, a page of it droppable; the one above has three."""
    files = {
        "memory/pod/box/memory.limit_in_bytes": own,
        "memory/pod/box/memory.usage_in_bytes": str(GIB),
        "memory/pod/box/memory.stat": f"hierarchical_memory_limit {all_above}\ntotal_inactive_file 4096",
        "memory/pod/memory.limit_in_bytes": above,
        "memory/pod/memory.usage_in_bytes": str(3 * GIB),
        "memory/pod/memory.stat": "total_inactive_file 0",
    }
    assert free_memory(machine(tmp_path, MEMBER_OF_BOTH, mounts, files)) == expected


def test_a_limit_of_the_address_space_bounds_the_memory() -> None:
    limit = GIB // 2
    script = (
        f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}));"
        "from phalanx.machine import free_memory; print(free_memory())"
    )
    free = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert free < limit


def test_this_machine_tells_both() -> None:
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))
    assert free_memory() > 0


@pytest.fixture
def root(tmp_path: Path, eight_cpus: None) -> Path:
    """One machine: two pods, the first with two containers, the second with one, and a group that limits nothing."""
    files = {}
    for group, memory, cpus in [
        ("one", str(4 * GIB), "400000 100000"),
        ("one/a", "max", "max 100000"),
        ("one/b", str(8 * GIB), "600000 100000"),
        ("two/a", str(4 * GIB), "400000 100000"),
        ("free", "max", "max 100000"),
        ("vast", str(99 * GIB), "9900000 100000"),
    ]:
        files |= {f"{group}/memory.max": memory, f"{group}/memory.current": "0", f"{group}/cpu.max": cpus}
    root = machine(tmp_path, "", VERSION_2, files)
    (root / "proc/sys/kernel/random").mkdir(parents=True)
    (root / "proc/sys/kernel/random/boot_id").write_text("0b1f\n")
    return root


def pools(root: Path, group: str) -> tuple[str, str]:
    """Of a process in this group."""
    (root / "proc/self/cgroup").write_text(f"0::{group}\n")
    return memory_pool(root), cpu_pool(root)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("/one/a", "/one/a", True),
        ("/one/a", "/one/b", True),  # What binds both is the pod's limit.
        ("/one/a", "/two/a", False),
        ("/one/a", "/free", False),
        ("/free", "/vast", True),  # Nothing but the machine binds either.
    ],
)
def test_processes_share_a_pool_where_the_same_limit_binds_them(root: Path, one: str, other: str, shared: bool) -> None:
    both = zip(pools(root, one), pools(root, other), strict=True)
    assert [mine == yours for mine, yours in both] == [shared, shared]


def test_another_machine_is_another_pool_and_so_are_other_cpus(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, cpus = pools(root, "/free")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert (memory_pool(root) == memory, cpu_pool(root) == cpus) == (True, False)
    monkeypatch.undo()
    (root / "proc/sys/kernel/random/boot_id").write_text("77aa\n")
    assert memory_pool(root) != memory


def test_two_groups_of_version_1_under_one_limit_share_its_memory(tmp_path: Path, eight_cpus: None) -> None:
    files = {"memory/pod/memory.limit_in_bytes": str(GIB), "memory/pod/memory.usage_in_bytes": "0"}
    for box in ("a", "b"):
        files[f"memory/pod/{box}/memory.limit_in_bytes"] = UNLIMITED
        files[f"memory/pod/{box}/memory.usage_in_bytes"] = "0"
        files[f"memory/pod/{box}/memory.stat"] = f"hierarchical_memory_limit {GIB}"
    root = machine(tmp_path, "4:memory:/pod/a\n", VERSION_1, files)
    first = memory_pool(root)
    (root / "proc/self/cgroup").write_text("4:memory:/pod/b\n")
    assert memory_pool(root) == first
