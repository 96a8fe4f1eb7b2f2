"""Which places a configuration asks for, and how long each may take. Pure."""

from dataclasses import dataclass

from phalanx.config import ParallelOptions, ServiceOptions
from phalanx.protocol import Place, Role
from phalanx.supervisor.fleet_limits import FleetLimits

RAY = Place(Role.RAY, 0)


@dataclass(frozen=True, slots=True)
class Layout:
    """The places that a service starts with. Workers of ranks have places of their own."""

    driver: list[Place]
    """The Ray driver, where there is one."""
    api_servers: list[Place]
    """Those of the supervisor's machine. How many others there will be, their nodes tell."""
    local: list[Place]
    """Ranks on the supervisor's machine."""
    remote: list[Place]
    """Ranks that nodes bring."""

    @property
    def all(self) -> list[Place]:
        return [*self.driver, *self.api_servers, *self.local, *self.remote]


def layout_of(parallel: ParallelOptions) -> Layout:
    ranks = [
        Place(Role.ENGINE, rank, worker)
        for rank in range(parallel.data_parallel_size)
        for worker in range(parallel.tensor_parallel_size)
    ]
    return Layout(
        driver=[RAY] if parallel.data_parallel_backend == "ray" else [],
        api_servers=[Place(Role.API, index) for index in range(parallel.own_api_servers)],
        local=[place for place in ranks if place.index < parallel.local_ranks],
        remote=[place for place in ranks if place.index >= parallel.local_ranks],
    )


def limits_of(service: ServiceOptions) -> FleetLimits:
    return FleetLimits(
        startup=service.startup_timeout,
        shutdown=service.shutdown_timeout,
        step=service.step_timeout,
        max_restarts=service.max_restarts,
        window=service.restart_window,
        failed_starts=service.max_failed_starts,
        min_ranks=service.min_ranks,
        drain=service.drain_timeout,
    )
