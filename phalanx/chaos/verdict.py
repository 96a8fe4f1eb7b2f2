"""How a request ended, and whether it may end so; this is pure."""

import enum
from dataclasses import dataclass

from phalanx.chaos.answers import Answer, Malformed, answer_of, difference
from phalanx.chaos.http_client import HttpResponse


class End(enum.StrEnum):
    """How a request ended."""

    FINISHED = "finished"
    """It got the answer of the undisturbed run."""
    REFUSED = "refused"
    """It was refused with a reason and the advice to come again."""
    CUT = "cut with their API server"
    ENGINE_DIED = "refused as what kills ranks"
    """It got the error 500 engine_died, since rank after rank had died on it."""
    LEFT = "left by their client"
    WRONG = "wrong"
    LOST = "lost"


@dataclass(frozen=True)
class Verdict:
    """How a request ended, and why that is said of it."""

    end: End
    reason: str = ""
    """The code of a refusal, or a sentence on what is wrong or lost for the person who looks into it."""
    got: Answer | None = None


def judge(expected: Answer, response: HttpResponse, *, server_died: bool, left: bool = False) -> Verdict:
    """Judge what came of a request.

    Args:
        server_died: a fault brought down the API server that had the request meanwhile.
        left: the client itself left.
    """
    try:
        got = answer_of(response)
    except Malformed as error:
        return Verdict(End.WRONG, f"it is not an answer: {error}")
    if got.choices and (wrong := difference(expected, got)):
        return Verdict(End.WRONG, wrong, got)
    if got.ended and response.status == 200:
        return Verdict(End.FINISHED, got=got)
    if left:
        return Verdict(End.LEFT)
    if got.error is not None:
        return _refusal(response, got)
    if server_died:
        return Verdict(End.CUT)
    began = f"status {response.status} and {len(response.body)} bytes had come" if response.status else "nothing came"
    return Verdict(End.LOST, f"{response.trouble or 'it did not end in time'}; {began}", got)


def _refusal(response: HttpResponse, got: Answer) -> Verdict:
    assert got.error is not None
    code, status = str(got.error.get("code")), response.status
    if code == "engine_died":
        return Verdict(End.ENGINE_DIED, code, got)
    if status in (429, 503) and response.headers.get("retry-after", "").isdecimal():
        return Verdict(End.REFUSED, f"{status} {code}", got)
    if status == 200 and code == "no_rank":
        # The advice to come again is a header, and the head had been sent.
        return Verdict(End.REFUSED, f"{code}, in the middle of the stream", got)
    advice = "" if status not in (429, 503) else ", without a Retry-After"
    return Verdict(End.LOST, f"status {status}{advice}: {got.error}", got)
