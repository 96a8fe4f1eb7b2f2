"""What an operator's client sees of what became of a request: the fleet knows nothing of HTTP."""

import asyncio

import pytest

from phalanx.api.errors import ApiError
from phalanx.api.metrics import Metrics
from phalanx.api.supervisor_client import STATUSES, SupervisorClient
from phalanx.protocol import AdminAnswer, AdminOutcome, AdminRequest, AdminVerb, ToSupervisor


def administer(refusal: str | None, outcome: AdminOutcome) -> AdminAnswer:
    """What an endpoint gets of a supervisor that answers so."""

    def answer(message: ToSupervisor) -> None:
        assert isinstance(message, AdminRequest)
        loop = asyncio.get_running_loop()
        loop.call_soon(client.receive, AdminAnswer(message.query, (), (), refusal, outcome))

    client = SupervisorClient(answer, Metrics())
    return asyncio.run(client.administer(AdminVerb.DRAIN, [9]))


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [(AdminOutcome.NO_SUCH_RANK, 404, None), (AdminOutcome.IMPOSSIBLE_NOW, 409, "impossible_now")],
)
def test_a_refusal_has_the_status_and_the_code_of_its_kind(
    outcome: AdminOutcome, status: int, code: str | None
) -> None:
    with pytest.raises(ApiError, match="no rank 9") as refusal:
        administer("There is no rank 9.", outcome)
    assert (refusal.value.status, refusal.value.detail.code) == (status, code)


def test_what_is_shown_or_begun_is_no_error_and_has_a_status_too() -> None:
    assert [administer(None, each).outcome for each in (AdminOutcome.SHOWN, AdminOutcome.BEGUN)] == ["shown", "begun"]
    assert set(STATUSES) == set(AdminOutcome)
    assert (STATUSES[AdminOutcome.SHOWN], STATUSES[AdminOutcome.BEGUN]) == (200, 202)
