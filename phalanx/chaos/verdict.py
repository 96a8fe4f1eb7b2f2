"""How a request ended, and whether it may end so. Pure."""

import enum
from dataclasses import dataclass

from phalanx.chaos.answers import Answer, Malformed, answer_of, difference
from phalanx.chaos.client import Exchange


class End(enum.StrEnum):
    FINISHED = "finished"
    """With the answer of the undisturbed run."""
    REFUSED = "refused"
    """With a reason and the advice to come again."""
    CUT = "cut with their API server"
    ENGINE_DIED = "refused as what kills ranks"
    """500 engine_died: rank after rank had died on it."""
    LEFT = "left by their client"
    WRONG = "wrong"
    LOST = "lost"


@dataclass(frozen=True)
class Verdict:
    end: End
    reason: str = ""
    """Of a refusal its code; of what is wrong or lost the sentence for the person who looks into it."""
    got: Answer | None = None


def judge(expected: Answer, exchange: Exchange, *, server_died: bool, left: bool = False) -> Verdict:
    """`server_died`: the API server that had the request was brought down by a fault meanwhile; `left`: we went."""
    try:
        got = answer_of(exchange)
    except Malformed as error:
        return Verdict(End.WRONG, f"it is not an answer: {error}")
    if got.choices and (wrong := difference(expected, got)):
        return Verdict(End.WRONG, wrong, got)
    if got.ended and exchange.status == 200:
        return Verdict(End.FINISHED, got=got)
    if left:
        return Verdict(End.LEFT)
    if got.error is not None:
        return _refusal(exchange, got)
    if server_died:
        return Verdict(End.CUT)
    began = f"status {exchange.status} and {len(exchange.body)} bytes had come" if exchange.status else "nothing came"
    return Verdict(End.LOST, f"{exchange.trouble or 'it did not end in time'}; {began}", got)


def _refusal(exchange: Exchange, got: Answer) -> Verdict:
    assert got.error is not None
    code, status = str(got.error.get("code")), exchange.status
    if code == "engine_died":
        return Verdict(End.ENGINE_DIED, code, got)
    if status in (429, 503) and exchange.headers.get("retry-after", "").isdecimal():
        return Verdict(End.REFUSED, f"{status} {code}", got)
    if status == 200 and code == "no_rank":
        # Its status had been sent, so the advice to come again could not be.
        return Verdict(End.REFUSED, f"{code}, in the middle of the stream", got)
    advice = "" if status not in (429, 503) else ", without a Retry-After"
    return Verdict(End.LOST, f"status {status}{advice}: {got.error}", got)
