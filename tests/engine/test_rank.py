"""A rank's process from start to end, spoken to over its own sockets."""

import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.rank_process import (
    DEADLINE,
    EOF,
    PlayedApiServer,
    accept,
    config,
    running,
    start_process,
)

from phalanx.child import EXIT_FAILED, EXIT_ORPHANED
from phalanx.engine.drills import EXIT_STATUS
from phalanx.protocol import (
    ApiServers,
    EngineHello,
    Failed,
    FinishReason,
    Hello,
    Ready,
    RequestId,
    Role,
    SamplingParams,
    Stage,
    StartupStage,
    Stop,
    Submit,
)
from phalanx.transport.handshake import HandshakeRefused
from phalanx.transport.listener import address_of, bind_unix

START = [StartupStage.IMPORTED, StartupStage.WEIGHTS, StartupStage.CACHE, StartupStage.WARM_UP]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: a socket's path holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ph-", dir="/tmp") as name:
        yield Path(name)


# --- start ---


def test_it_reports_each_stage_in_order_and_is_ready_once_every_api_server_is_attached(folder: Path) -> None:
    with running(folder, api_servers=2, index=3) as (rank, apis):
        assert rank.hello == Hello(Role.ENGINE, 3, 4, rank.process.pid)
        hellos = [api.attach() for api in apis]
        reports = rank.reports()
    stages = [report.stage for report in reports if isinstance(report, Stage)]
    assert list(dict.fromkeys(stages)) == [*START, StartupStage.ATTACHED]
    attached = [report.detail for report in reports if isinstance(report, Stage) and report.stage == "attached"]
    assert attached == [
        "0 of 2 API servers; waits for api 0, api 1",
        "1 of 2 API servers; waits for api 1",
        "2 of 2 API servers",
    ]
    assert reports[-1] == Ready("synthetic, KV cache 262,144 tokens, unlimited speed")
    assert hellos == [EngineHello(3, 4, max_model_len=4096, max_num_seqs=256, kv_cache_tokens=262_144)] * 2


def test_it_is_not_ready_before_it_has_heard_of_every_api_server(folder: Path) -> None:
    with running(folder, complete=False) as (rank, [api]):
        api.attach()
        while rank.control.until(Stage).detail != "1 of 1 API servers":
            pass
        api.submit(1)
        api.result(1)
        rank.tell(ApiServers((api.endpoint,)))
        # What it says next is in answer to that, so it had not said Ready.
        assert isinstance(rank.control.next(), Stage)
        assert isinstance(rank.reports()[-1], Ready)


def test_a_synthetic_rank_loads_neither_torch_nor_numpy(folder: Path) -> None:
    with running(folder) as (rank, [api]):
        rank.ready()
        api.submit(1)
        api.result(1)
        mapped = Path(f"/proc/{rank.process.pid}/maps").read_text()
    assert "torch" not in mapped
    assert "numpy" not in mapped


def test_it_names_itself_for_ps(folder: Path) -> None:
    with running(folder, index=2) as (rank, _):
        rank.ready()
        assert Path(f"/proc/{rank.process.pid}/cmdline").read_bytes().rstrip(b"\0") == b"phalanx engine 2"


def test_an_api_server_that_is_not_up_yet_is_waited_for_and_served_by_others_meanwhile(folder: Path) -> None:
    with running(folder, api_servers=2) as (rank, [first, second]):
        first.attach()
        first.submit(1)
        assert len(first.result(1)[0]) == 20
        second.attach()
        assert isinstance(rank.reports()[-1], Ready)


def test_an_address_where_nobody_listens_is_told_with_its_reason_and_dialled_again(folder: Path) -> None:
    with running(folder, api_servers=0) as (rank, _):
        assert isinstance(rank.reports()[-1], Ready)
    absent = PlayedApiServer(0, folder)
    absent.listener.close()
    path = Path(absent.endpoint.address.removeprefix("unix:"))
    with running(folder, api_servers=1) as (rank, [api]):
        endpoint = type(api.endpoint)(api.endpoint.index, absent.endpoint.address)
        rank.tell(ApiServers((endpoint,)))
        while "refused" not in (report := rank.control.until(Stage)).detail:
            pass
        assert report.detail.startswith("0 of 1 API servers; api 0: ")
        path.unlink()
        api.listener.close()
        revived = socket.socket(socket.AF_UNIX)
        revived.bind(str(path))
        revived.listen()
        api.listener = revived
        api.attach()
        assert isinstance(rank.reports()[-1], Ready)


def test_an_api_server_with_another_secret_is_refused(folder: Path) -> None:
    with running(folder) as (rank, [api]):
        with pytest.raises(HandshakeRefused, match="launch secret"):
            accept(api.listener, b"another secret")
        while "secret" not in (report := rank.control.until(Stage)).detail:
            pass
        assert report.detail == "0 of 1 API servers; api 0: the listener does not know the launch secret"
        api.attach()


# --- requests ---


def test_a_request_streams_its_tokens_in_order_and_ends_at_max_tokens(folder: Path) -> None:
    with running(folder) as (rank, [api]):
        rank.ready()
        api.submit(1, max_tokens=5)
        tokens, last = api.result(1)
        assert len(tokens) == 5
        assert last.finish is FinishReason.LENGTH
        assert [len(output.tokens) for output in api.outputs[1]] == [1] * 5


def test_without_ignore_eos_it_ends_by_itself(folder: Path) -> None:
    with running(folder) as (rank, [api]):
        rank.ready()
        api.submit(1, max_tokens=1000, ignore_eos=False)
        tokens, last = api.result(1)
        assert last.finish is FinishReason.STOP
        assert last.stop_token is None
        assert tokens[-1] == 2
        assert 2 not in tokens[:-1]


def test_a_request_continued_on_another_rank_goes_on_as_it_would_have(folder: Path) -> None:
    with running(folder, index=0) as (rank, [api]):
        rank.ready()
        api.submit(1, max_tokens=40, ignore_eos=False, seed=11)
        whole, last = api.result(1)
    for had in (1, 7, len(whole) - 1):
        with running(folder, index=1) as (rank, [api]):
            rank.ready()
            api.submit(9, max_tokens=40, ignore_eos=False, seed=11, generated=whole[:had])
            rest, end = api.result(9)
        assert whole[:had] + rest == whole
        assert end.finish is last.finish


def test_an_aborted_request_brings_nothing_more_and_frees_its_place(folder: Path) -> None:
    with running(folder, config(synthetic_rate=200.0, max_num_seqs=1)) as (rank, [api]):
        rank.ready()
        api.submit(1, max_tokens=4000)
        api.wait(lambda api: len(api.tokens(1)) >= 2)
        api.submit(2, max_tokens=3)
        api.abort(1)
        api.result(2)
        had = len(api.tokens(1))
        api.wait(lambda api: api.loads[-1].running == 0)
        assert len(api.tokens(1)) == had
        assert api.outputs[1][-1].finish is None


def test_aborting_what_has_ended_or_never_was_is_no_error(folder: Path) -> None:
    with running(folder) as (rank, [api]):
        rank.ready()
        api.submit(1)
        api.result(1)
        api.abort(1, 77)
        api.submit(2)
        assert len(api.result(2)[0]) == 20


def test_two_api_servers_are_told_of_each_others_requests_and_not_of_their_own(folder: Path) -> None:
    with running(folder, config(synthetic_rate=100.0), api_servers=2) as (rank, [busy, idle]):
        rank.ready()
        assert idle.step().load.others_requests == 0  # told at once: a rank that says nothing looks idle
        busy.submit(1, max_tokens=100, expected_tokens=90)
        idle.wait(lambda api: api.loads[-1].others_requests == 1)
        assert 0 < idle.loads[-1].others_decode_tokens <= 90
        assert idle.loads[-1].running == 1
        busy.result(1)
        assert {load.others_requests for load in busy.loads} == {0}
        assert {load.others_decode_tokens for load in busy.loads} == {0}
        idle.wait(lambda api: api.loads[-1].running == 0)
        assert idle.loads[-1].others_requests == idle.loads[-1].others_decode_tokens == 0
        assert not idle.outputs


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ([], "the prompt has no tokens"),
        ([1000], "prompt has token id 1,000; the vocabulary ends at 999"),
        ([-1, 5], "prompt has token id -1"),
        (
            [5] * 4096,
            "a prompt of 4,096 tokens and one of output do not fit into this rank: the model's limit is 4,096",
        ),
    ],
)
def test_a_bad_request_ends_with_an_error_that_says_why(folder: Path, prompt: list[int], reason: str) -> None:
    with running(folder) as (rank, [api]):
        rank.ready()
        api.send(Submit(RequestId(1), prompt, SamplingParams(max_tokens=5)))
        tokens, last = api.result(1)
        assert tokens == []
        assert last.finish is FinishReason.ERROR
        assert reason in last.error
        api.submit(2)
        assert len(api.result(2)[0]) == 20


def test_a_number_that_is_in_use_ends_in_an_error(folder: Path) -> None:
    with running(folder, config(synthetic_rate=50.0)) as (rank, [api]):
        rank.ready()
        api.submit(1, max_tokens=1000)
        api.submit(1, max_tokens=1000)
        _, last = api.result(1)
        assert last.finish is FinishReason.ERROR
        assert "in use" in last.error


def test_a_small_cache_preempts_and_brings_the_same_tokens(folder: Path) -> None:
    results = []
    for tokens in (100_000, 128):
        with running(folder, config(kv_cache_tokens=tokens)) as (rank, [api]):
            rank.ready()
            for number in range(6):
                api.submit(number, [5, 6, 7, number], max_tokens=60, seed=number)
            results.append([api.result(number)[0] for number in range(6)])
            preemptions = api.loads[-1].preemptions
            assert bool(preemptions) == (tokens == 128)
    assert results[0] == results[1]


def test_an_idle_rank_has_told_every_api_server_the_tokens_of_all_its_steps(folder: Path) -> None:
    with running(folder, api_servers=2) as (rank, apis):
        rank.ready()
        for number, api in enumerate(apis):
            api.submit(number, [5, 6, 7, number], max_tokens=60)
        for number, api in enumerate(apis):
            api.result(number)
        ran = 2 * (4 + 59)
        for api in apis:
            api.wait(lambda api: api.step_tokens is not None and api.step_tokens.tokens >= ran)
            assert api.step_tokens is not None
            assert api.step_tokens.tokens == ran
            assert sum(api.step_tokens.steps) == api.loads[-1].steps


def test_times_before_the_first_token_are_durations_and_come_with_it_alone(folder: Path) -> None:
    with running(folder, config(synthetic_rate=50.0)) as (rank, [api]):
        rank.ready()
        api.submit(1, max_tokens=3)
        api.result(1)
    first, *rest = api.outputs[1]
    assert first.times is not None
    assert 0 <= first.times.queue < DEADLINE
    assert 0.02 <= first.times.prefill < DEADLINE
    assert [output.times for output in rest] == [None, None]


def test_a_second_turn_finds_the_first_turns_output_in_the_cache(folder: Path) -> None:
    with running(folder) as (rank, [api]):
        rank.ready()
        first = list(range(10, 50))
        api.submit(1, first, max_tokens=60)
        answer, _ = api.result(1)
        api.submit(2, [*first, *answer, 8, 9], max_tokens=1)
        api.result(2)
        # 99 of the first turn's 100 tokens were computed: six whole blocks.
        assert api.outputs[2][0].cached_tokens == 96


# --- API servers that go, change or misbehave ---


def test_an_api_server_that_dies_loses_its_requests_and_its_successor_is_dialled(folder: Path) -> None:
    with running(folder, config(synthetic_rate=100.0), api_servers=2) as (rank, [dying, staying]):
        rank.ready()
        staying.submit(1, max_tokens=30)
        dying.submit(1, max_tokens=4000)
        dying.wait(lambda api: api.tokens(1))
        dying.reader.close()
        staying.result(1)
        staying.wait(lambda api: api.loads[-1].others_requests == 0)
        dying.outputs.clear()
        dying.attach()  # the successor: the same inherited listener
        dying.submit(1, max_tokens=3)
        assert len(dying.result(1)[0]) == 3


def test_membership_changes_are_followed(folder: Path) -> None:
    with running(folder) as (rank, [first]):
        rank.ready()
        second = PlayedApiServer(1, folder)
        try:
            rank.tell(ApiServers((second.endpoint,)))
            second.attach()
            second.submit(1)
            assert len(second.result(1)[0]) == 20
            while first.reader.next() is not EOF:
                pass
        finally:
            second.close()


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\x7fjunk", b"\x03\x00\x00\x00\xc1\xc1\xc1", b"\x01\x00\x00\x00\x90"])
def test_garbage_ends_one_connection_and_not_the_rank(folder: Path, garbage: bytes) -> None:
    with running(folder, api_servers=2) as (rank, [broken, healthy]):
        rank.ready()
        broken.reader.channel._socket.sendall(garbage)
        while broken.reader.next() is not EOF:
            pass
        healthy.submit(1)
        assert len(healthy.result(1)[0]) == 20
        broken.reader.close()
        broken.attach()
        broken.submit(1)
        assert len(broken.result(1)[0]) == 20


# --- end ---


def test_stop_ends_it_with_status_0(folder: Path) -> None:
    with running(folder) as (rank, _):
        rank.ready()
        rank.tell(Stop())
        assert rank.wait() == (0, "")


@pytest.mark.parametrize("stage", ["imported", "weights", "ready"])
def test_stop_ends_it_in_the_middle_of_anything(folder: Path, stage: str) -> None:
    with running(folder, config(synthetic_stage=(f"{stage}=hang",))) as (rank, [api]):
        if stage == "ready":
            api.attach()
            rank.control.until(Ready)
        else:
            while rank.control.until(Stage).stage != stage:
                pass
        rank.tell(Stop())
        assert rank.wait()[0] == 0


@pytest.mark.parametrize("stage", ["started", *START, "attached", "ready"])
def test_the_end_of_the_control_connection_ends_it_in_any_stage(folder: Path, stage: str) -> None:
    with running(folder, config(synthetic_stage=(f"{stage}=hang",))) as (rank, [api]):
        if stage == "ready":
            api.attach()
            rank.control.until(Ready)
        elif stage != "started":
            while rank.control.until(Stage).stage != stage:
                pass
        rank.control.close()
        assert rank.process.wait(DEADLINE) == EXIT_ORPHANED


def test_the_end_of_the_control_connection_ends_it_in_the_middle_of_a_step(folder: Path) -> None:
    with running(folder, config(synthetic_rate=0.001)) as (rank, [api]):
        rank.ready()
        api.submit(1)
        rank.control.close()
        assert rank.process.wait(DEADLINE) == EXIT_ORPHANED


@pytest.mark.parametrize("stage", ["started", *START, "attached", "ready"])
def test_a_failure_in_any_stage_is_reported_before_it_ends(folder: Path, stage: str) -> None:
    with running(folder, config(synthetic_stage=(f"0:{stage}=raise",))) as (rank, [api]):
        if stage == "ready":
            api.attach()
        failure = rank.control.until(Failed)
        assert failure.reason == f"DrillFailure: rank 0 was told to fail in stage {stage}"
        assert "Traceback" in failure.traceback
        assert rank.wait() == (EXIT_FAILED, "")


def test_drills_end_a_process_as_crashes_do(folder: Path) -> None:
    for action, status in (("exit", EXIT_STATUS), ("abort", -signal.SIGABRT)):
        with running(folder, config(synthetic_stage=(f"weights={action}",))) as (rank, _):
            assert rank.wait()[0] == status
            assert all(isinstance(report, Stage) for report in rank.reports())


def test_a_drill_for_another_rank_is_not_ours(folder: Path) -> None:
    with running(folder, config(synthetic_stage=("1:weights=exit",)), index=0) as (rank, _):
        rank.ready()


def test_seconds_in_a_stage_are_spent_with_progress(folder: Path) -> None:
    with running(folder, config(synthetic_stage=("WARM_UP=0.35",))) as (rank, [api]):
        api.attach()
        reports = [report for report in rank.reports() if isinstance(report, Stage) and report.stage == "warm-up"]
        shares = [report.progress for report in reports if report.progress is not None]
        assert len(shares) >= 3
        assert shares == sorted(shares)


def test_a_drill_that_cannot_be_read_says_what_can(folder: Path) -> None:
    with running(folder, config(synthetic_stage=("lunch=hang",))) as (rank, _):
        reason = rank.control.until(Failed).reason
        assert "'lunch=hang'" in reason
        assert "started, imported, weights, cache, warm-up, attached, ready" in reason


def test_a_rank_whose_secret_is_wrong_is_refused_and_says_so(folder: Path) -> None:
    process = None
    with bind_unix(folder / "control") as listener:
        process = start_process(address_of(listener), 0, secret=b"another secret")
        with pytest.raises(HandshakeRefused, match="does not know the launch secret"):
            accept(listener)
        printed, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == EXIT_FAILED
    assert printed.decode() == "rank 0 cannot join the service: the listener does not know the launch secret\n"
