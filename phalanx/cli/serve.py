"""`phalanx serve`: one model, many API servers, many ranks, until a signal."""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shlex
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import setproctitle

from phalanx import signals
from phalanx.api import https
from phalanx.checkpoint import fingerprints
from phalanx.checkpoint.errors import CheckpointError
from phalanx.checkpoint.facts import read
from phalanx.checkpoint.families import read_shape
from phalanx.checkpoint.find import find, find_weights
from phalanx.cli import config_file, key_sources
from phalanx.cli.cluster_tls import cluster_files
from phalanx.cli.contradictions import refuse_contradictions, refuse_unfit
from phalanx.cli.options import Given, UsageError, build, refuse_bytes, serve_parser
from phalanx.cli.secret import service_secret
from phalanx.config import Config
from phalanx.hosting.children import Commands
from phalanx.streams import say
from phalanx.supervisor import activation
from phalanx.supervisor.activation import UnfitSockets
from phalanx.supervisor.events import ExitCode
from phalanx.transport.http_listeners import HttpListeners
from phalanx.transport.listener import WILDCARDS, bind_http
from phalanx.transport.security import Security
from phalanx.transport.socket_file import SocketFile
from phalanx.transport.tls import FLAGS

SUMMARY = "serve a model over an OpenAI-compatible HTTP API"


def run(arguments: Sequence[str], commands: Commands | None = None) -> int:
    """Serve until stopped, and return the exit status. `commands` starts other programs as children.

    Raises:
        UsageError, CheckpointError: nothing was started.
    """
    given = parse(arguments)
    # This comes first: until here `ps` shows what was typed, and what follows may take minutes.
    setproctitle.setproctitle("phalanx supervisor")
    for warning in given.warnings:
        say(sys.stderr, f"phalanx serve: warning: {warning}")
    given = with_certificates(given)
    parallel = given.options.parallel
    files = cluster_files(
        parallel.cluster_ssl_certfile,
        parallel.cluster_ssl_keyfile,
        parallel.cluster_ssl_ca_certs,
        spans_machines=parallel.spans_machines,
    )
    http = given.options.http
    secret = service_secret(parallel) or secrets.token_hex(32)
    with contextlib.ExitStack() as stack:

        def end_at_once(number: int, frame: object) -> NoReturn:
            stack.close()
            # A download waits for its threads on the way out; there is nothing more that has to be put in order.
            os._exit(ExitCode.OK)

        # Until the service's own handlers are in place nothing runs that needs an orderly end.
        for number in signals.heeded():
            signal.signal(number, end_at_once)
        try:
            # This comes before the checkpoint, which may have to be fetched: a port in use is told at once.
            given, listeners = http_sockets(given)
        except OSError as error:
            what = f"--host {http.host}: " if isinstance(error, socket.gaierror) else ""
            return _no_address(f"{what}{error.strerror or error}")
        if listeners.file is not None:
            stack.callback(listeners.file.remove)
        for warning in key_sources.exposure_warnings(
            given.options.http, (sock for each in listeners.sockets for sock in each)
        ):
            say(sys.stderr, f"phalanx serve: warning: {warning}")
        return _serve(configuration(given), listeners, commands, Security(secret.encode(), files))


def with_certificates(given: Given) -> Given:
    """The options with the files of HTTPS by their whole paths, once they have been tried.

    Raises:
        UsageError: they cannot be used; the message says which and why.
    """
    http = https.absolute(given.options.http)
    for path in (http.ssl_certfile, http.ssl_keyfile, http.ssl_keyfile_password_file, http.ssl_ca_certs):
        refuse_bytes(path, f"{path!r}")  # The working folder is a part of it now.
    try:
        https.context(http)
    except https.CertificateError as error:
        raise UsageError(str(error)) from None
    return given.with_http(http)


def http_sockets(given: Given) -> tuple[Given, HttpListeners]:
    """Listening sockets for each API server, passed to this process or bound by it; the options say where they listen.

    Raises:
        OSError: the address cannot be had, or what was passed is not fit to serve on.
    """
    http, parallel = given.options.http, given.options.parallel
    passed = activation.passed_sockets(os.environ)
    if http.uds is not None:
        if passed:
            raise UnfitSockets(f"{given.origins['uds']} and the sockets that the service manager passed: use one")
        file = SocketFile(Path(http.uds).absolute(), int(http.uds_mode, 8))
        return given, HttpListeners(file.for_api_servers(parallel.own_api_servers), file=file)
    if not passed:
        return given, HttpListeners(bind_http(http.host, http.port, parallel.own_api_servers))
    asked_host, asked_port = ("host" in given.origins, "port" in given.origins)
    activation.check_address(passed, http.host if asked_host else None, http.port if asked_port else None)
    sockets = activation.dealt_by_address(passed, parallel.own_api_servers)
    if on_ports := activation.on_ports(passed):
        # Nodes on other machines listen at the same port.
        host, port = on_ports[0].getsockname()[:2]
        http = msgspec.structs.replace(http, host=host, port=port)
    for name in ("api_servers_per_node", "frontend_command"):
        if name in given.origins and len(on_ports) < len(passed):
            raise UnfitSockets(f"{given.origins[name]} needs a port, and the service manager passed a socket file")
    return given.with_http(http), HttpListeners(sockets, passed=True)


def parse(arguments: Sequence[str]) -> Given:
    """The options, from the command line and the file it may name.

    Raises:
        UsageError: says which option and why.
    """
    values = serve_parser().parse(arguments)
    path = values.pop("config", None)
    file = config_file.read(Path(path)) if path is not None else {}
    given = key_sources.gather(build(values, file, str(path)))
    refuse_contradictions(given)
    return given


def configuration(given: Given) -> Config:
    """The whole configuration with the facts of the checkpoint, which is fetched where it must be, its weights last.

    Raises:
        UsageError, CheckpointError: says what does not fit.
    """
    options, model = given.options, given.options.model
    folder = find(model)
    if options.runs_model:
        refuse_unsupported(folder, model.model or "the demo model")
    facts = read(folder, model.max_model_len)
    if model.chat_template is not None:
        facts = msgspec.structs.replace(facts, chat_template=_text(Path(model.chat_template)))
    config = Config(facts=facts, **msgspec.structs.asdict(options))
    refuse_unfit(config)
    if not config.reads_weights:
        return config
    digests = facts.fingerprints | fingerprints.of_weights(find_weights(model, folder))
    return msgspec.structs.replace(config, facts=msgspec.structs.replace(facts, fingerprints=digests))


def refuse_unsupported(folder: Path, name: str) -> None:
    """Raise CheckpointError, in two lines, where config.json describes a model that ranks could not run."""
    try:
        read_shape(folder)
    except CheckpointError as error:
        raise CheckpointError(
            f"{name} cannot be run: nothing was started, no weights were fetched\n  {error}"
        ) from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--chat-template: cannot read {path}: {error}") from None


def _serve(config: Config, http: HttpListeners, commands: Commands | None, security: Security) -> int:
    # Imported here, since what is refused needs no event loop to be told.
    import uvloop

    from phalanx.supervisor import report
    from phalanx.supervisor.picture import PictureLog
    from phalanx.supervisor.pictures import picture_for
    from phalanx.supervisor.service_manager import Manager, Notifications
    from phalanx.supervisor.sockets import Sockets
    from phalanx.supervisor.supervisor import Supervisor, Watcher

    # From here on a signal waits for the supervisor's own handlers: there is a folder to remove.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOP_SIGNALS)
    try:
        bound = Sockets(http, config.parallel, config.http.scheme, encrypted=security.encrypts)
    except OSError as error:
        return _no_address(error.strerror or str(error))
    with contextlib.ExitStack() as stack:
        sockets = stack.enter_context(bound)
        picture = picture_for(sys.stderr, lambda urls: say(sys.stdout, _announcement(config, sockets.urls, urls)))
        logging.basicConfig(level=config.service.log_level.upper(), handlers=[PictureLog(picture)])
        if sockets.remote_control is not None and config.parallel.data_parallel_backend == "mp":
            logging.getLogger(__name__).info("%s", _invitation(config, sockets.remote_control, security))
        stack.callback(picture.close)
        watcher: Watcher = picture
        try:
            manager = Manager.of(os.environ)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if manager is not None:
            watcher = stack.enter_context(contextlib.closing(Notifications(manager, picture)))
        supervisor = Supervisor(config, sockets, watcher, security, commands)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            finish = runner.run(supervisor.run())
    if finish.failure is not None:
        words = supervisor.last_words(finish.failure.child)
        left_behind = [str(child) for child in finish.left_behind]
        say(sys.stderr, f"\n{report.full(finish.failure, words, left_behind)}")
    elif finish.left_behind:
        names = ", ".join(str(child) for child in finish.left_behind)
        say(sys.stderr, f"phalanx serve: did not end even after SIGKILL: {names}")
    return finish.exit_code


def _no_address(reason: str) -> ExitCode:
    say(sys.stderr, f"phalanx serve: {reason}")
    return ExitCode.ADDRESS


def _invitation(config: Config, control: socket.socket, security: Security) -> str:
    """What to type on the other machines."""
    host, port = control.getsockname()[:2]
    first, missing = config.parallel.local_ranks, config.parallel.data_parallel_size - config.parallel.local_ranks
    files = f" {' ... '.join(FLAGS)} ..." if security.encrypts else ""
    return (
        f"ranks {first} to {first + missing - 1} come from other machines, with the same PHALANX_SECRET: phalanx join "
        f"--control {'THIS-MACHINE' if host in WILDCARDS else host}:{port} --data-parallel-start-rank {first} "
        f"--data-parallel-size-local {missing}{files}"
    )


def _announcement(config: Config, urls: list[str], elsewhere: list[str]) -> str:
    """Where the service is, for a person and for a script, and a request to paste."""
    name = config.served_names[0]
    ranks, servers = config.parallel.data_parallel_size, config.parallel.own_api_servers
    also = "".join(f"\nand at {other} ({_count(servers, 'API server')})" for other in elsewhere)
    path = "chat/completions"
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    if config.parallel.frontend_command is not None:
        # What it serves is its own affair; token ids are what every front-end can pass on.
        path, asked = "completions", {"prompt": [1, 2, 3], "max_tokens": 16}
    body = json.dumps({"model": name, **asked})
    # 0.0.0.0 and [::] are where to listen, not where to connect.
    reachable = urls[0].replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    if urls[0].startswith("unix:"):
        reachable = f"--unix-socket {shlex.quote(urls[0].removeprefix('unix:'))} {config.http.scheme}://localhost"
    key = ' -H "Authorization: Bearer $PHALANX_API_KEY"' if config.http.api_key else ""
    at = " and ".join(urls)
    return (
        f"\nPhalanx serves {name} at {at} ({_count(servers, 'API server')}, {_count(ranks, 'rank')}){also}\n\n"
        f"    curl {reachable}/v1/{path}{key} -H 'Content-Type: application/json' \\\n"
        f"        -d {shlex.quote(body)}\n"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
