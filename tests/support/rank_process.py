"""A rank's process under test, between a supervisor and API servers that the test plays itself.

Each played party is an ordinary listener with a thread that reads into a queue; tests wait on those queues.
"""

import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from phalanx.config import Config, EngineOptions, HttpOptions, ModelFacts, ModelOptions, ParallelOptions, ServiceOptions
from phalanx.protocol import (
    Abort,
    ApiServerId,
    ApiServers,
    Endpoint,
    EngineHello,
    Failed,
    Hello,
    Message,
    Pulse,
    Ready,
    RequestId,
    RequestOutput,
    SamplingParams,
    Stage,
    StepOutput,
    StepTokens,
    Submit,
    ToApi,
    ToSupervisor,
    Welcome,
)
from phalanx.transport.channel import Channel
from phalanx.transport.handshake import HandshakeRefused, Listener, Refusal
from phalanx.transport.listener import address_of, bind_unix

SECRET = b"0123456789abcdef0123456789abcdef"
INCARNATION = 4
DEADLINE = 60.0
"""Seconds any wait may take before the test fails; generous, since nothing here asserts on speed."""

T = TypeVar("T")
EOF = object()


def config(*, folder: str = "", facts: dict[str, Any] | None = None, **engine: Any) -> Config:
    """A synthetic rank's configuration with these engine options."""
    known: dict[str, Any] = {
        "folder": folder,
        "architecture": "LlamaForCausalLM",
        "vocab_size": 1000,
        "max_model_len": 4096,
        "eos_token_ids": (2,),
        "default_sampling": {},
    }
    return Config(
        model=ModelOptions(),
        parallel=ParallelOptions(),
        engine=EngineOptions(**{"engine": "synthetic", **engine}),
        http=HttpOptions(),
        service=ServiceOptions(),
        facts=ModelFacts(**{**known, **(facts or {})}),
    )


def accept(listener: socket.socket, secret: bytes = SECRET) -> Channel:
    """Take one connection and let it prove itself. Raises HandshakeRefused where it cannot."""
    listener.settimeout(DEADLINE)
    sock, _ = listener.accept()
    sock.settimeout(DEADLINE)
    channel = Channel(sock, "the rank")
    handshake = Listener(secret)
    try:
        while not handshake.done:
            answer = handshake.receive(channel._receive_body())
            if answer is not None:
                channel.send(answer)
    except BaseException as error:
        if isinstance(error, HandshakeRefused):
            with contextlib.suppress(OSError):
                channel.send(Refusal(str(error)))
        channel.close()
        raise
    sock.settimeout(None)
    return channel


def end_of(process: "subprocess.Popen[bytes]") -> tuple[int, str]:
    """Its exit status and all it printed."""
    output, _ = process.communicate(timeout=DEADLINE)
    return process.returncode, output.decode()


def see_off(process: "subprocess.Popen[bytes]") -> None:
    """Its control connection is closed: an orphan must end by itself. Killed in any case."""
    try:
        process.wait(DEADLINE)
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


class Reader:
    """Reads one connection on a thread."""

    def __init__(self, channel: Channel, kind: Any) -> None:
        self.channel = channel
        self._messages: queue.Queue[Any] = queue.Queue()
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while True:
                self._messages.put(self.channel.receive(self._decoder))
        except (ConnectionError, ValueError):
            self._messages.put(EOF)

    def next(self) -> Any:
        """The next message, or EOF."""
        return self._messages.get(timeout=DEADLINE)

    def until(self, kind: type[T]) -> T:
        """The next message of a kind; others before it are dropped."""
        while True:
            message = self.next()
            assert message is not EOF, f"the connection ended before a {kind.__name__} came"
            if isinstance(message, kind):
                return message

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.channel._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE)
        self.channel.close()


class PlayedApiServer:
    """An API server's listener, and what the rank tells it."""

    def __init__(self, index: int, folder: Path) -> None:
        self.index = ApiServerId(index)
        self.listener = bind_unix(folder / f"api{index}-{time.monotonic_ns()}")
        self.endpoint = Endpoint(self.index, address_of(self.listener))
        self.reader: Reader
        self.outputs: dict[int, list[RequestOutput]] = {}
        self.loads: list[Any] = []
        self.step_tokens: StepTokens | None = None
        """As last told."""

    def attach(self) -> EngineHello:
        """Take the rank's connection."""
        self.reader = Reader(accept(self.listener), ToApi)
        return self.reader.until(EngineHello)

    def submit(self, number: int, prompt: list[int] | None = None, **options: Any) -> RequestId:
        further = {name: options.pop(name) for name in ("generated", "expected_tokens", "priority") if name in options}
        sampling = SamplingParams(**{"max_tokens": 20, "ignore_eos": True, "seed": 7, **options})
        self.send(Submit(RequestId(number), prompt or [5, 6, 7], sampling, **further))
        return RequestId(number)

    def abort(self, *numbers: int) -> None:
        self.send(Abort([RequestId(number) for number in numbers]))

    def send(self, message: Message) -> None:
        self.reader.channel.send(message)

    def step(self) -> StepOutput:
        """The next report of the rank."""
        step = self.reader.until(StepOutput)
        self.loads.append(step.load)
        self.step_tokens = step.step_tokens or self.step_tokens
        for output in step.outputs:
            self.outputs.setdefault(output.request_id, []).append(output)
        return step

    def wait(self, condition: Callable[["PlayedApiServer"], object]) -> None:
        while not condition(self):
            self.step()

    def result(self, number: int) -> tuple[list[int], RequestOutput]:
        """All tokens of a request, and the output that ended it."""
        self.wait(lambda api: number in api.outputs and api.outputs[number][-1].finish is not None)
        return self.tokens(number), self.outputs[number][-1]

    def tokens(self, number: int) -> list[int]:
        return [token for output in self.outputs.get(number, []) for token in output.tokens]

    def close(self) -> None:
        if hasattr(self, "reader"):
            self.reader.close()
        self.listener.close()


_HAND_ON = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); \
os.execv(sys.argv[2], sys.argv[2:])"
"""Become another program, with a socket at descriptor 3."""


def start_process(
    control: str, index: int, secret: bytes = SECRET, *, worker: int = 0, workers: socket.socket | None = None
) -> subprocess.Popen[bytes]:
    """`workers`: the listening socket that worker 0 inherits."""
    command = [sys.executable, "-m", "phalanx.engine", "--control", control, "--index", str(index)]
    command += ["--incarnation", str(INCARNATION), *(["--worker", str(worker)] if worker else [])]
    env = {**os.environ, "PHALANX_SECRET": secret.decode()}
    if workers is not None:
        command = [sys.executable, "-SEc", _HAND_ON, str(workers.fileno()), *command]
        env |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "workers"}
    return subprocess.Popen(
        command,
        env=env,
        pass_fds=[workers.fileno()] if workers is not None else [],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


class Rank:
    """The process, which has said Hello and been welcomed."""

    def __init__(
        self,
        folder: Path,
        configuration: Config,
        api_servers: list[PlayedApiServer],
        index: int = 0,
        *,
        worker: int = 0,
        workers: socket.socket | None = None,
        leader: str = "",
        complete: bool = True,
    ) -> None:
        self.api_servers = api_servers
        self._control_listener = bind_unix(folder / f"control-{time.monotonic_ns()}")
        self.process = start_process(address_of(self._control_listener), index, worker=worker, workers=workers)
        try:
            self.control = Reader(accept(self._control_listener), ToSupervisor)
        except BaseException:
            self.process.kill()
            raise AssertionError(f"the rank has not enlisted: {self.wait()}") from None
        self.hello = self.control.until(Hello)
        self.told = ApiServers(tuple(api.endpoint for api in api_servers), complete)
        self.control.channel.send(Welcome(configuration, self.told, leader))

    def tell(self, message: Message) -> None:
        self.control.channel.send(message)

    def reports(self) -> list[Stage | Ready | Failed]:
        """Everything it reports up to Ready, Failed or its end."""
        found: list[Stage | Ready | Failed] = []
        while not found or isinstance(found[-1], Stage):
            message = self.control.next()
            if message is EOF:
                break
            # A sign of life comes every second, also before it is ready.
            if not isinstance(message, Pulse):
                found.append(message)
        return found

    def ready(self) -> "Rank":
        """Attach the API servers, in order, and wait until the rank is ready."""
        for api in self.api_servers:
            api.attach()
        last = self.reports()[-1]
        assert isinstance(last, Ready), last
        return self

    def wait(self) -> tuple[int, str]:
        """Its exit status and all it printed."""
        return end_of(self.process)

    def close(self) -> None:
        self.control.close()
        self._control_listener.close()
        see_off(self.process)


@contextlib.contextmanager
def running(
    folder: Path, configuration: Config | None = None, api_servers: int = 1, index: int = 0, **further: Any
) -> Iterator[tuple[Rank, list[PlayedApiServer]]]:
    """A rank that has been welcomed, and the API servers it will dial; all are gone afterwards."""
    with contextlib.ExitStack() as stack:
        played = [PlayedApiServer(number, folder) for number in range(api_servers)]
        for api in played:
            stack.callback(api.close)
        rank = Rank(folder, configuration or config(), played, index, **further)
        stack.callback(rank.close)
        yield rank, played
