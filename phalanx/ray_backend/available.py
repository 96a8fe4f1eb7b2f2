"""Whether Ray can be had, told without importing it: that takes a second, and belongs in one process only."""

import importlib.util

HOW_TO_GET_RAY = "Ray is not installed here: pip install 'phalanx[ray]'"


def ray_is_installed() -> bool:
    return importlib.util.find_spec("ray") is not None
