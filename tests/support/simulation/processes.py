"""The processes of the joint simulation, as the supervisor sees them; and the model that the ranks among them run.

Their shells are played here, with delays and ends at any moment; their decisions are the real ones (`api_servers.py`,
`ranks.py`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from support.simulation.network import Alarm, End

from phalanx.protocol import ChildId, SamplingParams, StartupStage, Submit
from phalanx.supervisor import events

if TYPE_CHECKING:
    from support.simulation.joint_world import World

EOS = 0
VOCABULARY = 50
STAGES = (StartupStage.IMPORTED, StartupStage.WEIGHTS, StartupStage.CACHE, StartupStage.WARM_UP)


def token_after(tokens: list[int], prompt_length: int, seed: int) -> int:
    """The model: a function of prompt, seed and position, and of the token before, so that an error goes on."""
    return hash((seed, prompt_length, tokens[0], tokens[-1], len(tokens))) % VOCABULARY


def undisturbed(prompt: list[int], sampling: SamplingParams, max_model_len: int) -> list[int]:
    """What the request must bring, computed without anything of what is tested."""
    tokens = list(prompt)
    while len(tokens) - len(prompt) < sampling.max_tokens and len(tokens) < max_model_len:
        tokens.append(token_after(tokens, len(prompt), sampling.seed))
        if tokens[-1] == EOS and not sampling.ignore_eos:
            break
    return tokens[len(prompt) :]


def brief(message: Any) -> str:
    """For a trace: what it is, and its values that say something."""
    match message:
        case ChildId(place, incarnation):
            return f"{place}.{incarnation}"
        case Submit():
            return f"Submit /{message.request_id}, {len(message.prompt)} + {len(message.generated)} tokens"
        case events.Failure():
            return f"{brief(message.child)} {message.cause}, waited for {message.waiting_for or 'nothing'}"
        case msgspec.Struct():
            values = [brief(getattr(message, name)) for name in message.__struct_fields__ if name != "at"]
            return " ".join([type(message).__name__, *filter(None, values)])
    return str(message)


class Process:
    """One incarnation of a child, as the supervisor sees it: start, stages, pulses, end."""

    def __init__(self, world: "World", child: ChildId) -> None:
        self.world = world
        self.id = child
        self.name = f"{child.place}.{child.incarnation}"
        self.timeline, self.rng = world.timeline, world.rng
        self.pid = 0
        """Until it is launched."""
        self.dead = False
        self.over = False
        """Dead, and the supervisor has been told."""
        self.ready = False
        self.silent = False
        """Stopped by a signal: nothing at all comes from it."""
        self.connected = False
        """The supervisor has welcomed it."""
        self.ends: list[End] = []
        self._told_at = self._heard_at = 0.0

    def after(self, delay: float, happen: Callable[[], None]) -> Alarm:
        """It dies with the process."""
        return self.timeline.after(delay, lambda: None if self.dead else happen())

    def launched(self) -> None:
        self.pid = next(self.world.pids)
        self.world.tell(events.Launched(self.timeline.now, self.id, self.pid))
        self.after(self.rng.random() * 0.3, lambda: self.say(events.Greeted))

    def say(self, kind: Any, *what: Any) -> None:
        """To the supervisor, in order."""
        self._told_at = max(self._told_at, self.timeline.now + self.rng.random() * 0.02)
        self.timeline.upon(self._told_at, lambda: self.world.tell(kind(self.timeline.now, self.id, *what)))

    def hear(self, what: Callable[[], None]) -> None:
        """From the supervisor, in order."""
        self._heard_at = max(self._heard_at, self.timeline.now + self.rng.random() * 0.02)
        self.after(self._heard_at - self.timeline.now, what)

    def welcomed(self) -> None:
        self.connected = True
        fate = self.rng.random()
        danger = self.world.danger_at_start
        if fate < danger:
            self.after(self.rng.random(), lambda: self.die(1))
        elif fate < danger * 1.5:
            return  # stuck while it starts
        self.after(self.rng.random() * 0.3, lambda: self.start(0))

    def start(self, stage: int) -> None:
        if stage < len(STAGES):
            self.say(events.Progressed, STAGES[stage], None, "")
            self.after(self.rng.random() * 0.5, lambda: self.start(stage + 1))
        else:
            self.serve()

    def serve(self) -> None:
        raise NotImplementedError

    def become_ready(self) -> None:
        if not self.ready:
            self.ready = True
            self.say(events.BecameReady, "", self.drains)
            self.after(1.0, self.beat)

    drains = False

    def beat(self) -> None:
        if not self.silent:
            self.say(events.Pulsed, *self.pulse())
        self.after(1.0, self.beat)

    def pulse(self) -> tuple[int, bool]:
        raise NotImplementedError

    def stop(self) -> None:
        """Told to end by the supervisor or an operator."""
        if not self.silent:
            self.after(self.rng.random() * 0.2, lambda: self.die(0))

    def die(self, status: int) -> None:
        if self.dead:
            return
        self.world.note(f"{self.name} dies ({status})")
        self.dead = True
        self.world.fell(self)
        for end in self.ends:
            end.die()

        def exited() -> None:
            self.over = True
            self.world.tell(events.Exited(self.timeline.now, self.id, status))

        random = self.rng.random
        self.timeline.after(0.01 + random() * 0.1, exited)
        self.timeline.after(random() * 0.2, lambda: self.world.tell(events.OutputEnded(self.timeline.now, self.id)))
        if self.connected:
            at = max(self._told_at - self.timeline.now, 0.0) + random() * 0.1
            self.timeline.after(at, lambda: self.world.tell(events.ControlEnded(self.timeline.now, self.id, "closed")))
