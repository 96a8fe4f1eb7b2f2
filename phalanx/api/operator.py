"""What operators ask, passed on to the supervisor, and its answers."""

from collections.abc import Callable, Sequence

from phalanx.api.errors import ApiError
from phalanx.api.inquiries import Inquiries
from phalanx.protocol import AdminAnswer, AdminRequest, AdminVerb, RankId, ToSupervisor


class Operator:
    """Lives in the event loop."""

    def __init__(self, send: Callable[[ToSupervisor], None]) -> None:
        """`send`: to the supervisor."""
        self._inquiries: Inquiries[AdminAnswer] = Inquiries(send)

    async def ask(
        self, verb: AdminVerb, ranks: Sequence[int] = (), size: int | None = None, timeout: float | None = None
    ) -> AdminAnswer:
        """Raises ApiError: the supervisor refuses, or does not answer; what it was asked for may go on all the same."""
        answer = await self._inquiries.ask(
            lambda query: AdminRequest(query, verb, tuple(RankId(rank) for rank in ranks), size, timeout),
            "The supervisor did not answer",
        )
        if answer.refusal:
            raise ApiError(
                answer.refusal, status=answer.status, code="impossible_now" if answer.status == 409 else None
            )
        return answer

    def answered(self, answer: AdminAnswer) -> None:
        self._inquiries.answered(answer.query, answer)
