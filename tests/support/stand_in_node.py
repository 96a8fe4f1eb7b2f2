"""`python -m phalanx.node` whose children are `stand_in_child.py`."""

import sys
from pathlib import Path

from phalanx.node import __main__, node
from phalanx.protocol import Role

child = (sys.executable, "-S", str(Path(__file__).with_name("stand_in_child.py")))
real = node.run
__main__.run = lambda orders: real(orders, dict.fromkeys(Role, child))

if __name__ == "__main__":
    __main__.main()
