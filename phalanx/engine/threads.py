"""How many threads a rank computes with: what the command line says, or its part of its machine's CPUs."""

from phalanx.config import EngineOptions
from phalanx.machine import usable_cpus
from phalanx.protocol import Share


def threads_of(share: Share, options: EngineOptions) -> int:
    """At least one. The ranks of a machine use all its CPUs together: the first of them take what is left over."""
    if options.cpu_threads is not None:
        return options.cpu_threads
    each, left_over = divmod(usable_cpus(), share.cpus)
    return max(1, each + (share.place < left_over))
