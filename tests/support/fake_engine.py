"""An engine that says what a test tells it to, and the API server in front of it on a real socket."""

import asyncio
import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvloop

from phalanx.api.app import Application
from phalanx.api.app_state import AppState
from phalanx.api.engine_client import EngineClient
from phalanx.api.metrics import Metrics
from phalanx.api.route import Route
from phalanx.api.routes import ROUTES
from phalanx.api.server import HttpServer, load_template
from phalanx.api.service_ranks import ServiceRanks
from phalanx.api.supervisor_client import SupervisorClient
from phalanx.checkpoint.facts import read
from phalanx.config import Config, EngineOptions, HttpOptions, ModelOptions, ParallelOptions, ServiceOptions
from phalanx.protocol import (
    ApiServerId,
    EngineHello,
    FinishReason,
    Incarnation,
    Load,
    MetricsGathered,
    MetricsQuery,
    PhaseTimes,
    RankId,
    RequestId,
    RequestOutput,
    SamplingParams,
    StepOutput,
    StepTokens,
    Submit,
    ToEngine,
    TokenLogprobs,
    ToSupervisor,
)
from phalanx.text.detokenize import byte_alphabet
from phalanx.text.tokenizer import ModelTokenizer
from phalanx.transport.channel import Channel, dial
from phalanx.transport.listener import address_of, bind_unix
from phalanx.transport.security import Security

SECURITY = Security(b"secret of the tests")
DEADLINE = 30.0
"""Seconds a wait may take before the test fails; nothing here asserts on speed."""

Script = Callable[[list[int], SamplingParams], list[RequestOutput]]
"""The outputs that a request gets, an output a step; their request_id is filled in."""


def an_output(tokens: list[int], finish: FinishReason | None = None, **further: Any) -> RequestOutput:
    return RequestOutput(RequestId(0), tokens, finish, **further)


@dataclass(eq=False)
class Asked:
    """One request as the rank saw it."""

    submit: Submit
    aborted: threading.Event = field(default_factory=threading.Event)

    @property
    def prompt(self) -> list[int]:
        return self.submit.prompt

    @property
    def sampling(self) -> SamplingParams:
        return self.submit.sampling


class FakeRank:
    """A rank on a thread, over the real wire. It answers requests by `script`, or without one by `push`."""

    def __init__(self, script: Script | None = None, max_model_len: int = 2048) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self._max_model_len = max_model_len
        self._by_id: dict[RequestId, Asked] = {}
        self._changed = threading.Condition()
        self._channel: Channel | None = None
        self._thread = threading.Thread(target=self._serve)

    def attach(self, address: str, security: Security) -> None:
        self._channel = dial(address, security, DEADLINE)
        self._channel.send(EngineHello(RankId(0), Incarnation(1), self._max_model_len, 64, 65536))
        self._channel.send(StepOutput([], LOAD, STEP_TOKENS))
        self._thread.start()

    def _serve(self) -> None:
        assert self._channel is not None
        decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
        with contextlib.suppress(ConnectionError, OSError):
            while True:
                message = self._channel.receive(decoder)
                if isinstance(message, Submit):
                    self._take(message)
                else:
                    for request_id in message.request_ids:
                        assert not self._by_id[request_id].aborted.is_set(), "aborted twice"
                        self._by_id[request_id].aborted.set()

    def _take(self, submit: Submit) -> None:
        asked = self._by_id[submit.request_id] = Asked(submit)
        with self._changed:
            self.asked.append(asked)
            self._changed.notify_all()
        if self.script is not None:
            for output in self.script(submit.prompt, submit.sampling):
                self.push(asked, output)

    def wait_asked(self, count: int) -> list[Asked]:
        """Until so many requests have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= count, DEADLINE), f"{len(self.asked)} came"
        return self.asked

    def push(self, asked: Asked, output: RequestOutput) -> None:
        assert self._channel is not None
        output = msgspec.structs.replace(output, request_id=asked.submit.request_id)
        self._channel.send(StepOutput([output], LOAD))

    def tell_load(self, **others: int) -> None:
        """Report a load of which `others` differ from the usual one."""
        assert self._channel is not None
        self._channel.send(StepOutput([], msgspec.structs.replace(LOAD, **others)))

    def die(self) -> None:
        """Close the connection, as the kernel does for a process that ends."""
        if self._channel is not None:
            self.hang_up()
            self._thread.join(DEADLINE)
            self._channel.close()
            self._channel = None

    def hang_up(self) -> None:
        """Shut the connection down; a thread that reads it wakes."""
        assert self._channel is not None
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._channel.fileno())) as connection:
            connection.shutdown(socket.SHUT_RDWR)


LOAD = Load(0, 0, 0, 3, 1, 512, 65536, 1000, 250, 2, 77)
STEP_TOKENS = StepTokens((60, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 2), 90_000)


def answering(text: bytes | str, end: int | None = 256, at_a_time: int = 1) -> Script:
    """Say `text` byte by byte, as the test tokenizer has a token a byte, then `end`; or stop at max_tokens."""
    tokens = [byte_token(byte) for byte in (text.encode() if isinstance(text, str) else text)]

    def script(prompt: list[int], sampling: SamplingParams) -> list[RequestOutput]:
        whole = tokens if end is None else [*tokens, end]
        said = whole[: sampling.max_tokens]
        reason = FinishReason.STOP if len(said) == len(whole) and end is not None else FinishReason.LENGTH
        steps = [said[start : start + at_a_time] for start in range(0, len(said), at_a_time)]
        return [
            an_output(
                step,
                reason if step is steps[-1] else None,
                logprobs=None if sampling.logprobs is None else [scored(token, sampling.logprobs) for token in step],
                prompt_logprobs=None
                if sampling.prompt_logprobs is None or number
                else [None, *(scored(token, sampling.prompt_logprobs) for token in prompt[1:])],
                cached_tokens=2 if number == 0 else 0,
                times=PhaseTimes(0.25, 0.5) if number == 0 else None,
            )
            for number, step in enumerate(steps)
        ]

    return script


def scored(token: int, top: int) -> TokenLogprobs:
    """The token is the second most likely."""
    others = [(token + 1 + number) % 256 for number in range(top)]
    return TokenLogprobs(-0.5, 2, others, [-0.25 - number for number in range(top)])


def byte_token(byte: int) -> int:
    """The test tokenizer's id of a byte: its alphabet in order of characters."""
    return _ORDER[byte]


_ORDER = {byte: index for index, (_, byte) in enumerate(sorted(byte_alphabet().items()))}


def a_config(folder: Path, chat_template: str | None = None, **http: Any) -> Config:
    return Config(
        model=ModelOptions(served_model_name=("test-model", "other/name"), chat_template=chat_template),
        parallel=ParallelOptions(),
        engine=EngineOptions(),
        http=HttpOptions(**http),
        service=ServiceOptions(),
        facts=msgspec.structs.replace(read(folder, None), chat_template=Path(chat_template).read_text())
        if chat_template
        else read(folder, None),
    )


class ServedApi:
    """The API server on a thread of its own, on a socket bound by the test. A context manager."""

    def __init__(
        self,
        folder: Path,
        rank: FakeRank | Script | None = None,
        attach: bool = True,
        routes: tuple[Route, ...] = ROUTES,
        patience: float = 0.0,
        **options: Any,
    ) -> None:
        """`rank`: one with its ways, or what it answers; `attach`: it is there from the start."""
        self.rank = rank if isinstance(rank, FakeRank) else FakeRank(rank)
        self.config = a_config(folder, **options)
        self._routes = routes
        self._patience = patience
        self.metrics = Metrics()
        self.tokenizer = ModelTokenizer.load(folder)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._folder = tempfile.TemporaryDirectory(prefix="ph-")
        self._engine_socket = bind_unix(Path(self._folder.name) / "api-0")
        self._attach = attach
        self._changed = threading.Condition()
        self._ranks = 0
        self.port: int = self._socket.getsockname()[1]
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.siblings: list[bytes] = []

    @property
    def url(self) -> str:
        return f"{self.config.http.scheme}://127.0.0.1:{self.port}"

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    def _hear(self, message: ToSupervisor) -> None:
        """As the supervisor, which tells of the other API servers what the test says."""
        if isinstance(message, MetricsQuery):
            self.state.supervisor.receive(MetricsGathered(message.query, tuple(self.siblings)))

    async def _serve(self) -> None:
        def on_change() -> None:
            self.state.ranks_changed()
            with self._changed:
                self._ranks = len(self.engine.ranks())
                self._changed.notify_all()

        self.loop = asyncio.get_running_loop()
        self.engine = EngineClient(ApiServerId(0), on_change, self._patience)
        self.state = AppState(
            config=self.config,
            engine=self.engine,
            tokenizer=self.tokenizer,
            chat_template=load_template(self.config, self.tokenizer),
            metrics=self.metrics,
            supervisor=SupervisorClient(self._hear, self.metrics),
            ranks=ServiceRanks(self.engine, lambda message: None, self.config.parallel.data_parallel_size),
            started=1700000000,
            max_model_len=self.config.facts.max_model_len,
        )
        self.server = HttpServer(Application(self.state, self._routes), self.state, on_start=self._started.set)
        await self.engine.listen([self._engine_socket], SECURITY)
        try:
            await self.server.serve(sockets=[self._socket])
        finally:
            self.engine.close()

    def __enter__(self) -> "ServedApi":
        self._thread.start()
        assert self._started.wait(DEADLINE)
        # Without certificates to load, which takes longer than most tests.
        self.http = httpx.Client(base_url=self.url, timeout=DEADLINE, verify=False)
        if self._attach:
            self.attach()
        return self

    def attach(self) -> None:
        self.rank.attach(address_of(self._engine_socket), SECURITY)
        self.wait_ranks(1)

    def wait_ranks(self, count: int) -> None:
        """Until so many ranks are attached and have told their load."""
        with self._changed:
            met = self._changed.wait_for(lambda: self._ranks == count, DEADLINE)
        assert met, f"{self._ranks} attached"

    def __exit__(self, *exc: object) -> None:
        self.http.close()
        self.stop()
        self.rank.die()
        self.tokenizer.close()
        self._folder.cleanup()

    def drain(self) -> None:
        """As the supervisor asks for it; once it has been heard."""
        heard = threading.Event()

        def drain() -> None:
            self.server.drain(lambda: None)
            heard.set()

        self.loop.call_soon_threadsafe(drain)
        assert heard.wait(DEADLINE)

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # stopped already
            self.loop.call_soon_threadsafe(self.server.stop)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()


def events(body: bytes) -> list[Any]:
    """The JSON of a stream's events, `[DONE]` left out."""
    found = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    return [msgspec.json.decode(event) for event in found if event != b"[DONE]"]
