"""`python late_group.py ADDRESS`: a plan that somebody was faster to take: two groups on a node that has one GPU left.

Prints what is told on the way, and at last why it was given up.
"""

import dataclasses
import sys

from phalanx.ray_backend import node_table
from phalanx.ray_backend.cluster_connection import connect
from phalanx.ray_backend.errors import ClusterError
from phalanx.ray_backend.placement_groups import PlacementGroups
from phalanx.ray_backend.placement_plan import Demand, pack

if __name__ == "__main__":
    demand = Demand(2, 1, "GPU")
    cluster = connect(sys.argv[1], {}, None, lambda detail: None)
    full = [node for node in node_table.nodes("GPU") if not node.here]
    groups = PlacementGroups(demand, "late")
    first, second = pack([dataclasses.replace(full[0], free=2)], demand, "fill").ranks
    groups.make(0, first)
    groups.wait(60.0, lambda share, detail: None, lambda: None)  # however long Ray takes to make it
    groups.make(1, second)
    try:
        groups.wait(0.5, lambda share, detail: print(share, detail), lambda: None)
    except ClusterError as error:
        print(error)
    cluster.leave()
