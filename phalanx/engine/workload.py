"""What the requests of each API server still need from this rank, kept up to date token by token. Pure."""

from bisect import bisect_left

from phalanx.engine.sequence import Sequence
from phalanx.protocol import STEP_SIZES, ApiServerId, Load, RequestOutput, StepTokens, expected_remaining


class Account:
    """One API server's requests in this rank: the work they still are, and what the running step brought them."""

    __slots__ = ("decode_tokens", "outputs", "prefill_tokens", "requests")

    def __init__(self) -> None:
        self.prefill_tokens = 0
        """Tokens to compute before the last one of each request, whose computation is a decode."""
        self.decode_tokens = 0
        """Output tokens expected still."""
        self.requests = 0
        self.outputs: list[RequestOutput] = []

    def opened(self, sequence: Sequence) -> None:
        self.requests += 1
        self.prefill_tokens += len(sequence.tokens) - 1 - sequence.computed
        self.progressed(sequence)

    def progressed(self, sequence: Sequence) -> None:
        """Output tokens came; so many less are expected."""
        left = expected_remaining(sequence.expected_tokens, sequence.sampling.max_tokens, sequence.generated)
        self.decode_tokens += left - sequence.expected_left
        sequence.expected_left = left

    def closed(self, sequence: Sequence) -> None:
        self.requests -= 1
        self.prefill_tokens -= len(sequence.tokens) - 1 - sequence.computed
        self.decode_tokens -= sequence.expected_left


class RankView:
    """The load of a rank at one moment. Each API server's view of it leaves that server's own requests out."""

    def __init__(self, accounts: dict[ApiServerId, Account], **counters: int) -> None:
        """`counters`: the fields of Load that are the same for all."""
        self._accounts = accounts
        self._counters = counters
        self._prefill_tokens = sum(account.prefill_tokens for account in accounts.values())
        self._decode_tokens = sum(account.decode_tokens for account in accounts.values())
        self._requests = sum(account.requests for account in accounts.values())

    def seen_from(self, api_server: ApiServerId) -> Load:
        own = self._accounts.get(api_server) or Account()
        return Load(
            self._prefill_tokens - own.prefill_tokens,
            self._decode_tokens - own.decode_tokens,
            self._requests - own.requests,
            **self._counters,
        )


class StepSizes:
    """Counts the steps of a rank by the tokens that they ran; see `StepTokens`."""

    def __init__(self) -> None:
        self._steps = [0] * (len(STEP_SIZES) + 1)
        self._tokens = 0

    def count(self, tokens: int) -> None:
        self._steps[bisect_left(STEP_SIZES, tokens)] += 1
        self._tokens += tokens

    def told(self) -> StepTokens:
        return StepTokens(tuple(self._steps), self._tokens)
