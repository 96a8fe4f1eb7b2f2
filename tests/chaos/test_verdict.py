"""Chaos sees every answer that is not the one of the undisturbed run, and every request that has no end."""

import json

import pytest
from support.responses import DONE, SPENT, STREAM, USAGE, WORDS, chunk, event, refused, streamed, whole

from phalanx.chaos.answers import answer_of
from phalanx.chaos.http_client import HttpResponse
from phalanx.chaos.verdict import End, Verdict, judge

EXPECTED = answer_of(streamed())
RESET = "ConnectionResetError: [Errno 104] Connection reset by peer"


def judged(response: HttpResponse, *, server_died: bool = False, left: bool = False) -> Verdict:
    return judge(EXPECTED, response, server_died=server_died, left=left)


def test_the_same_answer_is_right_streamed_or_not() -> None:
    assert judged(streamed()).end is End.FINISHED
    choice = {
        "index": 0,
        "text": "".join(WORDS),
        "token_ids": [0, 1, 2, 3],
        "logprobs": None,
        "finish_reason": "length",
    }
    assert judged(whole(200, {"choices": [choice], "usage": USAGE})).end is End.FINISHED


def test_how_tokens_were_gathered_into_chunks_does_not_matter() -> None:
    both = chunk(1, text=WORDS[1] + WORDS[2], token_ids=[1, 2])
    assert judged(streamed((chunk(0), both, *STREAM[3:]))).end is End.FINISHED


@pytest.mark.parametrize(
    "events",
    [
        pytest.param((STREAM[0], *STREAM[2:]), id="a token is lost"),
        pytest.param((*STREAM[:2], STREAM[1], *STREAM[2:]), id="a token comes twice"),
        pytest.param((STREAM[1], STREAM[0], *STREAM[2:]), id="two tokens change places"),
        pytest.param((*STREAM[:3], chunk(3, "stop"), SPENT, DONE), id="it ends for another reason"),
        pytest.param((*STREAM[:3], chunk(3, "length", text=" for"), SPENT, DONE), id="its text is cut"),
        pytest.param((*STREAM[:3], chunk(3, "length", token_ids=[9]), SPENT, DONE), id="a token of the same text"),
        pytest.param((*STREAM[:4], DONE), id="usage is missing"),
        pytest.param((*STREAM[:4], SPENT.replace(b"4", b"5"), DONE), id="usage counts another number"),
        pytest.param((*STREAM[:4], *STREAM[3:]), id="it goes on after its end"),
        pytest.param((*STREAM, STREAM[0]), id="a token follows DONE"),
        pytest.param((*STREAM, SPENT), id="usage follows DONE"),
        pytest.param((chunk(0), chunk(1, token_ids=[1, 1]), *STREAM[2:]), id="a token comes twice without its text"),
        pytest.param((chunk(0, token_ids=[1]), chunk(1, token_ids=[0]), *STREAM[2:]), id="only tokens change places"),
        pytest.param((*STREAM[:3], chunk(3, "length", index=1), SPENT, DONE), id="another choice"),
        pytest.param((STREAM[0], chunk(1, logprobs={"tokens": ["x"]}), *STREAM[2:]), id="logprobs nobody asked for"),
        pytest.param((b"data: {nonsense\n\n",), id="no JSON"),
        pytest.param((b"nonsense\n\n",), id="no event"),
    ],
)
def test_an_answer_that_differs_is_wrong(events: tuple[bytes, ...]) -> None:
    assert judged(streamed(events)).end is End.WRONG
    # Nor is it excused by a server that died or a client that left.
    assert judged(streamed(events), server_died=True, left=True).end is End.WRONG


def test_a_stream_without_its_end_is_lost() -> None:
    for events in (STREAM[:5], STREAM[:2], ()):
        assert judged(streamed(events, complete=False, trouble="the connection ended")).end is End.LOST
    assert judged(streamed(STREAM[:5])).end is End.LOST
    assert judged(streamed(complete=False, trouble="the connection ended")).end is End.LOST


def test_what_hangs_or_is_reset_before_an_answer_is_lost() -> None:
    assert judged(HttpResponse(trouble="no end within 180 s")).end is End.LOST
    verdict = judged(HttpResponse(trouble=RESET))
    assert verdict.end is End.LOST
    assert RESET in verdict.reason


def test_a_request_may_be_cut_only_with_the_api_server_that_had_it_and_only_where_it_was_right_so_far() -> None:
    assert judged(HttpResponse(trouble=RESET), server_died=True).end is End.CUT
    part = streamed(STREAM[:2], complete=False, trouble=RESET)
    assert judged(part, server_died=True).end is End.CUT
    assert judged(part, left=True).end is End.LEFT
    assert judged(part).end is End.LOST
    for events in ((STREAM[0], STREAM[2]), (STREAM[0], chunk(1, text=" on")), (STREAM[0], chunk(1, token_ids=[9]))):
        changed = streamed(events, complete=False, trouble=RESET)
        assert judged(changed, server_died=True).end is End.WRONG
        assert judged(changed, left=True).end is End.WRONG


def test_half_an_event_is_not_held_against_a_stream_that_was_cut() -> None:
    part = streamed((STREAM[0], STREAM[1][:20]), complete=False, trouble=RESET)
    assert judged(part, server_died=True).end is End.CUT


def test_a_refusal_has_to_say_when_to_come_again() -> None:
    for status, code in ((429, "overloaded"), (503, "no_rank")):
        told = judged(refused(status, code, retry_after="5"))
        assert (told.end, told.reason) == (End.REFUSED, f"{status} {code}")
        assert judged(refused(status, code)).end is End.LOST
        assert judged(refused(status, code, retry_after="soon")).end is End.LOST


def test_no_other_error_is_a_refusal() -> None:
    for status in (400, 404, 500, 502):
        assert judged(refused(status, "internal", retry_after="5")).end is End.LOST


def test_a_stream_may_be_refused_in_its_middle_only_for_want_of_a_rank() -> None:
    for code, end in (("no_rank", End.REFUSED), ("engine_died", End.ENGINE_DIED), ("stopping", End.LOST)):
        error = event({"error": {"message": "no", "type": "server_error", "param": None, "code": code}})
        assert judged(streamed((*STREAM[:2], error))).end is end
        # What came before it has to be right.
        assert judged(streamed((STREAM[1], error))).end is End.WRONG


def test_what_kills_ranks_is_told_apart_from_other_refusals() -> None:
    assert judged(refused(500, "engine_died")).end is End.ENGINE_DIED


def test_chats_and_log_probabilities_are_compared_too() -> None:
    def chat(logprob: float, content: str = "Hi") -> HttpResponse:
        scores = {"content": [{"token": "Hi", "logprob": logprob}], "refusal": None}
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "logprobs": scores, "finish_reason": "stop", "token_ids": [7]}
        return whole(200, {"choices": [choice], "usage": USAGE})

    expected = answer_of(chat(-0.5))
    pieces = [("H", None), ("i", "stop")]
    chunks = [
        event(
            {
                "choices": [
                    {"index": 0, "delta": {"content": text}, "finish_reason": finish}
                    | (
                        {"token_ids": [7], "logprobs": {"content": [{"token": "Hi", "logprob": -0.5}]}}
                        if finish
                        else {}
                    )
                ]
            }
        )
        for text, finish in pieces
    ]
    assert judge(expected, chat(-0.5), server_died=False).end is End.FINISHED
    assert judge(expected, streamed((*chunks, SPENT, DONE)), server_died=False).end is End.FINISHED
    assert judge(expected, chat(-0.5000001), server_died=False).end is End.WRONG
    assert judge(expected, chat(-0.5, "Ho"), server_died=False).end is End.WRONG


def test_what_is_wrong_is_said() -> None:
    verdict = judged(streamed((STREAM[0], *STREAM[2:])))
    assert verdict.reason == "choice 0: tokens differ"
    assert verdict.got is not None
    assert json.dumps(verdict.got.choices[0].tokens) == "[0, 2, 3]"
