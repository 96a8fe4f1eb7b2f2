"""A front-end that knows nothing of Phalanx but what docs/protocol.md says: an example to start from, and its proof.

    phalanx serve MODEL --api-server-count 2 --frontend-command 'python minimal_frontend.py'

Standard library and a msgpack codec. Threads that block, one a connection: simple, not fast.

    GET  /ready     the ranks that are attached
    POST /generate  {"prompt": [1, 2, 3], "max_tokens": 16} -> {"tokens": [...], "rank": 0, "finish": 2, "index": 1}
"""

import hashlib
import hmac
import itertools
import json
import os
import queue
import random
import secrets
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

pack, unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode  # any msgpack codec will do

VERSION = 2
HELLO, STAGE, READY, FAILED, WELCOME, STOP, METRICS_REQUEST, METRICS_REPORT = 1, 2, 3, 4, 21, 22, 23, 5
SUBMIT, ABORT, ENGINE_HELLO, STEP_OUTPUT = 40, 41, 60, 61
OPENING, CHALLENGE, PROOF, ACCEPTED, REFUSAL = range(5)
MAX_FRAME, MAX_UNPROVEN = 64 * 2**20, 1024
EXIT_FAILED, EXIT_ORPHANED = 1, 70
PATIENCE = 60.0


class Gone(Exception):
    """The other end has closed, or broke the protocol."""


class Connection:
    """Frames on a stream socket: four bytes of length, little-endian, then a msgpack array."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._sending = threading.Lock()

    def send(self, *message: Any) -> None:
        body = pack(message)
        with self._sending:
            self.socket.sendall(struct.pack("<I", len(body)) + body)

    def receive(self, limit: int = MAX_FRAME) -> list[Any]:
        (length,) = struct.unpack("<I", self._exactly(4))
        if length > limit:
            raise Gone(f"a frame of {length} bytes")
        message = unpack(self._exactly(length))
        if not isinstance(message, list) or not message:
            raise Gone(f"no message: {message!r}")
        return message

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise Gone("end of file")
            data += part
        return bytes(data)


# --- handshake ------------------------------------------------------------------------------------


def proof(key: bytes, side: str, dialer_nonce: bytes, listener_nonce: bytes) -> bytes:
    label = f"phalanx {VERSION} {side} ".encode()
    return hmac.digest(key, label + dialer_nonce + listener_nonce, hashlib.sha256)


def prove_as_dialer(connection: Connection, key: bytes) -> None:
    nonce = secrets.token_bytes(32)
    connection.send(OPENING, "phalanx", VERSION, nonce)
    tag, *fields = connection.receive(MAX_UNPROVEN)
    if tag == REFUSAL:
        raise Gone(f"refused: {fields[0]}")
    version, other, theirs = fields[:3]
    if version != VERSION or not hmac.compare_digest(theirs, proof(key, "listener", nonce, other)):
        raise Gone("the listener speaks another version or does not know the secret")
    connection.send(PROOF, proof(key, "dialer", nonce, other))
    tag, *fields = connection.receive(MAX_UNPROVEN)
    if tag != ACCEPTED:
        raise Gone(f"refused: {fields[0]}")


def prove_as_listener(connection: Connection, key: bytes) -> None:
    tag, magic, version, other = connection.receive(MAX_UNPROVEN)[:4]
    if (tag, magic, version) != (OPENING, "phalanx", VERSION):
        connection.send(REFUSAL, f"protocol version {version} at the dialer, {VERSION} at the listener")
        raise Gone("another protocol")
    nonce = secrets.token_bytes(32)
    connection.send(CHALLENGE, VERSION, nonce, proof(key, "listener", other, nonce))
    tag, theirs = connection.receive(MAX_UNPROVEN)[:2]
    if tag != PROOF or not hmac.compare_digest(theirs, proof(key, "dialer", other, nonce)):
        connection.send(REFUSAL, "the dialer does not know the launch secret")
        raise Gone("wrong proof")
    connection.send(ACCEPTED)


def dial(address: str) -> Connection:
    scheme, _, rest = address.partition(":")
    if scheme == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(rest)
    else:
        host, _, port = rest.rpartition(":")
        sock = socket.create_connection((host.strip("[]"), int(port)))
    return Connection(sock)


# --- how it was started ---------------------------------------------------------------------------


class Launch:
    """The command line, the secret, and the inherited sockets by name."""

    def __init__(self, arguments: list[str]) -> None:
        options = dict(zip(arguments[::2], arguments[1::2], strict=True))
        self.control = options["--control"]
        self.index, self.incarnation = int(options["--index"]), int(options["--incarnation"])
        self.key = os.environ.pop("PHALANX_SECRET").encode()
        self.sockets: dict[str, list[socket.socket]] = {}
        if os.environ.pop("LISTEN_PID") != str(os.getpid()):
            raise SystemExit("the sockets are not meant for this process")
        count, names = int(os.environ.pop("LISTEN_FDS")), os.environ.pop("LISTEN_FDNAMES").split(":")
        for descriptor, name in zip(range(3, 3 + count), names, strict=True):
            os.set_inheritable(descriptor, False)
            self.sockets.setdefault(name, []).append(socket.socket(fileno=descriptor))


# --- engine plane ---------------------------------------------------------------------------------


class Rank:
    """One attached rank."""

    def __init__(self, connection: Connection, hello: list[Any]) -> None:
        self.connection = connection
        self.number, self.incarnation = hello[:2]
        self.others = (0, 0)
        """Prompt tokens and output tokens that other front-ends have there."""
        self.own = 0
        """Tokens that we expect of it still."""
        self.live: dict[int, queue.SimpleQueue[list[Any]]] = {}

    @property
    def work(self) -> float:
        return self.own + 0.2 * self.others[0] + self.others[1]


class Ranks:
    def __init__(self, key: bytes) -> None:
        self._key = key
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self.attached: dict[int, Rank] = {}

    def accept(self, listener: socket.socket) -> None:
        """Take ranks that dial; for a thread of its own."""
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=self._serve, args=(Connection(sock),), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        rank = None
        try:
            prove_as_listener(connection, self._key)
            tag, *hello = connection.receive()
            if tag != ENGINE_HELLO:
                raise Gone(f"a rank began with message {tag}")
            rank = self._attach(Rank(connection, hello))
            while True:
                tag, *fields = connection.receive()
                if tag != STEP_OUTPUT:
                    raise Gone(f"a rank said message {tag}")
                outputs, load = fields[:2]
                rank.others = (load[0], load[1])
                for output in outputs:
                    if (waiting := rank.live.get(output[0])) is not None:
                        waiting.put(output)
        except (Gone, OSError, ValueError, msgspec.DecodeError) as error:
            print(f"a rank's connection ended: {error}", flush=True)
        finally:
            connection.socket.close()
            if rank is not None:
                self._detach(rank)

    def _attach(self, rank: Rank) -> Rank:
        with self._lock:
            old = self.attached.get(rank.number)
            if old is not None and old.incarnation > rank.incarnation:
                raise Gone(f"incarnation {rank.incarnation} of rank {rank.number} has been replaced")
            self.attached[rank.number] = rank
        if old is not None:
            old.connection.socket.close()
        return rank

    def _detach(self, rank: Rank) -> None:
        with self._lock:
            if self.attached.get(rank.number) is rank:
                del self.attached[rank.number]
        for request_id, waiting in list(rank.live.items()):
            waiting.put([request_id, [], 4, None, None, None, 0, f"rank {rank.number} has gone"])

    def generate(
        self, prompt: list[int], max_tokens: int, generated: list[int], seed: int, number: int | None
    ) -> tuple[Rank, list[int], int, str]:
        """Run a request on the rank of that number, or on the one with the least to do.

        Returns the rank, the tokens, why it ended (FinishReason) and the error, if it was one.
        """
        with self._lock:
            if not self.attached:
                raise LookupError("no rank is attached")
            equal = sorted(self.attached.values(), key=lambda rank: (rank.work, random.random()))
            rank = equal[0] if number is None else self.attached[number]
            request_id = next(self._ids)
            waiting = rank.live[request_id] = queue.SimpleQueue()
            rank.own += max_tokens
        sampling = [max_tokens, 0, 1.0, 1.0, 0, 0.0, 0.0, 0.0, 1.0, seed]  # the fields after it have defaults
        tokens: list[int] = []
        done = False
        try:
            rank.connection.send(SUBMIT, request_id, prompt, sampling, generated, max_tokens)
            while True:
                output = waiting.get(timeout=PATIENCE)
                tokens += output[1]
                if output[2] is not None:
                    done = True
                    return rank, tokens, output[2], output[7]
        finally:
            del rank.live[request_id]
            rank.own -= max_tokens
            if not done:
                rank.connection.send(ABORT, [request_id])


# --- HTTP -----------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    ranks: Ranks
    launch: Launch

    def do_GET(self) -> None:
        if self.path != "/ready":
            self._reply(404, {"error": f"there is no {self.path}"})
            return
        attached = sorted(self.ranks.attached)
        self._reply(200 if attached else 503, {"index": self.launch.index, "ranks": attached})

    def do_POST(self) -> None:
        try:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            rank, tokens, finish, error = self.ranks.generate(
                asked["prompt"],
                asked["max_tokens"],
                asked.get("generated", []),
                asked.get("seed", secrets.randbits(64)),
                asked.get("rank"),
            )
        except LookupError as trouble:
            self._reply(503, {"error": str(trouble)})
            return
        answer = {"index": self.launch.index, "rank": rank.number, "tokens": tokens, "finish": finish, "error": error}
        self._reply(500 if error else 200, answer)

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Http(ThreadingHTTPServer):
    """On a socket that is bound and listens already."""

    daemon_threads = True

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock


# --- life -----------------------------------------------------------------------------------------


def enlist(launch: Launch) -> tuple[Connection, dict[str, Any]]:
    """Join the service; the control connection and the configuration."""
    control = dial(launch.control)
    prove_as_dialer(control, launch.key)
    control.send(HELLO, "api", launch.index, launch.incarnation, os.getpid())
    tag, *fields = control.receive()
    if tag != WELCOME:
        raise Gone(f"the supervisor refused us: {fields[0]}")
    return control, fields[0]


def main(arguments: list[str]) -> None:
    launch = Launch(arguments)
    control, config = enlist(launch)
    control.send(STAGE, "started")
    Handler.launch, Handler.ranks = launch, Ranks(launch.key)
    for listener in launch.sockets["engine"]:
        threading.Thread(target=Handler.ranks.accept, args=(listener,), daemon=True).start()
    for listener in launch.sockets["http"]:
        threading.Thread(target=Http(listener).serve_forever, daemon=True).start()
    control.send(STAGE, "attached")
    control.send(READY, f"{len(launch.sockets['engine'])} engine listeners, {config['facts']['vocab_size']} tokens")
    while True:
        try:
            tag, *fields = control.receive()
        except (Gone, OSError):
            os._exit(EXIT_ORPHANED)
        if tag == METRICS_REQUEST:
            control.send(METRICS_REPORT, fields[0], b"")
        elif tag == STOP:
            print("told to stop", flush=True)
            os._exit(0)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Gone, OSError) as error:
        print(f"the front-end cannot join the service: {error}", flush=True)
        sys.exit(EXIT_FAILED)
