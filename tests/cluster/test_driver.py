"""The Ray driver plans in numbers, puts nodes where it planned, and tells every end of one by name."""

from pathlib import Path

from cluster.driver_process import NodeDesk, rank, running
from ray_nodes import ADDRESSES, RayCluster


def test_nodes_land_where_planned_each_with_a_gpu_of_its_own(
    ray_cluster: RayCluster, desk: NodeDesk, tmp_path: Path
) -> None:
    with running(tmp_path, ray_cluster.environment, ray_address=ray_cluster.address, data_parallel_size=10) as driver:
        driver.ready()
        assert driver.plan.nodes == (ADDRESSES[0],) * 8 + (ADDRESSES[1],) * 2
        assert driver.plan.head == ADDRESSES[0]
        for index in (0, 1, 8, 9):
            driver.start_node(desk.address, rank(index))
        nodes = desk.gather(4)
        devices = {place.index: node.environ()["CUDA_VISIBLE_DEVICES"] for place, node in nodes.items()}
        status, output = driver.stop()
        assert (status, output) == (0, "")
