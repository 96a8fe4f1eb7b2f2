"""Options that are right one by one and wrong together; one that would be ignored is refused instead."""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from ssl import CERT_NONE

from phalanx.api import https
from phalanx.cli.options import Given, UsageError
from phalanx.config import Config

_CACHE_SIZES = ("kv_cache_tokens", "kv_cache_memory_bytes", "kv_cache_memory_share")
_MODEL_ENGINE_ONLY = ("load_format", "dtype", "seed", "cpu_threads", "kv_cache_memory_bytes", "kv_cache_memory_share")
_SYNTHETIC_ENGINE_ONLY = ("synthetic_rate", "synthetic_stage")


def refuse_contradictions(given: Given) -> None:
    """Check what can be told before the checkpoint is read.

    Raises:
        UsageError: names the options of the first contradiction as they were given.
    """
    for message in _contradictions(given):
        raise UsageError(message)


def refuse_unfit(config: Config) -> None:
    """Check what depends on the checkpoint.

    Raises:
        UsageError: the service could never run one request of full length.
    """
    cache, length, block = config.engine.kv_cache_tokens, config.facts.max_model_len, config.engine.block_size
    if cache is None:
        return
    # Both are held in whole blocks.
    holds, needs = cache // block * block, -(-length // block) * block
    if holds < needs:
        raise UsageError(
            f"--kv-cache-tokens {cache} cannot hold one request of --max-model-len {length}: "
            f"give at least {needs}, or a --max-model-len of at most {holds}"
        )


def _contradictions(given: Given) -> Iterator[str]:
    origins = given.origins
    model, engine, parallel = given.options.model, given.options.engine, given.options.parallel

    if engine.engine == "synthetic":
        for name in _MODEL_ENGINE_ONLY:
            if name in origins:
                yield f"{origins[name]} has no meaning with --engine synthetic, which runs no model"
    else:
        for name in _SYNTHETIC_ENGINE_ONLY:
            if name in origins:
                yield f"{origins[name]} needs --engine synthetic"
        if "seed" in origins and model.load_format != "dummy":
            yield (
                f"{origins['seed']} is the seed of --load-format dummy; for repeatable text set `seed` in the request"
            )
    for text in engine.synthetic_stage:
        yield from _synthetic_stage(text, parallel.data_parallel_size, parallel.tensor_parallel_size)

    yield from _placement(given)
    if model.revision is not None and model.model is None:
        yield f"{origins['revision']} needs a hub name as MODEL; the demo model has no revisions"
    if model.revision is not None and model.model is not None and Path(model.model).is_dir():
        yield f"{origins['revision']} needs a hub name as MODEL, and {model.model} is a folder"
    if len(sizes := [origins[name] for name in _CACHE_SIZES if name in origins]) > 1:
        yield f"{' and '.join(sizes[:2])} both set the KV cache: give one"
    if (
        "max_num_batched_tokens" in origins
        and "max_num_seqs" in origins
        and engine.max_num_batched_tokens < engine.max_num_seqs
    ):
        yield (
            f"{origins['max_num_batched_tokens']} {engine.max_num_batched_tokens} is below "
            f"{origins['max_num_seqs']} {engine.max_num_seqs}: each running request takes a token a step"
        )
    if given.options.service.min_ranks > parallel.data_parallel_size:
        least, ranks = given.options.service.min_ranks, parallel.data_parallel_size
        yield f"{origins['min_ranks']} {least} is above --data-parallel-size {ranks}"
    if engine.kv_cache_tokens is not None and engine.kv_cache_tokens < engine.block_size:
        yield f"--kv-cache-tokens {engine.kv_cache_tokens} is less than one block of --block-size {engine.block_size}"
    yield from _https(given)
    yield from _pages_and_paths(given)
    yield from _socket_file(given)
    names = model.served_model_name
    # It would be found out late that the demo model serves under the name of another.
    if model.model is None and len(names) > 1 and ("/" in names[-1] or Path(names[-1]).is_dir()):
        yield f"{origins['served_model_name']} takes all that follows, {names[-1]} too: write MODEL before the options"
    if model.model is None and engine.engine != "synthetic":
        for name in (name for name in names if "/" in name):
            yield (
                f"{origins['served_model_name']} {name} is only what clients call a model, and no MODEL is given: for "
                f"that one, `phalanx serve {name}`; the demo model takes names without a slash"
            )
    if any(not name.strip() for name in names):
        yield f"{origins['served_model_name']}: an empty name"
    if model.chat_template is not None and not Path(model.chat_template).is_file():
        yield f"{origins['chat_template']}: there is no file {model.chat_template}"


_HTTPS_ONLY = ("ssl_keyfile", "ssl_keyfile_password_file", "ssl_ca_certs", "ssl_cert_reqs", "enable_ssl_refresh")


def _https(given: Given) -> Iterator[str]:
    """Contradictions about HTTPS: which certificates there are, and who shows one."""
    origins = given.origins
    http, parallel = given.options.http, given.options.parallel
    if http.ssl_certfile is None:
        for name in _HTTPS_ONLY:
            if name in origins:
                yield f"{origins[name]} needs --ssl-certfile"
    elif https.CLIENT_CERTIFICATES[http.ssl_cert_reqs] != CERT_NONE and http.ssl_ca_certs is None:
        yield f"{origins['ssl_cert_reqs']} {http.ssl_cert_reqs} needs --ssl-ca-certs: whose certificates to accept"
    elif https.CLIENT_CERTIFICATES[http.ssl_cert_reqs] == CERT_NONE and http.ssl_ca_certs is not None:
        yield f"{origins['ssl_ca_certs']} is for clients' certificates: it needs --ssl-cert-reqs optional or required"
    if parallel.frontend_command is not None:
        for name in ("ssl_certfile", "admin_key"):
            if name in origins:
                yield (
                    f"{origins[name]} has no meaning with --frontend-command: TLS and admin endpoints are the Python "
                    "API servers'; give the program options of its own"
                )
        for name in _OVERLOAD:
            if name in origins:
                yield (
                    f"{origins[name]} has no meaning with --frontend-command: the program bounds its own queues and "
                    "connections; give it options of its own"
                )
        for name in _PYTHON_API_SERVERS:
            if name in origins:
                yield f"{origins[name]} has no meaning with --frontend-command: it is the Python API servers' to heed"


_OVERLOAD = (
    "max_queued_requests",
    "max_queued_tokens",
    "max_held_bytes",
    "max_connections",
    "keep_alive_timeout",
    "header_timeout",
    "body_timeout",
    "write_timeout",
)

_CORS_ONLY = ("allowed_methods", "allowed_headers", "allow_credentials")

_PYTHON_API_SERVERS = ("sse_keep_alive", "log_requests", "root_path", "allowed_origins")

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", re.IGNORECASE)
"""A page's scheme, host and port, as a browser sends them."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""The name of a method or a header."""


def _socket_file(given: Given) -> Iterator[str]:
    """Contradictions about where clients are served: on a socket file, or on a port."""
    origins, http = given.origins, given.options.http
    if http.uds is None:
        if "uds_mode" in origins:
            yield f"{origins['uds_mode']} needs --uds"
        return
    for name in ("host", "port", "api_servers_per_node", "frontend_command"):
        if name in origins:
            yield f"{origins[name]} has no meaning with {origins['uds']}, which is a file of this machine alone"
    if not re.fullmatch("0?[0-7]{3}", http.uds_mode):
        yield f"{origins['uds_mode']}: {http.uds_mode!r} is no octal number of three digits, such as 660"


def _pages_and_paths(given: Given) -> Iterator[str]:
    """Contradictions about which web pages are let in, and under which path."""
    origins, http = given.origins, given.options.http
    if not http.allowed_origins:
        for name in _CORS_ONLY:
            if name in origins:
                yield f"{origins[name]} needs --allowed-origins: which pages it is about"
    for origin in http.allowed_origins:
        if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
            yield (
                f"{origins['allowed_origins']}: {origin!r} is not a page's origin, which is a scheme, a host and no "
                "path: https://ui.example or http://127.0.0.1:3000"
            )
    if "*" in http.allowed_origins and http.allow_credentials:
        yield (
            f"{origins['allow_credentials']} with {origins['allowed_origins']} * would let every page act for whoever "
            "looks at it: name the origins"
        )
    for name, values in (("allowed_methods", http.allowed_methods), ("allowed_headers", http.allowed_headers)):
        for value in values:
            if not _TOKEN.fullmatch(value):
                yield f"{origins[name]}: {value!r} is no name of a {name.removeprefix('allowed_').removesuffix('s')}"
    root = http.root_path
    if "root_path" in origins and (not root.startswith("/") or root.endswith("/") or re.search(r"[?#%\s]", root)):
        yield f"{origins['root_path']}: {root!r} is not a path such as /llm: it begins with a slash and ends without"


_OTHER_MACHINES_ONLY = (
    "data_parallel_address",
    "data_parallel_rpc_port",
    "api_servers_per_node",
    "node_timeout",
    "cluster_ssl_certfile",
    "cluster_ssl_keyfile",
    "cluster_ssl_ca_certs",
)

_RAY_ONLY = ("data_parallel_pack", "data_parallel_nodes", "ray_address", "ray_runtime_env")


def _placement(given: Given) -> Iterator[str]:
    """Contradictions about which machine holds what."""
    origins = given.origins
    engine, parallel = given.options.engine, given.options.parallel
    ranks, local = parallel.data_parallel_size, parallel.data_parallel_size_local
    if parallel.data_parallel_backend == "ray":
        from phalanx.ray_backend.available import HOW_TO_GET_RAY, ray_is_installed

        if not ray_is_installed():
            yield f"{origins['data_parallel_backend']} ray: {HOW_TO_GET_RAY}"
        if parallel.data_parallel_pack == "strict" and local is None:
            yield "--data-parallel-pack strict needs --data-parallel-size-local: how many ranks each node is to hold"
        if parallel.data_parallel_pack != "strict" and local is not None:
            yield f"{origins['data_parallel_size_local']} on Ray belongs to --data-parallel-pack strict"
        if local is not None and (local == 0 or ranks % local):
            yield f"--data-parallel-size {ranks} is not a multiple of {origins['data_parallel_size_local']} {local}"
        if parallel.data_parallel_pack == "span" and parallel.tensor_parallel_size == 1:
            yield "--data-parallel-pack span spreads a rank's workers, and --tensor-parallel-size 1 has one: use fill"
        if "data_parallel_rpc_port" in origins:
            yield f"{origins['data_parallel_rpc_port']} is for `phalanx join`; actors are told where to dial"
    else:
        for name in _RAY_ONLY:
            if name in origins:
                yield f"{origins[name]} needs --data-parallel-backend ray"
        if local is not None and local > ranks:
            yield f"{origins['data_parallel_size_local']} {local} is above --data-parallel-size {ranks}"
        if engine.device == "cuda" and engine.engine == "synthetic":
            yield f"{origins['device']} cuda needs --data-parallel-backend ray so far"
        for name in _OTHER_MACHINES_ONLY:
            if name in origins and not parallel.spans_machines:
                yield f"{origins[name]} has no meaning with every rank on this machine: see --data-parallel-size-local"
    if "api_servers_per_node" in origins and "api_server_count" in origins:
        yield f"{origins['api_servers_per_node']} and {origins['api_server_count']} both count API servers: give one"
    if engine.engine != "synthetic" and engine.device == "cuda":
        yield (
            f"{origins['device']} cuda: models run on CPUs so far, leave it out; --engine synthetic can ask a Ray "
            "cluster for GPUs with it"
        )
    if engine.engine != "synthetic" and parallel.tensor_parallel_size > 1:
        yield f"{origins['tensor_parallel_size']} {parallel.tensor_parallel_size} runs only --engine synthetic so far"
    if parallel.frontend_command is not None:
        if "cluster_ssl_certfile" in origins and parallel.spans_machines:
            yield (
                f"{origins['frontend_command']}: an external front-end speaks with other machines in the clear, and "
                f"{origins['cluster_ssl_certfile']} asks for encryption: leave one of the two out"
            )
        try:
            words = shlex.split(parallel.frontend_command)
        except ValueError as error:
            yield f"{origins['frontend_command']}: {error}"
        else:
            if not words or shutil.which(words[0]) is None:
                yield f"{origins['frontend_command']}: there is no program {words[0] if words else ''!r}"


def _synthetic_stage(text: str, ranks: int, workers: int) -> Iterator[str]:
    # Imported here, so that what is for drills costs an ordinary start nothing.
    from phalanx.engine.drills import parse

    try:
        drill = parse(text)
    except ValueError as error:
        yield str(error)
    else:
        if drill.rank is not None and drill.rank >= ranks:
            yield f"--synthetic-stage {text}: there is no rank {drill.rank}; ranks are 0 to {ranks - 1}"
        if drill.worker is not None and drill.worker >= workers:
            yield f"--synthetic-stage {text}: a rank has no worker {drill.worker}; workers are 0 to {workers - 1}"
