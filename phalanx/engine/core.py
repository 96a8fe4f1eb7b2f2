"""The loop of a rank: take what has come, plan a step, run it, send what it brought."""

import gc
import logging
import time
from collections.abc import Callable

from phalanx.engine.api_links import ApiLinks, Attached, CannotReach, Event, Lost, Received
from phalanx.engine.intake import sequence_of
from phalanx.engine.scheduler import Scheduler
from phalanx.engine.sequence import Chunk, RankBroken, RequestKey, Runner, Sampled
from phalanx.protocol import (
    Abort,
    Alive,
    ApiServerId,
    ApiServers,
    Load,
    Probe,
    Rejected,
    RequestLimits,
    Share,
    StepOutput,
    Stop,
    Submit,
)

log = logging.getLogger(__name__)

LOAD_INTERVAL = 0.05
"""Seconds, at least, between load reports to an API server that has no request in the steps."""

MAX_FAILURES = 3
"""Steps in a row in which nothing ran through: then it is the rank, and not the requests in it."""


class Engine:
    """One rank at work.

    Args:
        attached: called when an API server attaches, with None, or cannot be reached, with the reason.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        limits: RequestLimits,
        links: ApiLinks,
        attached: Callable[[str | None], None] = lambda trouble: None,
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._limits = limits
        self._links = links
        self._attached = attached
        self._stopping = False
        self._rounds = 0
        self._waiting = False
        self._arrivals = 0
        self._failures = 0
        self._told: dict[ApiServerId, Load] = {}
        self._told_all = 0.0

    def run(self) -> None:
        """Serve until told to stop.

        Raises whatever the runner raised, where it is not one request's fault.
        """
        keep_collector_out_of_the_way()
        while not self._stopping:
            self._rounds += 1
            self.receive()
            if chunks := self._scheduler.plan(time.monotonic()):
                ran, results = self.execute(chunks)
                self._scheduler.complete(ran, results, time.monotonic())
            elif stuck := self._scheduler.unfinished:
                # Never seen; but without this a defect of the plan would spin here for ever, and say nothing.
                raise RuntimeError(f"the scheduler has {stuck} requests and plans none of them")
            self.send()

    def pulse(self) -> tuple[int, bool]:
        """Rounds of the loop, and whether it has to make another; safe from any thread."""
        return self._rounds, not self._waiting

    # --- receive ---

    def receive(self) -> None:
        """Take what has come; where there is nothing to run, wait for something to come."""
        idle = not self._scheduler.unfinished
        if idle:
            gc.collect()
        self._waiting = idle
        happened = self._links.poll(block=idle)
        self._waiting = False
        for event in happened:
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case Received(api_server, Submit() as submit):
                self._submit(RequestKey(api_server, submit.request_id), submit)
            case Received(api_server, Abort(request_ids)):
                for request_id in request_ids:
                    self._scheduler.abort(RequestKey(api_server, request_id))
            case Received(api_server, Probe(number)):
                self._links.send(api_server, Alive(number))
            case Attached():
                self._attached(None)
            case CannotReach(api_server, reason):
                log.info("API server %d cannot be reached yet: %s", api_server, reason)
                self._attached(f"api {api_server}: {reason}")
            case Lost(api_server, reason):
                dropped = self._scheduler.abort_all(api_server)
                self._told.pop(api_server, None)
                severity = logging.WARNING if dropped else logging.INFO
                log.log(severity, "API server %d is gone, %d requests dropped: %s", api_server, dropped, reason)
            case ApiServers():
                self._links.update(event)
                self._attached(None)
            case Share():
                self._runner.take_share(event)
            case Stop():
                self._stopping = True
            case RankBroken():
                raise event

    def _submit(self, key: RequestKey, submit: Submit) -> None:
        try:
            if key in self._scheduler:
                raise Rejected("its number is in use by another request of the same API server")
            self._limits.check(submit.prompt, submit.sampling, submit.generated)
        except Rejected as error:
            self._scheduler.fail(key, str(error))
            return
        self._arrivals += 1
        self._scheduler.add(sequence_of(submit, key, self._arrivals, time.monotonic()))

    # --- run ---

    def execute(self, chunks: list[Chunk]) -> tuple[list[Chunk], list[Sampled | None]]:
        """Run one step. Returns the chunks that ran and their results; a request that cannot run is ended."""
        try:
            results = self._runner.execute(chunks)
        except RankBroken:
            raise
        except Exception as error:
            log.exception("a step of %d requests failed; each of them runs alone now", len(chunks))
            return self._execute_one_by_one(chunks, error)
        self._failures = 0
        return chunks, results

    def _execute_one_by_one(self, chunks: list[Chunk], error: Exception) -> tuple[list[Chunk], list[Sampled | None]]:
        """Find who is at fault. Running a chunk again writes the same keys and values to the same places."""
        ran: list[Chunk] = []
        results: list[Sampled | None] = []
        culprits: list[tuple[RequestKey, Exception]] = []
        for chunk in chunks:
            try:
                results += self._runner.execute([chunk])
                ran.append(chunk)
            except RankBroken:
                raise
            except Exception as reason:
                culprits.append((chunk.sequence.key, reason))
        self._failures = 0 if ran else self._failures + 1
        if not ran and (len(chunks) > 1 or self._failures >= MAX_FAILURES):
            raise error
        for key, fault in culprits:
            self._scheduler.fail(key, f"the model could not run this request: {type(fault).__name__}: {fault}")
        return ran, results

    # --- send ---

    def send(self) -> None:
        """Tell each API server what its requests got; tell the others what there is to do, at intervals."""
        scheduler, links, told = self._scheduler, self._links, self._told
        outputs = scheduler.take_outputs()
        now = time.monotonic()
        all_due = now - self._told_all >= LOAD_INTERVAL or not scheduler.unfinished
        if not outputs and not all_due and len(told) == len(links.attached):
            return
        view = scheduler.view()
        step_tokens = scheduler.step_tokens() if all_due else None
        for api_server, batch in outputs.items():
            told[api_server] = load = view.seen_from(api_server)
            links.send(api_server, StepOutput(batch, load, step_tokens))
        if all_due:
            self._told_all = now
        for api_server in links.attached:
            # One that has just attached hears at once: a rank that says nothing looks idle.
            if api_server not in outputs and (all_due or api_server not in told):
                load = view.seen_from(api_server)
                if told.get(api_server) != load:
                    told[api_server] = load
                    links.send(api_server, StepOutput([], load, step_tokens))


def keep_collector_out_of_the_way() -> None:
    """No pause of the loop for Python's cycle collector.

    What start-up made lives as long as the process: frozen, it is never looked through again. The loop itself
    makes no cycles, but a full collection would walk the tokens of all requests (10 million integers take some
    100 ms), so only young objects are collected between steps, and everything when the rank is idle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 1_000_000)
