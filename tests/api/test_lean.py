"""An API server's process starts fast and small because of what it never loads."""

import subprocess
import sys

HEAVY = {
    *("torch", "numpy", "transformers", "ray"),
    *("rich", "huggingface_hub", "httpx", "requests", "yaml"),
    # Brings a server and a client of its own; loaded with the first scrape.
    "prometheus_client",
    # Routing, middleware and request objects that nothing here passes through.
    *("starlette", "anyio", "pydantic"),
}


def test_an_api_server_loads_nothing_heavy() -> None:
    script = (
        "import sys, phalanx.api.__main__, phalanx.api.server; print(*{name.split('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "tokenizers" in loaded
    assert HEAVY & set(loaded) == set()
