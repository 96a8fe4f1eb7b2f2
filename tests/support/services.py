"""Services whose children are stand-ins."""

import json
import sys
from pathlib import Path

from support.service import Service

SCRIPT = Path(__file__).with_name("stand_in_service.py")
FLEET = ("--engine", "synthetic", "-dp", "2", "-asc", "2", "--max-restarts", "0")


def stand_in_service(folder: Path, plan: dict[str, tuple[str, str]] | None = None, *flags: str) -> Service:
    """2 API servers and 2 ranks that follow `plan`: {"engine 1": ("weights", "hang")}. Nothing is started again."""
    command = (sys.executable, str(SCRIPT), json.dumps(plan or {}))
    return Service(str(folder), *FLEET, *flags, command=command)
