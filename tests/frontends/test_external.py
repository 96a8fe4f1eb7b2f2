"""`--frontend-command`: a program in place of the API servers, at its best and at its worst.

The good one is `minimal_frontend.py`, which has nothing of ours; the bad ones are that program with one thing broken.
"""

import contextlib
import itertools
import json
import re
import signal
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from support.nodes import join
from support.reports import stuck
from support.service import DEADLINE, Service

from phalanx.supervisor.events import ExitCode

MINIMAL = Path(__file__).parents[1] / "support" / "minimal_frontend.py"
SECRET = "a secret that is to be seen nowhere"
STALL = "6"
"""Seconds without progress after which a front-end counts as stuck; ranks that start beside it must not."""

Start = Callable[..., Service]


def front_end(*words: str | Path) -> tuple[str, str]:
    return ("--frontend-command", " ".join(str(word) for word in (sys.executable, *words)))


def flags(folder: Path, ranks: int = 2, servers: int = 2) -> tuple[str, ...]:
    return (str(folder), "--engine", "synthetic", "-dp", str(ranks), "-asc", str(servers))


def ask(address: str, **request: Any) -> dict[str, Any]:
    """One request on a connection of its own, which may go to any instance."""
    body = json.dumps({"prompt": [1, 2, 3], "max_tokens": 8, "seed": 7, **request}).encode()
    with urllib.request.urlopen(f"{address}/generate", body, timeout=DEADLINE) as answer:
        content = json.load(answer)
    assert isinstance(content, dict)
    return content


def instances(service: Service) -> list[psutil.Process]:
    children = psutil.Process(service.pid).children()
    return sorted((p for p in children if MINIMAL.name in " ".join(p.cmdline())), key=lambda p: p.pid)


def index_of(process: psutil.Process) -> int:
    words = process.cmdline()
    return int(words[words.index("--index") + 1])


def test_each_rank_answers_through_each_instance(start_service: Start, checkpoint_folder: Path) -> None:
    service = start_service(*flags(checkpoint_folder), *front_end(MINIMAL)).wait_ready()
    wanted = {(index, rank) for index in (0, 1) for rank in (0, 1)}
    told = set()
    for _ in range(200):  # the kernel spreads connections over the instances
        for rank in (0, 1):
            answer = ask(service.address, rank=rank)
            assert answer["rank"] == rank
            assert (len(answer["tokens"]), answer["finish"], answer["error"]) == (8, 2, "")
            told.add((answer["index"], rank))
        if told == wanted:
            break
    assert told == wanted
    assert {ask(service.address)["rank"] for _ in range(50)} == {0, 1}  # by its own choice
    assert service.stop() == ExitCode.OK
    assert service.stderr.count("told to stop") == 2


def test_a_request_is_continued_on_another_rank_as_it_would_have_gone_on(
    start_service: Start, checkpoint_folder: Path
) -> None:
    service = start_service(*flags(checkpoint_folder), *front_end(MINIMAL)).wait_ready()
    whole = ask(service.address, rank=0)["tokens"]
    rest = ask(service.address, rank=1, generated=whole[:5])
    assert whole[:5] + rest["tokens"] == whole
    over = ask(service.address, rank=1, generated=whole)
    assert (over["tokens"], over["finish"]) == ([], 2)


def test_it_gets_its_number_its_sockets_and_the_secret_as_promised(
    start_service: Start, checkpoint_folder: Path, tmp_path: Path
) -> None:
    script = tmp_path / "shows.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys
        sys.path.insert(0, {str(MINIMAL.parent)!r})
        import minimal_frontend as front
        shown = {{name: os.environ[name] for name in ("LISTEN_FDS", "LISTEN_FDNAMES")}}
        shown["PID"] = os.environ["LISTEN_PID"] == str(os.getpid())
        shown["OPEN"] = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1]
        shown["STDIN"] = os.readlink("/proc/self/fd/0")
        shown["SECRET"] = len(os.environ["PHALANX_SECRET"])
        shown["KEY"] = os.environ.get("PHALANX_API_KEY")
        shown["LEADS"] = os.getsid(0) == os.getpid()
        print("started with", sys.argv[1:], shown, flush=True)
        front.main(sys.argv[3:])
        """)
    )
    environment = {"PHALANX_SECRET": SECRET, "PHALANX_API_KEY": "not-for-its-environment"}
    command = front_end(script, "--an", "'option with spaces'")
    service = start_service(*flags(checkpoint_folder), *command, env=environment).wait_ready()
    seen = subprocess.run(["ps", "-ww", "-e", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert seen.count(str(script)) >= 2
    assert SECRET not in seen
    assert service.stop() == ExitCode.OK
    told = re.findall(r"\[api (\d)\] started with \[(.*?)\] (\{.*\})", service.stderr)
    assert sorted(index for index, _, _ in told) == ["0", "1"]
    for index, arguments, shown in told:
        ours = rf"'--control', 'unix:/.*/control', '--index', '{index}', '--incarnation', '0'"
        assert re.fullmatch(rf"'--an', 'option with spaces', {ours}", arguments)
        assert shown == str(
            {
                "LISTEN_FDS": "2",
                "LISTEN_FDNAMES": "http:engine",
                "PID": True,
                "OPEN": [0, 1, 2, 3, 4],
                "STDIN": "/dev/null",
                "SECRET": len(SECRET),
                "KEY": None,
                "LEADS": True,
            }
        )
    assert SECRET not in service.output


def test_ranks_of_another_machine_reach_it_over_tcp(checkpoint_folder: Path) -> None:
    where = ("--data-parallel-size-local", "1", "--data-parallel-address", "127.0.0.1")
    with Service(*flags(checkpoint_folder), *where, *front_end(MINIMAL), env={"PHALANX_SECRET": SECRET}) as service:
        service.wait_for("phalanx join --control ")
        found = re.search(r"phalanx join --control (\S+)", service.stderr)
        assert found
        with join(found.group(1), 1, 1, env={"PHALANX_SECRET": SECRET}) as node:
            service.wait_ready()
            assert "2 engine listeners" in service.stderr
            assert {ask(service.address, rank=rank)["rank"] for rank in (0, 1)} == {0, 1}
            assert service.stop() == ExitCode.OK
            assert node.wait() == 0


def test_it_serves_on_every_machine_that_brings_ranks(checkpoint_folder: Path) -> None:
    where = ("--data-parallel-size-local", "1", "--data-parallel-address", "127.0.0.1", "--api-servers-per-node", "1")
    parallel = (str(checkpoint_folder), "--engine", "synthetic", "-dp", "2")
    with Service(*parallel, *where, *front_end(MINIMAL), env={"PHALANX_SECRET": SECRET}) as service:
        service.wait_for("phalanx join --control ")
        found = re.search(r"phalanx join --control (\S+)", service.stderr)
        assert found
        with join(found.group(1), 1, 1, env={"PHALANX_SECRET": SECRET}) as node:
            service.wait_ready()
            also = re.search(r"and at (http://\S+) ", service.stdout)
            assert also
            for address, index in ((service.address, 0), (also[1], 1)):
                told = [ask(address, rank=rank) for rank in (0, 1)]
                assert [(answer["index"], answer["rank"]) for answer in told] == [(index, 0), (index, 1)]
            assert service.stop() == ExitCode.OK
            assert node.wait() == 0


def test_a_program_that_does_not_exist_is_refused_before_anything_starts(checkpoint_folder: Path) -> None:
    with Service(*flags(checkpoint_folder), "--frontend-command", "no-such-front-end --fast") as service:
        assert service.wait() == ExitCode.USAGE
        assert "--frontend-command: there is no program 'no-such-front-end'" in service.stderr
        service.assert_nothing_left()


def test_one_that_dies_while_serving_is_named(checkpoint_folder: Path) -> None:
    with Service(*flags(checkpoint_folder), *front_end(MINIMAL), "--max-restarts", "0") as service:
        service.wait_ready()
        victim = instances(service)[1]
        index = index_of(victim)
        victim.kill()
        assert service.wait() == ExitCode.FAILED
        said = rf"api {index} \(pid {victim.pid}\) failed after serving for [\d.]+ s: killed by SIGKILL"
        assert re.search(said, service.stderr)
        service.assert_nothing_left()


def test_none_outlives_a_supervisor_that_is_killed(checkpoint_folder: Path) -> None:
    with Service(*flags(checkpoint_folder), *front_end(MINIMAL)) as service:
        service.wait_ready()
        assert len(instances(service)) == 2
        service.signal(signal.SIGKILL)
        assert service.wait() == -signal.SIGKILL
        service.seconds_until_no_process_is_left()


# --- one thing broken -----------------------------------------------------------------------------

BAD = f"""
import os, sys, time
sys.path.insert(0, {str(MINIMAL.parent)!r})
import minimal_frontend as front

def leave(status):
    print("my last words", flush=True)
    os._exit(status)

def hang():
    print("my last words", flush=True)
    time.sleep(1000)

def at(moment, deed):
    "Do `deed` where a function of the good front-end is called."
    name, before = moment
    owner = front.Connection if name == "send" else front
    good = getattr(owner, name)
    def bad(*arguments):
        if before(arguments):
            deed()
        return good(*arguments)
    setattr(owner, name, bad)

def said(word, other, tag=None):
    "A message that has the word has the other in its place, and perhaps another tag."
    good = front.Connection.send
    def send(self, first, *rest):
        if word in rest:
            first, rest = tag or first, [other if part == word else part for part in rest]
        good(self, first, *rest)
    front.Connection.send = send

always = lambda arguments: True
says = lambda *message: ("send", lambda arguments: arguments[1:1 + len(message)] == message)
ready = ("send", lambda arguments: arguments[1] == front.READY and len(arguments) == 3)  # Accepted has its tag too
if sys.argv[sys.argv.index("--index") + 1] == "1":
    DEED
front.main(sys.argv[1:])
"""
"""Instance 1 is bad, instance 0 is not."""

MOMENTS = {
    "at its start": '("Launch", always)',
    "before it dials": '("dial", always)',
    "before it proves itself": '("prove_as_dialer", always)',
    "before its Hello": 'says(front.HELLO, "api")',
    "before its first stage": 'says(front.STAGE, "started")',
    "in a stage": 'says(front.STAGE, "attached")',
    "before it is ready": "ready",
}
ALOOF = "takes no rank in"
"""Ready all the same: the ranks get stuck, and say on whom they wait."""


def bad(folder: Path, deed: str) -> tuple[str, str]:
    script = folder / f"bad-{len(list(folder.iterdir()))}.py"
    script.write_text(BAD.replace("DEED", deed))
    return front_end(script)


@contextlib.contextmanager
def broken(folder: Path, deeds: dict[str, str], checkpoint: Path, *further: str) -> Any:
    """A service a deed, all at once."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(Service(*flags(checkpoint, 1, 2), *bad(folder, deed), *further))
            for name, deed in deeds.items()
        }


def test_one_that_exits_on_its_way_is_named_with_its_last_words(tmp_path: Path, checkpoint_folder: Path) -> None:
    statuses = dict(zip(MOMENTS, itertools.cycle((3, 0)), strict=False))  # before it serves, 0 is a failure too
    deeds = {name: f"at({moment}, lambda: leave({statuses[name]}))" for name, moment in MOMENTS.items()}
    with broken(tmp_path, deeds, checkpoint_folder) as services:
        for name, service in services.items():
            status = statuses[name]
            assert service.wait() == ExitCode.FAILED, name
            by_itself = "it ended by itself, " if status == 0 else ""
            said = rf"api 1 \(pid \d+\) failed in stage started, [\d.]+ s into it: {by_itself}exit status {status}"
            if name == "before it is ready":
                said = said.replace("started", "attached")
            assert re.search(said, service.stderr), f"{name}: {service.output}"
            assert re.search(r"The last it printed \(\d lines\):(\n    .*)*\n    my last words", service.stderr), name
            service.assert_nothing_left()


def test_one_that_hangs_on_its_way_is_named_within_the_deadline(tmp_path: Path, checkpoint_folder: Path) -> None:
    deeds = {name: f"at({moment}, hang)" for name, moment in MOMENTS.items()}
    deeds[ALOOF] = "front.Ranks.accept = lambda self, listener: hang()"
    with broken(tmp_path, deeds, checkpoint_folder, "--startup-timeout", STALL) as services:
        for name, service in services.items():
            assert service.wait() == ExitCode.FAILED, name
            service.assert_nothing_left()
            if name == ALOOF:
                where = "progress in stage attached (1 of 2 API servers; waits for api 1)"
                assert f"s for {where}, " in service.stderr, service.output
                continue
            who, where, what = stuck(service.stderr, float(STALL))
            expected = ("started", "its first message")
            if name in ("before its first stage", "in a stage"):
                expected = ("started", "its next stage")  # where it is already, so nothing new
            elif name == "before it is ready":
                expected = ("attached", "progress in stage attached")
            assert (who, where, what) == ("api 1", *expected), name
            assert "my last words" in service.stderr


NONSENSE = {
    "another protocol": (
        'front.pack, front.struct.pack = lambda message: b"GET / HTTP/1.1", lambda form, length: b""',
        "dropped a connection: the peer announced a frame of 542,393,671 bytes; the limit is 1,024",
    ),
    "no msgpack": ('front.pack = lambda message: b"GET / HTTP/1.1"', "refused: the peer does not speak this protocol"),
    "another version": ("front.VERSION = 3", "refused: protocol version 3 at the dialer, 2 at the listener"),
    "another secret": (
        "front.Launch.key = property(lambda self: bytes(32), lambda self, key: None)",
        "the listener speaks another version or does not know the secret",
    ),
    "another magic": ('said("phalanx", "phlanax")', "refused: the dialer does not speak this protocol"),
    "another number": ("front.Launch.index = property(lambda self: 7, lambda self, index: None)", "there is no api 7"),
    "another role": ('said("api", "king")', "sent what is no message: Invalid enum value 'king'"),
    "a message before Hello": ('said("api", "api", 17)', "a peer sent Drained before Hello"),
    "an unknown message": ('said("started", "started", 99)', "api 1 sent what is no message: Invalid value 99"),
    "an unknown stage": ('said("started", "lunch")', "api 1 sent what is no message: Invalid enum value 'lunch'"),
    "another's message": ('said("started", "started", 8)', "api 1 said NodeReady, which is not its to say"),
}
"""What it does, and what is told of it."""


def test_one_that_talks_nonsense_is_named(tmp_path: Path, checkpoint_folder: Path) -> None:
    deeds = {name: deed for name, (deed, _) in NONSENSE.items()}
    with broken(tmp_path, deeds, checkpoint_folder) as services:
        for name, service in services.items():
            assert service.wait() == ExitCode.FAILED, name
            assert re.search(r"api [01] \(pid \d+\) failed in stage", service.stderr), f"{name}: {service.output}"
            assert NONSENSE[name][1] in service.stderr, f"{name}: {service.output}"
            report = service.stderr[service.stderr.rindex("\napi ") :]
            assert "api 1 s" not in NONSENSE[name][1] or NONSENSE[name][1] in report, "its exit status hides why"
            service.assert_nothing_left()


def test_one_that_does_not_heed_stop_is_killed(tmp_path: Path, checkpoint_folder: Path) -> None:
    command = bad(tmp_path, "front.STOP = 1000")
    with Service(*flags(checkpoint_folder, 1), *command, "--shutdown-timeout", "0.5") as service:
        service.wait_ready()
        assert service.stop() == ExitCode.OK
        assert "killing api 1: it did not end in time" in service.stderr
