"""CPU time of an API server for each streamed token and each request.

    python benchmarks/api_profile.py [--concurrency 32] [--requests 200] [--output 128] [--rate 50] [--chat] [--profile]

The server is this process, whole: HTTP on a TCP socket, the engine client on a Unix socket. A stand-in rank, in a
process of its own, gives every live request one token a step, `--rate` steps a second; clients in a third process
read the streams. Steps that come faster than the server takes them are merged, which costs less a token, so the
events a token are printed too: it is the cost of single tokens only where that is near 1.

What it taught: waking a task for each token is a fifth to a quarter of a token's cost (hence `Branch.pump`), the
socket's write more than a third; and the same code costs less at 400 steps a second than at 50, where the caches
are cold at every step.
"""

import argparse
import asyncio
import cProfile
import multiprocessing
import os
import pstats
import resource
import socket
import tempfile
import time
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import uvloop

from phalanx.api.app import Application
from phalanx.api.app_state import AppState
from phalanx.api.engine_client import EngineClient
from phalanx.api.metrics import Metrics
from phalanx.api.server import HttpServer, load_template, settle
from phalanx.api.service_ranks import ServiceRanks
from phalanx.api.supervisor_client import SupervisorClient
from phalanx.checkpoint.facts import read
from phalanx.checkpoint.find import DEMO
from phalanx.config import Config, EngineOptions, HttpOptions, ModelOptions, ParallelOptions, ServiceOptions
from phalanx.protocol import (
    ApiServerId,
    EngineHello,
    FinishReason,
    Incarnation,
    Load,
    RankId,
    RequestOutput,
    StepOutput,
    Submit,
    ToEngine,
)
from phalanx.text.tokenizer import ModelTokenizer
from phalanx.transport.channel import dial
from phalanx.transport.listener import address_of, bind_unix
from phalanx.transport.security import Security

SECURITY = Security(b"only for this benchmark")


def rank(address: str, rate: float) -> None:
    """One token a step for every live request."""
    channel = dial(address, SECURITY, 10)
    channel.send(EngineHello(RankId(0), Incarnation(1), 4096, 256, 65536))
    channel.setblocking(False)
    decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
    load = Load(0, 0, 0, 0, 0, 0, 65536, 0, 0, 0, 0)
    left: dict[int, int] = {}
    token = 0
    due = time.monotonic()
    while True:
        for message in channel.drain(decoder):
            if isinstance(message, Submit):
                left[message.request_id] = message.sampling.max_tokens
        outputs = []
        for request_id in list(left):
            token = (token + 7) % 1000 + 300
            left[request_id] -= 1
            finish = None
            if not left[request_id]:
                del left[request_id]
                finish = FinishReason.LENGTH
            outputs.append(RequestOutput(request_id, [token], finish))
        if outputs:
            channel.post(StepOutput(outputs, load))
        due = max(due + 1 / rate, time.monotonic())
        time.sleep(max(due - time.monotonic(), 0))


async def clients(port: int, arguments: argparse.Namespace, pipe: Connection) -> None:
    fields = {"max_tokens": arguments.output, "stream": True, "ignore_eos": True, "temperature": 0}
    if arguments.chat:
        path = "/v1/chat/completions"
        body = msgspec.json.encode({**fields, "messages": [{"role": "user", "content": "count " * 60}]})
    else:
        path = "/v1/completions"
        body = msgspec.json.encode({**fields, "prompt": list(range(300, 364))})
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    todo = deque(range(arguments.requests))
    events = 0

    async def client() -> None:
        nonlocal events
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while todo:
            todo.pop()
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"data: [DONE]\n\n\r\n0\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            events += answer.count(b"\ndata: ") - 1
        writer.close()

    await asyncio.gather(*[client() for _ in range(arguments.concurrency)])
    pipe.send(events)


def run_clients(port: int, arguments: argparse.Namespace, pipe: Connection) -> None:
    asyncio.run(clients(port, arguments, pipe))


async def measure(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.model)
    config = Config(
        ModelOptions(), ParallelOptions(), EngineOptions(), HttpOptions(), ServiceOptions(), read(folder, None)
    )
    tokenizer = ModelTokenizer.load(folder)
    attached = asyncio.Event()
    engine = EngineClient(ApiServerId(0), on_change=attached.set)
    metrics = Metrics()
    state = AppState(
        config=config,
        engine=engine,
        tokenizer=tokenizer,
        chat_template=load_template(config, tokenizer),
        metrics=metrics,
        supervisor=SupervisorClient(lambda message: None, metrics),
        ranks=ServiceRanks(engine, lambda message: None, 1),
        started=0,
        max_model_len=4096,
    )
    sock = socket.create_server(("127.0.0.1", 0))
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as private:
        engine_socket = bind_unix(Path(private) / "engine")
        await engine.listen([engine_socket], SECURITY)
        server = HttpServer(Application(state), state)
        serving = asyncio.create_task(server.serve([sock]))
        stand_in = processes.Process(target=rank, args=(address_of(engine_socket), arguments.rate), daemon=True)
        stand_in.start()
        await attached.wait()
        settle()
        for warm in (True, False):
            ours, theirs = processes.Pipe()
            load = argparse.Namespace(**{**vars(arguments), "requests": 20 if warm else arguments.requests})
            crowd = processes.Process(target=run_clients, args=(sock.getsockname()[1], load, theirs), daemon=True)
            crowd.start()
            await asyncio.sleep(1)  # the crowd's own imports
            began, before = time.monotonic(), os.times()
            profile = cProfile.Profile()
            if arguments.profile and not warm:
                profile.enable()
            events = await asyncio.get_running_loop().run_in_executor(None, ours.recv)
            profile.disable()
            after, seconds = os.times(), time.monotonic() - began
            crowd.join()
        tokens = arguments.requests * arguments.output
        print(f"tokens/s {tokens / seconds:.0f}   events a token {events / tokens:.3f}")
        user, system = after.user - before.user, after.system - before.system
        of_kernel = f"{system / tokens * 1e6:.1f} of them in the kernel"
        print(f"CPU us a token, all included: {(user + system) / tokens * 1e6:.1f}, {of_kernel}")
        print(f"CPU ms a request: {(user + system) / arguments.requests * 1e3:.2f}")
        print(f"resident memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
        if arguments.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(35)
        stand_in.terminate()
        stand_in.join()
        server.stop()
        await serving
        engine.close()
        tokenizer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--profile", action="store_true", help="cProfile's table; it slows what it measures")
    parser.add_argument("--model", default=str(DEMO), help="folder of a checkpoint, for its tokenizer")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(arguments))


if __name__ == "__main__":
    main()
