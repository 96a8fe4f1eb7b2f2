"""How many files and sockets the service and its children may have open."""

import resource

MOST = 2**20
"""The soft limit where the hard one allows it; programs that close all they might have open should not take long."""


def allow_many_open_files() -> None:
    """Raise the soft limit, which children inherit: 1,024 descriptors are as few connections for an API server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
