"""A rank of several workers: who may join its leader, what a step is shared out as, and who is named when one ends."""

import contextlib
import itertools
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest
from support.rank_process import DEADLINE, EOF, INCARNATION, SECRET, Rank, accept, config, running

from phalanx.child import EXIT_FAILED, EXIT_ORPHANED
from phalanx.config import Config, ParallelOptions
from phalanx.engine.sequence import Chunk, RankBroken, RequestKey, Sequence
from phalanx.engine.synthetic import SyntheticRunner
from phalanx.engine.tp_leader import PartnerGone, WorkerGroup, WorkerStuck
from phalanx.protocol import (
    ApiServerId,
    EngineHello,
    Failed,
    Incarnation,
    Message,
    RankId,
    Ready,
    Refused,
    RequestId,
    SamplingParams,
    Stage,
    StartupStage,
    Stop,
    ToLeader,
    ToWorker,
    WorkerAnswer,
    WorkerHello,
    WorkerStep,
    WorkerWelcome,
)
from phalanx.transport import handshake
from phalanx.transport.channel import Channel, Closed, dial
from phalanx.transport.listener import address_of, bind_tcp, bind_unix
from phalanx.transport.security import Security

LOADING = [StartupStage.IMPORTED, StartupStage.WEIGHTS, StartupStage.CACHE, StartupStage.WARM_UP, StartupStage.ATTACHED]

Places = Callable[[list[tuple[int, int]]], list[int]]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: a socket's path holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ph-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def listener(folder: Path) -> Iterator[socket.socket]:
    """Where the workers dial."""
    with bind_unix(folder / "workers") as sock:
        yield sock
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts


def several(size: int, **engine: Any) -> Config:
    """The configuration of a rank of so many workers."""
    return msgspec.structs.replace(config(**engine), parallel=ParallelOptions(tensor_parallel_size=size))


def synthetic(workers: WorkerGroup | None = None) -> SyntheticRunner:
    runner = SyntheticRunner(config(), workers)
    runner.load(lambda stage, share, detail: None)
    return runner


class PlayedWorker:
    """A worker that the test plays."""

    def __init__(self, listener: socket.socket, worker: int, rank: int = 0, incarnation: int = INCARNATION) -> None:
        self.channel = dial(address_of(listener), Security(SECRET), DEADLINE)
        self.decoder: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
        self.channel.send(WorkerHello(RankId(rank), worker, Incarnation(incarnation)))

    def receive(self) -> ToWorker:
        return self.channel.receive(self.decoder)

    def ready(self) -> "PlayedWorker":
        assert self.receive() == WorkerWelcome()
        self.channel.send(Ready())
        return self

    def answer(self, places: Places) -> None:
        """Answers every step so, until the leader is gone."""

        def serve() -> None:
            with contextlib.suppress(Closed):
                while isinstance(step := self.receive(), WorkerStep):
                    self.channel.send(WorkerAnswer(step.step, places(step.draws)))

        threading.Thread(target=serve, daemon=True).start()


class Leader:
    """The leader's side, in this process."""

    def __init__(self, listener: socket.socket, size: int, answer_timeout: float = DEADLINE) -> None:
        self.listener = listener
        self.lost: SimpleQueue[RankBroken] = SimpleQueue()
        hello = WorkerHello(RankId(0), 0, Incarnation(INCARNATION))
        self.workers = WorkerGroup(listener, Security(SECRET), hello, size, self.lost.put, answer_timeout)

    def with_all(self, *answers: Places) -> WorkerGroup:
        """All others attached, and answering so."""
        for worker, places in enumerate(answers, 1):
            PlayedWorker(self.listener, worker).ready().answer(places)
        self.workers.wait(lambda share, detail: None)
        return self.workers


def sequences(count: int) -> list[Sequence]:
    return [
        Sequence(
            RequestKey(ApiServerId(0), RequestId(number)),
            [5, 6, number],
            3,
            SamplingParams(max_tokens=200, seed=number, ignore_eos=True),
        )
        for number in range(count)
    ]


def step(runner: SyntheticRunner, running: list[Sequence]) -> list[int]:
    """One token more for each; a chunk that brings none stands first."""
    unfinished = Chunk(sequences(1)[0], 0, 1)
    first, *results = runner.execute([unfinished, *(Chunk(s, 0, len(s.tokens)) for s in running)])
    assert first is None
    tokens = [sampled.token for sampled in results if sampled is not None]
    for sequence, token in zip(running, tokens, strict=True):
        sequence.tokens.append(token)
    return tokens


# --- a step ---


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_tokens_are_the_same_for_every_number_of_workers_and_of_requests(
    size: int, listener: socket.socket
) -> None:
    alone = synthetic()
    shared = synthetic(Leader(listener, size).with_all(*[alone.draw] * (size - 1)))
    for count in (0, 1, size - 1, size, 4 * size + 1):
        ours, theirs = sequences(count), sequences(count)
        for _ in range(3):
            assert step(shared, ours) == step(alone, theirs)


def test_a_worker_that_answers_wrongly_makes_its_share_of_the_text_wrong_and_no_other(listener: socket.socket) -> None:
    alone = synthetic()
    shared = synthetic(
        Leader(listener, 3).with_all(alone.draw, lambda draws: [place ^ 1 for place in alone.draw(draws)])
    )
    right, got = step(alone, sequences(9)), step(shared, sequences(9))
    wrong = [index for index in range(9) if got[index] != right[index]]
    assert wrong == [2, 5, 8]


def test_every_worker_has_its_part_in_every_step_even_when_there_is_no_token_for_it(listener: socket.socket) -> None:
    asked: list[int] = []

    def places(draws: list[tuple[int, int]]) -> list[int]:
        asked.append(len(draws))
        return [0] * len(draws)

    workers = Leader(listener, 2).with_all(places)
    for count in (0, 1, 2, 5):
        assert workers.share([(7, position) for position in range(count)], lambda draws: [1] * len(draws)) == [
            1 - index % 2 for index in range(count)
        ]
    assert asked == [0, 0, 1, 2]


def test_a_step_in_which_the_leader_itself_fails_leaves_no_answer_behind_for_the_next(listener: socket.socket) -> None:
    def fails(draws: list[tuple[int, int]]) -> list[int]:
        raise ValueError("a request that cannot run")

    workers = Leader(listener, 2).with_all(lambda draws: [position for _, position in draws])
    with pytest.raises(ValueError, match="cannot run"):
        workers.share([(1, 10), (1, 11)], fails)
    assert workers.share([(1, 20), (1, 21)], lambda draws: [0]) == [0, 21]


def test_workers_that_do_not_answer_are_stuck_by_name(listener: socket.socket) -> None:
    leader = Leader(listener, 4, answer_timeout=0.2)
    silent = {worker: PlayedWorker(listener, worker).ready() for worker in (2, 3)}
    workers = leader.with_all(lambda draws: [0] * len(draws))
    with pytest.raises(WorkerStuck, match=r"^workers 2, 3 of rank 0 are stuck: no answer for 0\.2 s in step 1$"):
        workers.share([(1, 1)] * 4, lambda draws: [0])
    for step in (1, 2):
        silent[3].channel.send(WorkerAnswer(step, [0]))
    with pytest.raises(WorkerStuck, match=r"^worker 2 of rank 0 is stuck: no answer for 0\.2 s in step 2$"):
        workers.share([(1, 1)] * 4, lambda draws: [0])


def test_a_worker_is_not_stuck_for_the_time_that_the_whole_machine_stood(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader runs again first, long after its limit, and hears the worker later still."""
    leader = Leader(listener, 2, answer_timeout=0.05)
    worker = PlayedWorker(listener, 1).ready()
    leader.workers.wait(lambda share, detail: None)
    readings = itertools.count()

    def standing() -> float:
        if next(readings) == 5:
            worker.channel.send(WorkerAnswer(1, [7]))
        return 100.0

    monkeypatch.setattr("phalanx.running_time.now", standing)
    assert leader.workers.share([(1, 1), (1, 2)], lambda draws: [3]) == [3, 7]


def test_a_worker_that_takes_no_more_steps_in_is_stuck_by_name(listener: socket.socket) -> None:
    leader = Leader(listener, 2, answer_timeout=0.2)
    deaf = PlayedWorker(listener, 1).ready()
    with pytest.raises(WorkerStuck, match=r"^worker 1 of rank 0 is stuck: step 1 could not be sent for 0\.2 s$"):
        leader.with_all().share([(2**63, 1)] * 1_000_000, lambda draws: [0] * len(draws))
    deaf.channel.close()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (WorkerAnswer(1, [0, 0]), "it answered 2 places in step 1, asked for 1"),
        (WorkerAnswer(2, [0]), "it answered step 2 in step 1"),
        (Ready(), "its end sent what does not decode"),
    ],
)
def test_an_answer_to_another_question_ends_the_rank_by_the_workers_name(
    said: Message, reason: str, listener: socket.socket
) -> None:
    leader = Leader(listener, 2)
    worker = PlayedWorker(listener, 1).ready()

    def own(draws: list[tuple[int, int]]) -> list[int]:
        worker.channel.send(said)
        return [0]

    leader.workers.wait(lambda share, detail: None)
    with pytest.raises(PartnerGone, match=f"^worker 1 of rank 0 is gone: {reason}"):
        leader.workers.share([(1, 1), (1, 2)], own)


# --- who joins ---


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        ({"worker": 1, "rank": 3}, "worker 1 of rank 3 has come to rank 0"),
        ({"worker": 1, "incarnation": 3}, "worker 1 of rank 0 is of incarnation 3, its leader of 4"),
        ({"worker": 0}, "there is no worker 0 of rank 0: it has 3, from 0 on"),
        ({"worker": 3}, "there is no worker 3 of rank 0: it has 3, from 0 on"),
        ({"worker": 2}, "worker 2 of rank 0 is connected already"),
    ],
)
def test_who_is_no_worker_of_the_rank_is_told_why_and_the_rank_waits_on(
    hello: dict[str, int], reason: str, listener: socket.socket
) -> None:
    leader = Leader(listener, 3)
    PlayedWorker(listener, 2).ready().answer(lambda draws: [2] * len(draws))
    if reason.startswith("there is no worker 0"):
        reason = "there is no worker 0"
    stranger = PlayedWorker(listener, **hello)
    answer = stranger.receive()
    assert isinstance(answer, Refused)
    assert answer.reason.startswith(reason)
    with pytest.raises(Closed):
        stranger.receive()
    assert leader.with_all(lambda draws: [1] * len(draws)).share([(1, 1)] * 3, lambda draws: [0]) == [0, 1, 2]


def test_who_does_not_know_the_secret_is_refused_and_who_says_nothing_keeps_nobody_waiting(
    listener: socket.socket,
) -> None:
    leader = Leader(listener, 2)
    with pytest.raises(handshake.HandshakeRefused, match="does not know the launch secret"):
        dial(address_of(listener), Security(b"another secret"), DEADLINE)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(listener.getsockname())
        leader.with_all(lambda draws: [])
    assert leader.lost.empty()


def test_a_worker_is_taken_in_over_tcp_just_as_well() -> None:
    with bind_tcp("127.0.0.1") as listener:
        assert Leader(listener, 2).with_all(lambda draws: [8] * len(draws)).share(
            [(1, 1), (1, 2)], lambda draws: [9]
        ) == [9, 8]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_worker_that_speaks_out_of_turn_before_it_is_ready_ends_the_rank_by_its_name(
    listener: socket.socket,
) -> None:
    leader = Leader(listener, 2)
    worker = PlayedWorker(listener, 1)
    worker.channel.send(WorkerAnswer(0, []))
    with pytest.raises(PartnerGone, match="worker 1 of rank 0 is gone: it said WorkerAnswer before it was ready"):
        leader.workers.wait(lambda share, detail: None)


# --- the process of a leader ---


@contextlib.contextmanager
def leading(folder: Path, listener: socket.socket, size: int, index: int = 0, **engine: Any) -> Iterator[Any]:
    with running(folder, several(size, **engine), index=index, workers=listener) as (rank, [api]):
        yield rank, api


def attached(rank: Rank) -> Iterator[str]:
    """What it reports of its stage `attached`."""
    while True:
        report = rank.control.until(Stage)
        if report.stage is StartupStage.ATTACHED:
            yield report.detail


def test_a_rank_is_ready_once_all_its_workers_are_in_whatever_order_and_tells_how_far_they_are(
    folder: Path, listener: socket.socket
) -> None:
    with leading(folder, listener, 3) as (rank, api):
        details = attached(rank)
        assert next(details) == "0 of 2 workers"
        last = PlayedWorker(listener, 2)
        assert last.receive() == WorkerWelcome()
        assert next(details) == "0 of 2 workers; worker 2: started"
        last.channel.send(Stage(StartupStage.WEIGHTS, 0.5))
        assert next(details) == "0 of 2 workers; worker 2: weights 50%"
        last.channel.send(Stage(StartupStage.WARM_UP))
        assert next(details) == "0 of 2 workers; worker 2: warm-up"
        last.channel.send(Ready())
        assert next(details) == "1 of 2 workers"
        first = PlayedWorker(listener, 1).ready()
        assert next(details) == "1 of 2 workers; worker 1: started"
        assert next(details) == "2 of 2 workers"
        assert next(details) == "0 of 1 API servers; waits for api 0"
        assert isinstance(api.attach(), EngineHello)
        assert rank.control.until(Ready).detail == "synthetic, 3 workers, KV cache 262,144 tokens, unlimited speed"
        for worker in (first, last):
            worker.channel.close()


@pytest.mark.parametrize("moment", ["loading", "waiting", "idle", "in a step"])
def test_a_worker_that_ends_is_named_by_its_rank(moment: str, folder: Path, listener: socket.socket) -> None:
    drill = ("warm-up=0.3",) if moment == "loading" else ()
    with leading(folder, listener, 3, index=1, synthetic_stage=drill) as (rank, api):
        first, second = PlayedWorker(listener, 1, rank=1), PlayedWorker(listener, 2, rank=1)
        assert second.receive() == WorkerWelcome()
        if moment == "waiting":
            next(attached(rank))
        if moment in ("idle", "in a step"):
            first.ready()
            second.channel.send(Ready())
            rank.ready()
        if moment == "in a step":
            api.submit(1)
            assert isinstance(first.receive(), WorkerStep)
            assert isinstance(second.receive(), WorkerStep)
        second.channel.close()
        reason = rank.control.until(Failed).reason
        assert reason.startswith("PartnerGone: worker 2 of rank 1 is gone: its end")
        assert rank.wait()[0] == EXIT_FAILED
        if moment == "in a step":  # no request is told that it is at fault: another rank may continue it
            while (said := api.reader.next()) is not EOF:
                assert not said.outputs


def test_a_leader_that_is_told_to_stop_while_its_workers_end_ends_well(folder: Path, listener: socket.socket) -> None:
    with leading(folder, listener, 2) as (rank, _):
        worker = PlayedWorker(listener, 1).ready()
        rank.ready()
        worker.channel.close()
        rank.tell(Stop())
        assert rank.wait() == (0, "")


# --- the process of a worker ---


class PlayedLeader:
    """A leader that the test plays."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.decoder: msgspec.msgpack.Decoder[ToLeader] = msgspec.msgpack.Decoder(ToLeader)
        self.channel: Channel

    def take(self, answer: Message | None = None) -> "PlayedLeader":
        """Take the worker in, or tell it something else."""
        self.channel = accept(self.listener)
        assert self.hear() == WorkerHello(RankId(1), 2, Incarnation(INCARNATION))
        self.channel.send(answer or WorkerWelcome())
        return self

    def hear(self) -> ToLeader:
        return self.channel.receive(self.decoder)


@contextlib.contextmanager
def working(folder: Path, listener: socket.socket, **engine: Any) -> Iterator[tuple[Rank, PlayedLeader]]:
    """Worker 2 of rank 1 of 3 workers, and its leader, which it dials."""
    further = {"worker": 2, "leader": address_of(listener)}
    with running(folder, several(3, **engine), 0, 1, **further) as (worker, _):
        leader = PlayedLeader(listener)
        yield worker, leader
        if hasattr(leader, "channel"):
            leader.channel.close()


def test_a_worker_joins_its_leader_tells_it_its_stages_and_answers_its_steps(
    folder: Path, listener: socket.socket
) -> None:
    with working(folder, listener) as (worker, leader):
        assert worker.hello.worker == 2
        waiting = worker.control.next()
        assert waiting == Stage(StartupStage.STARTED, None, "waits for worker 0 of rank 1")
        leader.take()
        title = Path(f"/proc/{worker.process.pid}/cmdline").read_bytes().rstrip(b"\0")
        assert title == b"phalanx engine 1 tp 2"
        expected = [*map(Stage, LOADING), Ready("answers its leader")]
        assert [leader.hear() for _ in expected] == expected
        assert worker.reports() == expected
        runner = synthetic()
        for number, draws in enumerate(([], [(1, 2)], [(2**64 - 1, 3), (0, 0)]), 1):
            leader.channel.send(WorkerStep(number, draws))
            assert leader.hear() == WorkerAnswer(number, runner.draw(draws))


def test_a_worker_loads_neither_torch_nor_numpy(folder: Path, listener: socket.socket) -> None:
    with working(folder, listener) as (worker, leader):
        leader.take()
        worker.control.until(Ready)
        mapped = Path(f"/proc/{worker.process.pid}/maps").read_text()
    assert "torch" not in mapped
    assert "numpy" not in mapped


@pytest.mark.parametrize("moment", ["before it is taken in", "ready"])
def test_a_worker_whose_leader_ends_says_so_and_ends(moment: str, folder: Path, listener: socket.socket) -> None:
    with working(folder, listener) as (worker, leader):
        if moment == "ready":
            leader.take()
            worker.control.until(Ready)
            leader.channel.close()
        else:
            listener.accept()[0].close()
        reason = worker.control.until(Failed).reason
        assert reason.startswith("PartnerGone: worker 0 of rank 1, which leads worker 2, is gone: ")
        assert worker.wait() == (EXIT_FAILED, "")


@pytest.mark.parametrize("first", ["Stop", "the leader's end"])
def test_a_worker_that_is_told_to_stop_goes_with_its_leader(first: str, folder: Path, listener: socket.socket) -> None:
    with working(folder, listener) as (worker, leader):
        leader.take()
        worker.control.until(Ready)
        if first == "Stop":
            worker.tell(Stop())
            leader.channel.send(WorkerStep(1, [(1, 1)]))
            while not isinstance(leader.hear(), WorkerAnswer):
                pass
            leader.channel.close()
        else:
            leader.channel.close()
            worker.tell(Stop())
        assert worker.wait() == (0, "")


def test_a_worker_whose_leader_does_not_end_stops_all_the_same(folder: Path, listener: socket.socket) -> None:
    with working(folder, listener) as (worker, leader):
        leader.take()
        worker.control.until(Ready)
        worker.tell(Stop())
        assert worker.wait() == (0, "")


def test_a_worker_that_is_refused_says_why(folder: Path, listener: socket.socket) -> None:
    with working(folder, listener) as (worker, leader):
        leader.take(Refused("worker 2 of rank 1 is connected already"))
        reason = worker.control.until(Failed).reason
        assert reason.endswith("worker 0 of rank 1 refused us: worker 2 of rank 1 is connected already")
        assert worker.wait() == (EXIT_FAILED, "")


def test_a_worker_whose_leader_listens_nowhere_says_where_it_looked(folder: Path, listener: socket.socket) -> None:
    address = address_of(listener)
    listener.close()
    with running(folder, several(3), 0, 1, worker=2, leader=address) as (worker, _):
        assert f"worker 0 of rank 1 cannot be reached at {address}: " in worker.control.until(Failed).reason


@pytest.mark.parametrize("stage", ["waiting", "started", "weights", "ready"])
def test_the_end_of_the_control_connection_ends_a_worker_in_any_stage(
    stage: str, folder: Path, listener: socket.socket
) -> None:
    with working(folder, listener, synthetic_stage=(f"1.2:{stage}=hang",) if stage != "waiting" else ()) as (
        worker,
        leader,
    ):
        if stage != "waiting":
            leader.take()
        if stage in LOADING:
            while worker.control.until(Stage).stage != stage:
                pass
        worker.control.close()
        assert worker.process.wait(DEADLINE) == EXIT_ORPHANED


def test_a_drill_is_for_the_worker_it_names_or_for_all(folder: Path, listener: socket.socket) -> None:
    drills = ("1.0:weights=exit", "1.1:weights=exit", "0:weights=exit", "1.2:cache=0", "cache=raise")
    with working(folder, listener, synthetic_stage=drills) as (worker, leader):
        leader.take()
        assert worker.control.until(Failed).reason == "DrillFailure: rank 1 worker 2 was told to fail in stage cache"
        assert worker.wait() == (EXIT_FAILED, "")
