"""What every request handler works with."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from phalanx.api.chat_template import ChatTemplate
from phalanx.api.engine_client import EngineClient
from phalanx.api.metrics import Metrics
from phalanx.api.operator import Operator
from phalanx.api.roster import Attendance
from phalanx.api.tokenizer import ModelTokenizer
from phalanx.config import Config


@dataclass(slots=True)
class Service:
    config: Config
    engine: EngineClient
    tokenizer: ModelTokenizer
    chat_template: ChatTemplate | str
    """A text says why there is none."""
    metrics: Metrics
    gather: Callable[[], Awaitable[Sequence[bytes]]]
    """The siblings' `Metrics.samples()`."""
    operator: Operator
    roster: Attendance
    started: int
    """Unix time."""
    draining: bool = field(default=False, kw_only=True)
    """The service ends: no new requests."""
    max_model_len: int
    """Longest prompt plus output in tokens: the model's, or less where an attached rank's KV cache holds less."""

    def ranks_changed(self) -> None:
        """Ranks have come or gone."""
        ranks = self.engine.ranks()
        self.max_model_len = min([self.config.facts.max_model_len, *(rank.hello.max_model_len for rank in ranks)])
