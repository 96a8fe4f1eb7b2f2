"""The leader's side of a rank's tensor-parallel workers: worker 0 takes the others in and shares every step out.

A worker dials as soon as it lives, and its stages come here as well as to the supervisor: what a leader waits for
shows in its own stage, and while a worker makes progress so does its leader.
"""

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import NamedTuple, TypeAlias

import msgspec

from phalanx.engine.sequence import RankBroken
from phalanx.protocol import (
    Ready,
    Refused,
    Stage,
    StartupStage,
    ToLeader,
    WorkerAnswer,
    WorkerHello,
    WorkerStep,
    WorkerWelcome,
)
from phalanx.transport import handshake
from phalanx.transport.channel import Channel, Closed, FrameError, accept
from phalanx.transport.deadline import Deadline
from phalanx.transport.security import Security

log = logging.getLogger(__name__)

ANSWER_TIMEOUT = 30.0
"""Seconds, once the leader's own share is done, in which a worker must answer, or else is stuck."""

Draw: TypeAlias = tuple[int, int]
"""The digest that names prompt and seed, and the output position; as in WorkerStep."""


class PartnerGone(RankBroken):
    """The connection between a worker and its leader has ended.

    The supervisor sees that end too, and knows more about it: exit status and last words.
    """


class WorkerStuck(RankBroken):
    """A worker's connection stands, and no answer comes."""


class NotOurWorker(Exception):
    """Who has dialled is no worker of this rank, or one that is connected already. Its text is for people."""


class _WorkerReady(NamedTuple):
    """A worker is ready; from now on the engine loop's thread talks to it."""

    worker: int
    channel: Channel


class _WorkerStage(NamedTuple):
    worker: int
    stage: Stage


class WorkerGroup:
    """The workers of one rank besides its leader, which owns this.

    A thread for each connection follows it from its handshake to READY, and from then on sleeps until its end.
    """

    def __init__(
        self,
        listener: socket.socket,
        security: Security,
        hello: WorkerHello,
        size: int,
        lost: Callable[[RankBroken], None],
        answer_timeout: float = ANSWER_TIMEOUT,
    ) -> None:
        """Accept from now on.

        Args:
            listener: where the workers dial; inherited, so the first may wait in its backlog already.
            hello: the leader's own: rank, worker 0 and incarnation.
            size: workers of the rank, the leader included.
            lost: called, on another thread, when a worker's connection ends.
            answer_timeout: seconds.
        """
        self.size = size
        self._listener = listener
        self._security = security
        self._hello = hello
        self._lost = lost
        self._answer_timeout = answer_timeout
        self._events: SimpleQueue[_WorkerStage | _WorkerReady | RankBroken] = SimpleQueue()
        self._claims = threading.Lock()
        self._claimed = {hello.worker}
        self._channels: dict[int, Channel] = {}
        self._workers: dict[int, int] = {}
        """The worker at the other end of each channel, by the channel's descriptor."""
        self._answers = select.poll()
        self._decoder: msgspec.msgpack.Decoder[WorkerAnswer] = msgspec.msgpack.Decoder(WorkerAnswer)
        self._step = 0
        threading.Thread(target=self._accept, name="workers", daemon=True).start()

    def wait(self, report: Callable[[float, str], None]) -> None:
        """Wait until all are ready; `report` is told the share that is, and what they do.

        The deadline is the supervisor's, for the stage that `report` reports.

        Raises:
            PartnerGone: names the worker.
        """
        others, doing = self.size - 1, ""
        while True:
            ready = len(self._channels)
            report(ready / others, f"{ready} of {others} workers{doing}")
            if ready == others:
                return
            match self._events.get():
                case _WorkerReady(worker, channel):
                    channel.set_send_timeout(self._answer_timeout)
                    self._channels[worker] = channel
                    self._workers[channel.fileno()] = worker
                    self._answers.register(channel, select.POLLIN)
                    doing = ""
                case _WorkerStage(worker, stage):
                    share = f" {stage.progress:.0%}" if stage.progress is not None else ""
                    doing = f"; worker {worker}: {stage.stage}{share}"
                case RankBroken() as error:
                    raise error

    def share(self, draws: list[Draw], own: Callable[[list[Draw]], list[int]]) -> list[int]:
        """One step: draw i is worker i % size's to answer, `own` answers the leader's. Returns all, in order.

        Raises:
            PartnerGone, WorkerStuck: names the worker.
        """
        self._step += 1
        size = self.size
        for worker, channel in self._channels.items():
            with self._naming(worker):
                channel.send(WorkerStep(self._step, draws[worker::size]))
        places = [0] * len(draws)
        places[::size] = own(draws[::size])
        owing = set(self._channels)
        while owing:
            for worker in self._heard_from(owing):
                with self._naming(worker):
                    for answer in self._channels[worker].drain(self._decoder):
                        if answer.step >= self._step:  # else to a step that the leader itself failed in
                            places[worker::size] = self._checked(answer, len(draws[worker::size]))
                            owing.discard(worker)
        return places

    def _heard_from(self, owing: set[int]) -> list[int]:
        """Waits for an answer of any worker, or the end of any: who died must not hide behind who is waiting for it."""
        try:
            ready = Deadline(self._answer_timeout).poll(self._answers)
        except TimeoutError:
            raise WorkerStuck(
                f"{self._name(*sorted(owing))} {'is' if len(owing) == 1 else 'are'} stuck: "
                f"no answer for {self._answer_timeout:g} s in step {self._step}"
            ) from None
        return [self._workers[descriptor] for descriptor, _ in ready]

    def _checked(self, answer: WorkerAnswer, count: int) -> list[int]:
        if answer.step != self._step:
            raise FrameError(f"it answered step {answer.step} in step {self._step}")
        if len(answer.places) != count:
            raise FrameError(f"it answered {len(answer.places)} places in step {answer.step}, asked for {count}")
        return answer.places

    @contextlib.contextmanager
    def _naming(self, worker: int) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise WorkerStuck(
                f"{self._name(worker)} is stuck: step {self._step} could not be sent for {self._answer_timeout:g} s"
            ) from None
        except ConnectionError as error:
            raise self._gone(worker, error) from None

    # --- on the threads of the connections ---

    def _accept(self) -> None:
        try:
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._attend, args=(sock,), name="worker", daemon=True).start()
        except OSError as error:
            self._end(RankBroken(f"rank {self._hello.rank} can take no workers in: {error}"))

    def _attend(self, sock: socket.socket) -> None:
        """The whole life of one connection."""
        decoder: msgspec.msgpack.Decoder[ToLeader] = msgspec.msgpack.Decoder(ToLeader)
        try:
            channel = accept(sock, self._security, handshake.TIMEOUT, "its end")
            hello = self._admitted(channel.receive(decoder))
        except NotOurWorker as refusal:
            log.warning("refused a worker: %s", refusal)
            with contextlib.suppress(OSError):
                channel.send(Refused(str(refusal)))
            channel.close()
            return
        except Closed:
            return  # Whoever it was has gone; the supervisor waits for the worker itself, by name.
        except OSError as error:
            log.warning("dropped a connection meant for a worker: %s", error)
            return
        try:
            channel.send(WorkerWelcome())
            # The leader waits for this worker, so its deadline must not pass before the worker's does: a worker that
            # has come is progress of the leader, whose deadline begins anew, after the worker's.
            self._events.put(_WorkerStage(hello.worker, Stage(StartupStage.STARTED)))
            while isinstance(message := channel.receive(decoder), Stage):
                self._events.put(_WorkerStage(hello.worker, message))
            if not isinstance(message, Ready):
                raise FrameError(f"it said {type(message).__name__} before it was ready")
            self._events.put(_WorkerReady(hello.worker, channel))
            _sleep_until_end(channel)
        except ConnectionError as error:
            self._end(self._gone(hello.worker, error))

    def _admitted(self, hello: ToLeader) -> WorkerHello:
        """The other end of a connection is a worker of this rank from now on.

        Raises:
            NotOurWorker: it cannot be one; says why.
        """
        own = self._hello
        if not isinstance(hello, WorkerHello):
            raise NotOurWorker(f"it said {type(hello).__name__} before WorkerHello")
        if hello.rank != own.rank:
            raise NotOurWorker(f"worker {hello.worker} of rank {hello.rank} has come to rank {own.rank}")
        if hello.incarnation != own.incarnation:
            raise NotOurWorker(
                f"{self._name(hello.worker)} is of incarnation {hello.incarnation}, its leader of {own.incarnation}"
            )
        if not 0 < hello.worker < self.size:
            raise NotOurWorker(f"there is no {self._name(hello.worker)}: it has {self.size}, from 0 on")
        with self._claims:
            if hello.worker in self._claimed:
                raise NotOurWorker(f"{self._name(hello.worker)} is connected already")
            self._claimed.add(hello.worker)
        return hello

    def _gone(self, worker: int, error: ConnectionError) -> PartnerGone:
        return PartnerGone(f"{self._name(worker)} is gone: {error}")

    def _name(self, *workers: int) -> str:
        return f"worker{'s' * (len(workers) > 1)} {', '.join(map(str, workers))} of rank {self._hello.rank}"

    def _end(self, error: RankBroken) -> None:
        self._events.put(error)
        self._lost(error)


def _sleep_until_end(channel: Channel) -> None:
    """Raises Closed at the end of a connection from which another thread reads."""
    poll = select.poll()
    poll.register(channel, select.POLLRDHUP)
    poll.poll()
    raise Closed("its end closed the connection")
