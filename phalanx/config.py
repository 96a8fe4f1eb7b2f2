"""The one configuration tree. The command line, `--config` files, the help text and Welcome all come from it.

A field's flag is its name with dashes; `flag(...)` adds short names and the help line. Each struct is a group of
the help page, headed by its docstring. The tree is frozen: what a run was started with never changes under it.
"""

from typing import Annotated, Any, Literal

import msgspec


def flag(help: str, *short: str, secret: bool = False, size: bool = False, **limits: Any) -> msgspec.Meta:
    """Describe a field: its help line, extra short flags, whether to keep its value out of messages, whether it takes
    4g and 4G as well, and msgspec limits (ge, le, gt, lt)."""
    return msgspec.Meta(description=help, extra={"short": short, "secret": secret, "size": size}, **limits)


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every group of options."""


class ModelOptions(Group, frozen=True):
    """Model"""

    model: Annotated[str | None, flag("Hugging Face folder or hub name; absent: the bundled demo model")] = None
    revision: Annotated[str | None, flag("branch, tag or commit of a hub name")] = None
    served_model_name: Annotated[
        tuple[str, ...], flag("name or names the API answers to; the first is the one it reports")
    ] = ()
    load_format: Annotated[
        Literal["auto", "dummy"], flag("auto: safetensors; dummy: random weights of the configured shape")
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        flag("precision of KV cache and weights; auto: the checkpoint's"),
    ] = "auto"
    max_model_len: Annotated[
        Annotated[int, msgspec.Meta(ge=2)] | None,
        flag("longest prompt plus output, in tokens; absent: the checkpoint's own"),
    ] = None
    chat_template: Annotated[str | None, flag("file with a jinja chat template, in place of the checkpoint's")] = None
    seed: Annotated[int, flag("seed of dummy weights", ge=0)] = 0


class ParallelOptions(Group, frozen=True):
    """Parallelism"""

    data_parallel_size: Annotated[int, flag("engine ranks", "-dp", ge=1, le=1024)] = 1
    data_parallel_size_local: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None,
        flag(
            "mp: ranks on this machine, the first ones; the others come by `phalanx join`; absent: all. "
            "ray with --data-parallel-pack strict: ranks on each node",
            "-dpl",
        ),
    ] = None
    data_parallel_backend: Annotated[
        Literal["mp", "ray"],
        flag("mp: ranks are processes, here or where `phalanx join` runs; ray: actors on a Ray cluster"),
    ] = "mp"
    data_parallel_address: Annotated[
        str | None,
        flag("address of this machine that the others dial; absent: found by a connection towards them", "-dpa"),
    ] = None
    data_parallel_rpc_port: Annotated[
        int,
        flag("control port that `phalanx join` dials; 0: one that the system picks, printed", "-dpp", ge=0, le=65535),
    ] = 0
    cluster_ssl_certfile: Annotated[
        str | None,
        flag("certificate of this machine, PEM: connections with other machines are then TLS, with one at both ends"),
    ] = None
    cluster_ssl_keyfile: Annotated[str | None, flag("its key, PEM without password")] = None
    cluster_ssl_ca_certs: Annotated[
        str | None, flag("the cluster's own authority, PEM: whose certificates the machines accept from one another")
    ] = None
    data_parallel_pack: Annotated[
        Literal["strict", "fill", "span"],
        flag(
            "ray: strict: exactly --data-parallel-size-local ranks on each node used; fill: as many as fit, this node "
            "first; span: one rank's workers may be on several nodes"
        ),
    ] = "fill"
    data_parallel_nodes: Annotated[tuple[str, ...], flag("ray: addresses or names of the only nodes to use")] = ()
    tensor_parallel_size: Annotated[
        int, flag("workers a rank; above 1 only with --engine synthetic so far", "-tp", ge=1, le=64)
    ] = 1
    api_server_count: Annotated[int, flag("API servers behind the HTTP port", "-asc", ge=1, le=256)] = 1
    api_servers_per_node: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=256)] | None,
        flag("API servers on every node that holds ranks, behind that node's own HTTP port, and as many here"),
    ] = None
    frontend_command: Annotated[
        str | None, flag("PROGRAM ARGS to run in place of the Python API servers; see docs/external-front-ends.md")
    ] = None
    ray_address: Annotated[
        str | None,
        flag("HOST:PORT of a running Ray cluster; absent: RAY_ADDRESS, this machine's, or one started for the service"),
    ] = None
    ray_runtime_env: Annotated[
        str | None, flag("ray: runtime environment of the actors, as JSON or the name of a JSON file")
    ] = None
    node_timeout: Annotated[
        float, flag("seconds to wait for other machines: for `phalanx join`, or for a placement group", gt=0)
    ] = 600.0

    @property
    def local_ranks(self) -> int:
        """Ranks that the supervisor's own machine holds; on Ray every rank is an actor."""
        if self.data_parallel_backend == "ray":
            return 0
        own = self.data_parallel_size_local
        return self.data_parallel_size if own is None else own

    @property
    def own_api_servers(self) -> int:
        """API servers behind the supervisor's own HTTP port."""
        return self.api_server_count if self.api_servers_per_node is None else self.api_servers_per_node

    @property
    def spans_machines(self) -> bool:
        return self.local_ranks < self.data_parallel_size


class EngineOptions(Group, frozen=True):
    """Engine"""

    engine: Annotated[
        Literal["model", "synthetic"],
        flag("synthetic: no model, set speed, for drills and front-end benchmarks"),
    ] = "model"
    device: Annotated[
        Literal["cpu", "cuda"],
        flag("where ranks compute, and what they ask of a Ray cluster; cuda only with --engine synthetic so far"),
    ] = "cpu"
    max_num_seqs: Annotated[int, flag("most requests running at once in a rank", ge=1)] = 256
    # On a CPU a step of 512 tokens is as efficient as a longer one, and every other request waits for its end.
    max_num_batched_tokens: Annotated[int, flag("most tokens in one step; longer prompts are chunked", ge=1)] = 512
    enable_prefix_caching: Annotated[bool, flag("reuse the KV cache of prompts that start alike")] = True
    kv_cache_tokens: Annotated[
        Annotated[int, msgspec.Meta(ge=16)] | None,
        flag("size of a rank's KV cache in tokens; absent: from free memory"),
    ] = None
    kv_cache_memory_bytes: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        flag("size of a rank's KV cache in bytes; 4g is 4 * 1000**3, 4G is 4 * 1024**3", size=True),
    ] = None
    kv_cache_memory_share: Annotated[
        float,
        flag("share of a machine's free memory that the ranks there together may use for KV caches", gt=0, le=1),
    ] = 0.5
    block_size: Annotated[Literal[16, 32, 64], flag("tokens a KV block")] = 16
    max_logprobs: Annotated[int, flag("most top_logprobs a request may ask for", ge=0)] = 20
    cpu_threads: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        flag("threads a rank; absent: the CPUs of its machine, divided by the ranks there"),
    ] = None
    synthetic_rate: Annotated[
        float, flag("synthetic engine: output tokens a second a request; 0: as fast as the loop runs", ge=0)
    ] = 0.0
    synthetic_stage: Annotated[
        tuple[str, ...],
        flag(
            "synthetic engine: STAGE=SECONDS, or STAGE=hang|exit|raise|abort, with RANK: before it for one rank only, "
            "or RANK.WORKER: for one worker of it"
        ),
    ] = ()


class HttpOptions(Group, frozen=True):
    """HTTP"""

    host: Annotated[str, flag("address to listen on, or a name of this machine: then on each of its addresses")] = (
        "127.0.0.1"
    )
    port: Annotated[int, flag("port to listen on; 0: one that the system picks, printed at start", ge=0, le=65535)] = (
        8000
    )
    uds: Annotated[str | None, flag("serve on this Unix socket in place of --host and --port")] = None
    uds_mode: Annotated[str, flag("permissions of the file of --uds, in octal: who may connect")] = "600"
    api_key: Annotated[
        tuple[str, ...], flag("require one of these keys as bearer token; or PHALANX_API_KEY", secret=True)
    ] = ()
    api_key_file: Annotated[tuple[str, ...], flag("files with API keys, one a line; lines with # are comments")] = ()
    admin_key: Annotated[
        tuple[str, ...],
        flag("open the admin endpoints to these keys, and to nobody else; or PHALANX_ADMIN_KEY", secret=True),
    ] = ()
    admin_key_file: Annotated[tuple[str, ...], flag("files with admin keys, one a line")] = ()
    ssl_certfile: Annotated[
        str | None, flag("serve HTTPS with this certificate, and what links it to its authority (PEM)")
    ] = None
    ssl_keyfile: Annotated[str | None, flag("the certificate's key (PEM); absent: it is in --ssl-certfile")] = None
    ssl_keyfile_password_file: Annotated[str | None, flag("file with the password of an encrypted key")] = None
    ssl_ca_certs: Annotated[str | None, flag("authorities whose client certificates are accepted (PEM)")] = None
    ssl_cert_reqs: Annotated[
        Literal["none", "optional", "required", 0, 1, 2],
        flag("whether clients must show a certificate; or 0, 1, 2, as in Python's ssl module"),
    ] = "none"
    enable_ssl_refresh: Annotated[
        bool, flag("give new connections a certificate that was replaced on disk; authorities stay as they were")
    ] = True
    allowed_origins: Annotated[
        tuple[str, ...], flag("web pages that a browser lets read answers (CORS), such as https://ui.example; *: all")
    ] = ()
    allowed_methods: Annotated[tuple[str, ...], flag("methods that such pages may use; *: all")] = ("*",)
    allowed_headers: Annotated[tuple[str, ...], flag("headers that such pages may send; *: all")] = ("*",)
    allow_credentials: Annotated[bool, flag("let such pages send cookies, which a proxy in front may ask for")] = False
    root_path: Annotated[str, flag("path under which a proxy shows this server, such as /llm")] = ""
    max_body_bytes: Annotated[int, flag("largest request body", ge=1024)] = 16 * 2**20
    max_batch: Annotated[int, flag("most completions one HTTP request may ask for (prompts times n)", ge=1)] = 256
    strict_fields: Annotated[
        bool, flag("refuse requests with fields that no endpoint knows, and do not ignore them")
    ] = False
    max_queued_requests: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None,
        flag("completions that may wait beyond what ranks run; then 429; absent: four times --max-num-seqs a rank"),
    ] = None
    max_queued_tokens: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None,
        flag("prompt and expected output tokens that may wait beyond KV caches; then 429; absent: four times those"),
    ] = None
    max_held_bytes: Annotated[
        int, flag("memory that an API server's requests may hold, estimated; then 429", ge=2**20)
    ] = 2**30
    max_connections: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        flag("open connections an API server; then 503; absent: as many as descriptors allow"),
    ] = None
    # Above the usual proxies' own: the side that sends requests has to be the one that gives a connection up.
    keep_alive_timeout: Annotated[float, flag("seconds after which a connection without a request is closed", gt=0)] = (
        75.0
    )
    header_timeout: Annotated[float, flag("seconds in which a request's headers must have come; then 408", gt=0)] = 10.0
    body_timeout: Annotated[float, flag("seconds in which a request's body must have come; then 408", gt=0)] = 60.0
    sse_keep_alive: Annotated[
        float, flag("seconds of silence after which a stream gets a comment, for the proxies between; 0: never", ge=0)
    ] = 15.0
    log_requests: Annotated[
        bool, flag("a line for each request: its id, endpoint, status, tokens, times and rank, never its text")
    ] = False
    write_timeout: Annotated[
        float, flag("seconds after which a client that takes nothing of its answer is cut off", gt=0)
    ] = 60.0

    def __repr__(self) -> str:
        """Without the keys, which would get into logs and tracebacks."""
        hidden = {name: ("***",) * len(getattr(self, name)) for name in ("api_key", "admin_key")}
        return super(HttpOptions, msgspec.structs.replace(self, **hidden)).__repr__()

    @property
    def scheme(self) -> str:
        return "http" if self.ssl_certfile is None else "https"

    def without_keys(self) -> "HttpOptions":
        """For those that serve no clients."""
        return msgspec.structs.replace(self, api_key=(), admin_key=())


class ServiceOptions(Group, frozen=True):
    """Service"""

    startup_timeout: Annotated[float, flag("seconds a child may stay in one start-up stage without progress", gt=0)] = (
        120.0
    )
    step_timeout: Annotated[
        float, flag("seconds without a finished step after which a rank with work is stuck, and replaced", gt=0)
    ] = 60.0
    rank_timeout: Annotated[
        float, flag("seconds a request waits for a rank when none is left, before it gets a 503", ge=0)
    ] = 30.0
    max_restarts: Annotated[
        int, flag("times a rank or an API server is started again within --restart-window; 0: its death ends all", ge=0)
    ] = 20
    restart_window: Annotated[float, flag("seconds over which --max-restarts counts", gt=0)] = 60.0
    max_failed_starts: Annotated[
        int, flag("starts in a row that come to nothing before a rank or an API server is given up", ge=1)
    ] = 5
    min_ranks: Annotated[int, flag("ranks below which the service ends, once the others cannot come back", ge=1)] = 1
    drain_timeout: Annotated[
        float, flag("seconds after SIGTERM in which running requests may finish; a second signal cuts it short", ge=0)
    ] = 30.0
    shutdown_timeout: Annotated[float, flag("seconds children get to end before they are killed", gt=0)] = 3.0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], flag("least severity that is printed")] = "info"


class ModelFacts(Group, frozen=True):
    """What the checkpoint's own files say; read once, before any child starts."""

    folder: str
    architecture: str
    vocab_size: int
    max_model_len: int
    eos_token_ids: tuple[int, ...]
    default_sampling: dict[str, float]
    """temperature, top_p, top_k, ... of generation_config.json: what a request gets where it says nothing."""
    chat_template: str = ""
    """The text of --chat-template, whose file other machines need not have."""
    fingerprints: dict[str, str] = {}
    """File name to a digest: what another machine's copy of the checkpoint must match: see `checkpoint`."""


class Options(Group, frozen=True):
    """What a service was asked for: a field for each group of options."""

    model: ModelOptions
    parallel: ParallelOptions
    engine: EngineOptions
    http: HttpOptions
    service: ServiceOptions

    @property
    def runs_model(self) -> bool:
        """Ranks compute what the checkpoint describes; else only its tokenizer and its numbers count."""
        return self.engine.engine == "model"

    @property
    def reads_weights(self) -> bool:
        return self.runs_model and self.model.load_format != "dummy"


class Config(Options, frozen=True):
    """Everything a process of the service needs to know; travels to children in Welcome."""

    facts: ModelFacts

    @property
    def served_names(self) -> tuple[str, ...]:
        """Names that `model` in a request may carry; the first is the one the API reports."""
        return self.model.served_model_name or (self.model.model or "phalanx-demo",)


OPTION_GROUPS: dict[str, type[Group]] = {group.name: group.type for group in msgspec.structs.fields(Options)}
