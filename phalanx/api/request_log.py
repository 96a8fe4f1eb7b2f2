"""One line a request for the log, where --log-requests asks for it. No part of a prompt or of an answer is in it."""

import logging
from time import perf_counter

from phalanx.api.http import Exchange

log = logging.getLogger(__name__)
# Who asks for these lines gets them, whatever --log-level says of the others.
log.setLevel(logging.INFO)


def write(exchange: Exchange, endpoint: str) -> None:
    """Log a request that has ended. `endpoint`: its route as the table has it, and not what the client wrote."""
    log.info("%s", line(exchange, endpoint, perf_counter() - exchange.arrival))


def line(exchange: Exchange, endpoint: str, seconds: float) -> str:
    """`id=... POST /v1/completions status=200 ... total=0.120s`; status 0: the client went before there was one."""
    parts = [f"id={exchange.request_id} {exchange.method} {endpoint} status={exchange.status or 0}"]
    generated = exchange.generated
    if generated is not None:
        parts.append(
            f"prompt_tokens={generated.prompt_tokens} cached_tokens={generated.cached_tokens} "
            f"output_tokens={generated.output_tokens}"
        )
        if generated.first_token is not None:
            parts.append(f"first_token={generated.first_token:.3f}s")
        if generated.ranks:
            parts.append(f"rank={','.join(map(str, generated.ranks))}")
    return " ".join([*parts, f"total={seconds:.3f}s"])
