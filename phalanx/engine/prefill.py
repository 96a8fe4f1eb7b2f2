"""How the prompt tokens of one step are split among requests. Pure."""


class PrefillBudget:
    """Tokens of one step that prompts may take; asked by one request after another, in order.

    Each takes what it needs. The first that not even the whole next step would finish is the long one: it gets
    half of what is left now, and what nobody else wanted at the end. The other half is for requests behind it
    that end in this step, or that are at most half as long. So a long prompt delays short ones by a step, not
    by its length, and is itself slowed by no more than half.
    """

    def __init__(self, tokens: int, step_tokens: int) -> None:
        self.left = tokens
        self._step_tokens = step_tokens
        self._long_remaining = 0

    def offer(self, remaining: int) -> int:
        """Tokens that a request with `remaining` tokens to compute may take now; 0: not in this step."""
        if self._long_remaining:
            overtakes = remaining <= self.left or remaining * 2 <= self._long_remaining
            return min(remaining, self.left) if overtakes else 0
        if self.is_long(remaining):
            return (self.left + 1) // 2
        return min(remaining, self.left)

    def is_long(self, remaining: int) -> bool:
        return not self._long_remaining and remaining > self.left + self._step_tokens

    def take(self, remaining: int, length: int) -> None:
        """The request has accepted the `length` tokens it was offered."""
        if self.is_long(remaining):
            self._long_remaining = remaining
        self.left -= length
