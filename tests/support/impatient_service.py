"""`phalanx serve` whose children wait for its answer for PATIENCE seconds: impatient_service.py [flags]."""

import runpy
import sys

from phalanx import child
from phalanx.cli import serve
from phalanx.hosting.children import MODULES
from phalanx.protocol import Role

PATIENCE = 3.0

if __name__ == "__main__":
    first, *rest = sys.argv[1:]
    if first in {role.value for role in Role}:
        child.DIAL_TIMEOUT = PATIENCE
        sys.argv[1:] = rest
        runpy.run_module(MODULES[Role(first)], run_name="__main__", alter_sys=True)
    sys.exit(serve.run(sys.argv[1:], {role: [sys.executable, __file__, role.value] for role in Role}))
