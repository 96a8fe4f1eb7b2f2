"""`phalanx serve` with stand-ins as children: stand_in_service.py PLAN [flags]."""

import sys
from pathlib import Path

from phalanx.cli import serve
from phalanx.protocol import Role

if __name__ == "__main__":
    plan, *flags = sys.argv[1:]
    script = str(Path(__file__).with_name("stand_in.py"))
    commands = {role: [sys.executable, script, role.value, plan] for role in Role}
    sys.exit(serve.run(flags, commands))
