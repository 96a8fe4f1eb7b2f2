"""What this process may use of its machine: CPUs and memory, as its container and the kernel allow.

Control groups limit both, in versions 1 and 2 and in a mix of the two. Groups are nested, and a process can use no
more than the tightest group on its way up to the root allows; in a container only a part of that way may be seen.
"""

import math
import os
import re
import resource
import socket
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path("/")


def usable_cpus(root: Path = ROOT) -> int:
    """CPUs that threads of this process can keep busy, at least 1: those it may run on, within the quota of its time.

    A part of a CPU is not counted. Threads that wait for one another gain nothing from a share that runs out in the
    middle of each period.

    Args:
        root: where /proc and what it names are.
    """
    quotas = [quota for _, quota in _cpu_quotas(root)]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def cpu_pool(root: Path = ROOT) -> str:
    """A name for the CPU time that `usable_cpus` counts: processes for which it is the same divide the same CPUs.

    Two containers of one machine with a quota each have a pool each, and so have two programs that are bound to
    different CPUs.

    Args:
        root: where /proc and what it names are.
    """
    cpus = os.sched_getaffinity(0)
    quotas = [(group, quota) for group, quota in _cpu_quotas(root) if quota < len(cpus)]
    return f"{_kernel(root)} {sum(1 << cpu for cpu in cpus):x} {_tightest(quotas)}"


def free_memory(root: Path = ROOT) -> int:
    """Bytes that this process can still take without swapping. Page cache that can be dropped counts as free.

    Args:
        root: where /proc and what it names are.

    Raises:
        RuntimeError: the kernel does not tell.
    """
    meminfo = (root / "proc/meminfo").read_text()
    available = re.search(r"^MemAvailable: +(\d+) kB$", meminfo, re.MULTILINE)
    if available is None:
        raise RuntimeError("/proc/meminfo does not tell MemAvailable")
    left = [limit - used + droppable for _, limit, used, droppable in _memory_limits(root)]
    return max(0, min([int(available[1]) * 1024, *left, *_address_space_left()]))


def memory_pool(root: Path = ROOT) -> str:
    """A name for the memory that `free_memory` counts: processes for which it is the same take from the same memory.

    Args:
        root: where /proc and what it names are.
    """
    total = re.search(r"^MemTotal: +(\d+) kB$", _read(root / "proc/meminfo"), re.MULTILINE)
    most = int(total[1]) * 1024 if total else math.inf
    limits = [(group, limit) for group, limit, _, _ in _memory_limits(root) if limit < most]
    return f"{_kernel(root)} {_tightest(limits)}"


def _kernel(root: Path) -> str:
    """Names the running kernel: all containers of a machine have it in common, and no other machine."""
    return _read(root / "proc/sys/kernel/random/boot_id") or socket.gethostname()


def _tightest(limits: Sequence[tuple[Path, float]]) -> str:
    """Names the group whose limit binds, the same from inside of any container; of equal limits that of the outermost,
    which groups beside it share."""
    if not limits:
        return "whole"
    group, _ = min(reversed(limits), key=itemgetter(1))
    status = group.stat()
    return f"{status.st_dev}:{status.st_ino}"


def _cpu_quotas(root: Path) -> Iterator[tuple[Path, float]]:
    """The groups that this process is in and that set a quota, and how many CPUs it is; the innermost first."""
    for group in _groups_of_version_2(root):
        quota, _, period = _read(group / "cpu.max").partition(" ")
        if quota.isdecimal():
            yield group, int(quota) / int(period)
    for group in _groups_of_version_1(root, "cpu"):
        microseconds, every = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        if microseconds is not None and every:
            yield group, microseconds / every


def _memory_limits(root: Path) -> Iterator[tuple[Path, int, int, int]]:
    """The groups that this process is in and that set a limit, the innermost first; the limit, what they have used of
    it, and what of that can be dropped, in bytes."""
    for group in _groups_of_version_2(root):
        # Beyond memory.high nobody is killed, and everybody is slowed down until nearly nothing moves.
        limits = [_number(group / "memory.max"), _number(group / "memory.high")]
        yield from _limit(group, limits, "memory.current", "inactive_file")
    for group in _groups_of_version_1(root, "memory"):
        # The second is the least limit of all groups above, which a container cannot see.
        limits = [_number(group / "memory.limit_in_bytes"), _statistic(group, "hierarchical_memory_limit")]
        yield from _limit(group, limits, "memory.usage_in_bytes", "total_inactive_file")


def _limit(group: Path, limits: list[int | None], usage: str, droppable: str) -> Iterator[tuple[Path, int, int, int]]:
    known, used = [limit for limit in limits if limit is not None], _number(group / usage)
    if known and used is not None:
        yield group, min(known), used, _statistic(group, droppable) or 0


def _address_space_left() -> list[int]:
    """What `ulimit -v` leaves, which batch systems set; empty where it is not set."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return []
    return [limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()]


def _groups_of_version_2(root: Path) -> list[Path]:
    """The folder of this process's group and of each one above it that can be seen."""
    group = next((group for number, _, group in _memberships(root) if number == "0"), None)
    mounts = [mount for mount in _mounts(root) if mount.kind == "cgroup2"]
    return [] if group is None else _way_up(group, mounts)


def _groups_of_version_1(root: Path, controller: str) -> list[Path]:
    """The same in the hierarchy of version 1 that has the controller, where there is one."""
    group = next((group for _, names, group in _memberships(root) if controller in names.split(",")), None)
    mounts = [mount for mount in _mounts(root) if mount.kind == "cgroup" and controller in mount.options.split(",")]
    return [] if group is None else _way_up(group, mounts)


def _memberships(root: Path) -> list[tuple[str, str, str]]:
    """The number, the controllers and this process's group of each hierarchy; number 0 is that of version 2."""
    lines = _read(root / "proc/self/cgroup").splitlines()
    return [(number, names, group) for number, names, group in (line.split(":", 2) for line in lines)]


class _Mount(NamedTuple):
    """A hierarchy of control groups in the file system."""

    kind: str
    options: str
    top: str
    """The group that is seen at `folder`."""
    folder: Path


def _mounts(root: Path) -> list[_Mount]:
    """All that proc_pid_mountinfo(5) tells."""
    found = []
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        top, folder = map(_unescaped, before.split(" ")[3:5])
        kind, _, options = after.split(" ", 2)
        found.append(_Mount(kind, options, top, root / folder.lstrip("/")))
    return found


def _way_up(group: str, mounts: list[_Mount]) -> list[Path]:
    """The group's folder and those above it, in the mount that shows most of them."""
    seen = [mount for mount in mounts if PurePosixPath(group).is_relative_to(mount.top)]
    if not seen:
        # A container that sees its own group alone, under a name that is the host's.
        return [mount.folder for mount in mounts]
    mount = min(seen, key=lambda mount: len(mount.top))
    own = PurePosixPath(group).relative_to(mount.top)
    return [mount.folder / part for part in (own, *own.parents)]


def _unescaped(field: str) -> str:
    """Spaces and the like are octal in mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _statistic(group: Path, name: str) -> int | None:
    found = re.search(rf"^{name} (\d+)$", _read(group / "memory.stat"), re.MULTILINE)
    return int(found[1]) if found else None


def _number(file: Path) -> int | None:
    """None: it says `max` or -1, which is no limit, or there is no such file."""
    text = _read(file)
    return int(text) if text.isdecimal() else None


def _read(file: Path) -> str:
    """Empty where it cannot be read: a controller that is not there limits nothing."""
    try:
        return os.fsdecode(file.read_bytes()).strip()
    except OSError:
        return ""
