"""Fixtures for tests with a real Ray cluster."""

from collections.abc import Iterator

import pytest
from support.driver_process import NodeDesk
from support.ray_nodes import RayCluster


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[RayCluster]:
    """Two simulated nodes of eight GPUs. Tests that break a node bring one of their own."""
    with RayCluster() as cluster:
        yield cluster


@pytest.fixture
def desk() -> Iterator[NodeDesk]:
    desk = NodeDesk()
    try:
        yield desk
    finally:
        desk.hang_up()
