"""The messages behind the vector files: every one of the protocol, whole and with its defaults, at its limits.

`files()` gives what the JSON files beside this one must hold; `python tests/vectors/renew.py` writes them.
"""

import enum
import json
from pathlib import Path
from typing import Any

import msgspec

from phalanx import protocol as p
from phalanx.config import (
    Config,
    EngineOptions,
    HttpOptions,
    ModelFacts,
    ModelOptions,
    ParallelOptions,
    ServiceOptions,
)
from phalanx.transport import frames
from phalanx.transport import handshake as h

FOLDER = Path(__file__).parent
Entry = dict[str, Any]

BIG = 2**64 - 1
WORDS = "Grüße, 世界 🏛"
SECRETS = ("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "Schlüssel für Größeres 🏛")
DIALER_NONCE = bytes(range(32))
LISTENER_NONCE = bytes(range(255, 223, -1))

RANK_3 = p.Place(p.Role.ENGINE, 3)
TP_1 = p.Place(p.Role.ENGINE, 3, 1)
CHILD = p.ChildId(RANK_3, p.Incarnation(2))
CONFIG = Config(
    model=ModelOptions(model="org/name", served_model_name=("one", WORDS)),
    parallel=ParallelOptions(data_parallel_size=2, api_server_count=2, frontend_command="front --fast"),
    engine=EngineOptions(engine="synthetic"),
    http=HttpOptions(port=0, api_key=("a key",)),
    service=ServiceOptions(),
    facts=ModelFacts(
        folder="/models/name",
        architecture="LlamaForCausalLM",
        vocab_size=32000,
        max_model_len=2048,
        eos_token_ids=(2, 7),
        default_sampling={"temperature": 0.6, "top_k": 20.0},
        fingerprints={"config.json": "00ff"},
    ),
)
API_SERVERS = p.ApiServers(
    (
        p.Endpoint(p.ApiServerId(0), "unix:/run/user/1000/phalanx-x/api-0"),
        p.Endpoint(p.ApiServerId(1), "tcp:192.0.2.7:40001"),
        p.Endpoint(p.ApiServerId(2), "tcp:[2001:db8::1]:40002"),
    )
)
SAMPLING = p.SamplingParams(
    max_tokens=2048,
    min_tokens=1,
    temperature=0.7,
    top_p=0.95,
    top_k=40,
    min_p=0.05,
    presence_penalty=-2.0,
    frequency_penalty=0.5,
    repetition_penalty=1.1,
    seed=BIG,
    stop_token_ids=(2, 100_000),
    ignore_eos=True,
    logit_bias={5: -100.0, 100_000: 0.25},
    logprobs=0,
    prompt_logprobs=20,
    allowed_token_ids=(2, 5, 100_000),
    bad_words=((5,), (100_000, 127)),
    cache_salt="of one tenant",
)
LOAD = p.Load(1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 0, BIG)
SCORED = p.TokenLogprobs(-0.5, 2, [7, 100_000], [-0.25, -1.5])

CONTROL: dict[str, p.Message] = {
    "Hello of an API server": p.Hello(p.Role.API, 1, p.Incarnation(0), 4711),
    "Hello of a rank's second worker": p.Hello(p.Role.ENGINE, 300, p.Incarnation(70000), 2**22, 1),
    "Stage, nothing more": p.Stage(p.StartupStage.STARTED),
    "Stage with progress": p.Stage(p.StartupStage.WARM_UP, 0.25, WORDS),
    "Stage, progress whole": p.Stage(p.StartupStage.WEIGHTS, 1.0),
    "Ready, nothing to say": p.Ready(),
    "Ready": p.Ready("KV cache 65,536 tokens"),
    "Ready, drains": p.Ready("", True),
    "Drained": p.Drained(),
    "RanksVacated": p.RanksVacated(3, (p.RankId(0), p.RankId(300))),
    "RanksVacated, none yet": p.RanksVacated(3, ()),
    "AdminRequest, show": p.AdminRequest(1, p.AdminVerb.SHOW),
    "AdminRequest, scale": p.AdminRequest(2, p.AdminVerb.SCALE, (p.RankId(3), p.RankId(5)), 6, 2.5),
    "Failed, no traceback": p.Failed("no such file"),
    "Failed, text of more than 255 bytes": p.Failed("ValueError: " + WORDS, "line\n" * 60),
    "MetricsReport": p.MetricsReport(9, b"\x00\xff samples"),
    "MetricsReport, empty": p.MetricsReport(None, b""),
    "MetricsQuery": p.MetricsQuery(128),
    "Pulse": p.Pulse(41, True),
    "NodeHello": p.NodeHello("machine-7", 99, "0.1.0", (RANK_3, TP_1), True, "192.0.2.8"),
    "NodeHello, places none": p.NodeHello("machine-7", 99, "0.1.0", (), True),
    "NodeHello, with its pools": p.NodeHello(
        "machine-7", 99, "0.1.0", (RANK_3,), False, "192.0.2.8", p.Pools("b1 26:4711", "b1 ff whole")
    ),
    "NodeReady, nothing bound": p.NodeReady("/models/name"),
    "NodeReady": p.NodeReady(
        "/models/name",
        (p.ServedAt("http://192.0.2.8:8000", "tcp:192.0.2.8:40003"),),
        {p.RankId(3): "tcp:192.0.2.8:40004"},
    ),
    "ChildLaunched": p.ChildLaunched(CHILD, 4712),
    "ChildNotLaunched": p.ChildNotLaunched(CHILD, "no such program"),
    "ChildOutput": p.ChildOutput(CHILD, b"tail\n\xff"),
    "ChildOutput, the end": p.ChildOutput(CHILD, b""),
    "ChildExited, status": p.ChildExited(CHILD, 3),
    "ChildExited, signal": p.ChildExited(CHILD, -9),
    "StoppedAccepting": p.StoppedAccepting(),
    "ClusterPlan": p.ClusterPlan("192.0.2.7", ("192.0.2.7", "192.0.2.8"), "192.0.2.7"),
    "NodeStarting": p.NodeStarting((RANK_3,), "its actor"),
    "NodeStarting, by host": p.NodeStarting((), "its actor", "192.0.2.8"),
    "NodeStarting, for a limited time": p.NodeStarting((RANK_3,), "1 GPU on 192.0.2.8", "", 2, 600.0),
    "NodeEnded": p.NodeEnded((RANK_3,), "the actor died"),
    "ApiServers": API_SERVERS,
    "ApiServers, not complete": p.ApiServers((), False),
    "Welcome": p.Welcome(CONFIG, API_SERVERS),
    "Welcome of a successor": p.Welcome(CONFIG, API_SERVERS, counted=b"\x01"),
    "Welcome of a rank's worker": p.Welcome(CONFIG, p.ApiServers(()), "unix:/run/user/1000/phalanx-x/workers-3"),
    "Welcome of a rank": p.Welcome(CONFIG, p.ApiServers(()), share=p.Share(6, 3, 2)),
    "Share": p.Share(4, 2, 1),
    "Share of one alone": p.Share(),
    "Stop": p.Stop(),
    "Drain": p.Drain(),
    "Ranks": p.Ranks(3, (p.RankId(0), p.RankId(1)), (p.RankId(2), p.RankId(3)), (p.RankId(3),)),
    "Ranks, nobody leaves": p.Ranks(0, (p.RankId(0),)),
    "AdminAnswer": p.AdminAnswer(
        2,
        (p.RankState(p.RankId(3), p.PlaceState.LEAVING, p.Incarnation(1), 1, 4711, "192.0.2.8", 0.5, WORDS),),
        (p.ApiServerState(0, p.PlaceState.SERVING, p.Incarnation(0), None, "", 12.0),),
    ),
    "AdminAnswer, refused": p.AdminAnswer(2, (), (), "There is no rank 9.", p.AdminOutcome.NO_SUCH_RANK),
    "MetricsRequest": p.MetricsRequest(1),
    "MetricsGathered": p.MetricsGathered(9, (b"", b"\x01\x02")),
    "MetricsGathered, one gone": p.MetricsGathered(
        9, (b"\x01",), (b"\x02",), {p.RankId(0): 0, p.RankId(1): 4}, {p.ApiServerId(0): 1}
    ),
    "MetricsGathered, nobody": p.MetricsGathered(9, ()),
    "Refused": p.Refused("api 1 is connected already"),
    "LaunchChild": p.LaunchChild(CHILD, {"PHALANX_X": "1"}),
    "SignalChild": p.SignalChild(CHILD, 9),
    "StopAccepting": p.StopAccepting(),
    "StartNode": p.StartNode("tcp:192.0.2.7:40000", (RANK_3,)),
    "StartNode, by host": p.StartNode("tcp:192.0.2.7:40000", (), "192.0.2.8"),
    "ReleaseNode": p.ReleaseNode((RANK_3,), "", 2),
}

ENGINE: dict[str, p.Message] = {
    "EngineHello": p.EngineHello(p.RankId(1), p.Incarnation(0), 2048, 256, 65536),
    "Submit, defaults": p.Submit(p.RequestId(1), [1, 2, 3], p.SamplingParams(16)),
    "Submit, greedy": p.Submit(p.RequestId(2), [5], p.SamplingParams(max_tokens=1, temperature=0.0, seed=2**63)),
    "Submit, everything": p.Submit(p.RequestId(2**32), [0, 127, 128, 255, 256, 65535, 65536], SAMPLING, [9], 128, -1),
    "Submit, continued": p.Submit(p.RequestId(3), [1, 2], p.SamplingParams(16, seed=7), [3, 4, 5], 16),
    "Submit, prompt of 300 tokens": p.Submit(p.RequestId(4), [1] * 300, p.SamplingParams(16)),
    "Abort": p.Abort([p.RequestId(1), p.RequestId(2**32)]),
    "Abort, none": p.Abort([]),
    "Probe": p.Probe(300),
    "Alive": p.Alive(300),
    "StepOutput, load only": p.StepOutput([], p.Load(0, 0, 0, 0, 0, 0, 65536, 0, 0, 0, 0)),
    "StepOutput, a token": p.StepOutput([p.RequestOutput(p.RequestId(1), [42])], LOAD),
    "StepOutput, the first tokens, with everything": p.StepOutput(
        [
            p.RequestOutput(
                p.RequestId(7),
                [42, 43],
                None,
                None,
                [SCORED, p.TokenLogprobs(0.0, 1, [], [])],
                [None, SCORED, SCORED],
                2,
                times=p.PhaseTimes(0.25, 1.5),
            )
        ],
        LOAD,
    ),
    "StepOutput, the tokens of the steps": p.StepOutput(
        [], LOAD, p.StepTokens((0, 127, 128, 255, 256, 65535, 65536, 0, 0, 0, 0, 0, 0, 1), BIG)
    ),
    "StepOutput, every ending": p.StepOutput(
        [
            p.RequestOutput(p.RequestId(1), [2], p.FinishReason.STOP),
            p.RequestOutput(p.RequestId(2), [100_000], p.FinishReason.STOP, 100_000),
            p.RequestOutput(p.RequestId(3), [4], p.FinishReason.LENGTH),
            p.RequestOutput(p.RequestId(4), [], p.FinishReason.ABORT),
            p.RequestOutput(p.RequestId(5), [], p.FinishReason.ERROR, error=WORDS),
        ],
        LOAD,
    ),
}

WORKER: dict[str, p.Message] = {
    "WorkerHello": p.WorkerHello(p.RankId(3), 1, p.Incarnation(2)),
    "WorkerWelcome": p.WorkerWelcome(),
    "WorkerStep": p.WorkerStep(128, [(BIG, 0), (7, 2047)]),
    "WorkerStep, nothing to do": p.WorkerStep(0, []),
    "WorkerAnswer": p.WorkerAnswer(128, [0, 2047]),
    "WorkerAnswer, nothing done": p.WorkerAnswer(0, []),
}


def view(value: Any) -> Any:
    """A message as JSON: an object by field names; bytes as hexadecimal digits; map keys as text."""
    match value:
        case msgspec.Struct():
            return {field: view(getattr(value, field)) for field in value.__struct_fields__}
        case enum.Enum():
            return value.value
        case bytes():
            return value.hex()
        case list() | tuple():
            return [view(item) for item in value]
        case dict():
            return {str(key): view(item) for key, item in value.items()}
    return value


def encode(message: p.Message) -> str:
    """The body of its frame."""
    return bytes(frames.encode(message)[frames.HEADER :]).hex()


def entry(name: str, message: p.Message) -> Entry:
    return {"name": name, "type": type(message).__name__, "message": view(message), "hex": encode(message)}


def others() -> list[Entry]:
    """Bodies that must be understood although this release does not write them so."""
    hello = p.Hello(p.Role.API, 1, p.Incarnation(0), 4711)
    output = p.RequestOutput(p.RequestId(1), [42])
    submit = p.Submit(p.RequestId(1), [1, 2, 3], p.SamplingParams(16))
    stage = p.Stage(p.StartupStage.WEIGHTS, 1.0)
    plain = msgspec.msgpack.decode

    def built(name: str, message: p.Message, body: Any) -> Entry:
        return {
            **entry(name, message),
            "hex": (body if isinstance(body, bytes) else msgspec.msgpack.encode(body)).hex(),
        }

    load = plain(msgspec.msgpack.encode(LOAD))
    return [
        built("Hello of an older peer: the field at the end is missing", hello, [1, "api", 1, 0, 4711]),
        built(
            "Hello of a newer peer: fields after the last", hello, [1, "api", 1, 0, 4711, 0, "new", [1, {"a": None}]]
        ),
        built("Ready of an older peer: the tag alone", p.Ready(), [3]),
        built("Stop of a newer peer", p.Stop(), [22, "soon"]),
        built("Submit with the required fields alone", submit, [40, 1, [1, 2, 3], [16]]),
        built(
            "StepOutput, nested: shorter output, longer load",
            p.StepOutput([output], LOAD),
            [61, [[1, [42]]], [*load, 1]],
        ),
        built("Integers wider than they need to be", p.Ready("x"), bytes.fromhex("92d200000003a178")),
        built("Array header wider than it needs to be", p.Ready("x"), bytes.fromhex("dc000203a178")),
        built("Text header wider than it needs to be", p.Ready("x"), bytes.fromhex("9203db0000000178")),
        built("Array of 32-bit length", p.Abort([p.RequestId(1)]), bytes.fromhex("9229dd0000000101")),
        built("An integer where a float is due", stage, [2, "weights", 1, ""]),
        built("A float of 32 bits", stage, bytes.fromhex("9402a777656967687473ca3f800000a0")),
    ]


def rejected() -> list[Entry]:
    """Bodies that end the connection."""
    bodies = {
        "a tag that no message has": [200, 1],
        "no tag": [],
        "no array": {"tag": 1},
        "a required field missing": [1, "api"],
        "text where an integer is due": [6, "9"],
        "a float where an integer is due": [6, 9.0],
        "nil where none is allowed": [3, None],
        "an unknown role": [1, "king", 0, 0, 1, 0],
        "an unknown stage": [2, "lunch", None, ""],
        "bytes where text is due": [3, b"x"],
        "text where bytes are due": [5, 1, "x"],
    }
    further = {
        "bytes after the message": bytes.fromhex("9103ff"),
        "half a message": bytes.fromhex("9203"),
        "an empty body": b"",
    }
    return [{"name": name, "hex": msgspec.msgpack.encode(body).hex()} for name, body in bodies.items()] + [
        {"name": name, "hex": body.hex()} for name, body in further.items()
    ]


def transcript(secret: str) -> Entry:
    """A whole handshake with fixed nonces: what each end sends, as frames."""
    dialer, listener = h.Dialer(secret.encode()), h.Listener(secret.encode())
    dialer._nonce, listener._nonce = DIALER_NONCE, LISTENER_NONCE
    said: list[tuple[str, p.Message]] = [("dialer", dialer.opening())]
    while not dialer.done:
        side, message = said[-1]
        answer = (listener if side == "dialer" else dialer).receive(bytes.fromhex(encode(message)))
        if answer is None:
            break
        said.append(("listener" if side == "dialer" else "dialer", answer))
    assert dialer.done
    assert listener.done
    return {
        "secret": secret,
        "key": secret.encode().hex(),
        "dialer_nonce": DIALER_NONCE.hex(),
        "listener_nonce": LISTENER_NONCE.hex(),
        "frames": [
            {
                "from": side,
                "type": type(message).__name__,
                "message": view(message),
                "hex": bytes(frames.encode(message)).hex(),
            }
            for side, message in said
        ],
    }


def files() -> dict[str, Any]:
    """What each file holds."""
    return {
        "control.json": [entry(name, message) for name, message in CONTROL.items()],
        "engine.json": [entry(name, message) for name, message in ENGINE.items()],
        "worker.json": [entry(name, message) for name, message in WORKER.items()],
        "compatible.json": others(),
        "rejected.json": rejected(),
        "handshake.json": {
            "transcripts": [transcript(secret) for secret in SECRETS],
            "messages": [
                entry("Refusal", h.Refusal("the dialer does not know the launch secret")),
                entry("Opening of another version", h.Opening(h.MAGIC, 3, DIALER_NONCE)),
                entry("Accepted", h.Accepted()),
            ],
        },
    }


def text(content: Any) -> str:
    """A file's text: an entry a line, so that a difference shows which message changed."""
    if isinstance(content, list):
        return "[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in content) + "\n]\n"
    parts = (f"{json.dumps(key)}: {text(value).rstrip()}" for key, value in content.items())
    return "{\n" + ",\n".join(parts) + "\n}\n"
