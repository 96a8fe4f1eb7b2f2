"""`python -m phalanx.engine --control ADDRESS --index RANK --incarnation K [--worker W]`: a rank's process, or one
of its tensor-parallel workers', from start to end."""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import NoReturn

from phalanx.checkpoint.errors import CheckpointError
from phalanx.child import EXIT_FAILED, Control, Launch, enlist
from phalanx.config import Config
from phalanx.engine.api_links import ApiLinks, WakingQueue
from phalanx.engine.core import Engine
from phalanx.engine.drills import Drills
from phalanx.engine.kv_cache import CacheTooSmall, KvCache
from phalanx.engine.scheduler import Scheduler
from phalanx.engine.sequence import Runner
from phalanx.engine.stages import Stages
from phalanx.engine.tp_leader import PartnerGone, WorkerGroup
from phalanx.protocol import (
    ApiServers,
    EngineHello,
    RankId,
    RequestLimits,
    Role,
    Share,
    StartupStage,
    Stop,
    ToChild,
    WorkerHello,
)

STOP_GRACE = 1.0
"""Seconds a stopped rank may take to end its step. Nothing in a step is worth waiting longer for."""

SUPERVISOR_FIRST = 0.5
"""Seconds the supervisor gets to see the end of a worker's process, and stop the others, before they complain of it."""


NAMED = 4
"""API servers that a rank waits for are named up to so many."""


def main() -> NoReturn:
    launch = Launch.from_process(sys.argv[1:])
    notices = WakingQueue()
    stopped = threading.Event()

    def hear(message: ToChild) -> None:
        if not isinstance(message, ApiServers | Share | Stop):
            raise TypeError(f"a rank has no use for {type(message).__name__}")
        if isinstance(message, Stop):
            stopped.set()
            grace = threading.Timer(STOP_GRACE, os._exit, (0,))
            grace.daemon = True
            grace.start()
        if launch.worker == 0:
            notices.put(message)

    try:
        control = enlist(launch, Role.ENGINE, hear)
    except OSError as error:
        worker = f" worker {launch.worker}" if launch.worker else ""
        print(f"rank {launch.index}{worker} cannot join the service: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    status = 0
    try:
        logging.basicConfig(level=control.config.service.log_level.upper(), format="%(levelname)s: %(message)s")
        if launch.worker:
            from phalanx.engine.tp_worker import work  # the synthetic engine alone has workers so far

            work(control, launch)
        else:
            serve(control, launch, notices)
    except PartnerGone as error:
        # Where all were told to stop, one of us is the first to go; else the supervisor names who failed, or we do.
        if not stopped.wait(SUPERVISOR_FIRST):
            control.failed(error)
            status = EXIT_FAILED
    except (CheckpointError, CacheTooSmall) as error:
        control.refused(str(error))
        status = EXIT_FAILED
    except BaseException as error:
        control.failed(error)  # with its traceback, which the supervisor prints
        status = EXIT_FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing is left to do that the end of the process does not do: threads that dial or compute are not waited for.
    os._exit(status)


def serve(control: Control, launch: Launch, notices: WakingQueue) -> None:
    """Load, attach to the API servers, serve until stopped. Raises whatever makes that impossible."""
    config = control.config
    workers = lead(control, launch, notices)
    stages = Stages(control.send, Drills(config.engine.synthetic_stage, launch.index))
    stages.begin()
    runner = make_runner(config, workers, lambda: control.share, first=launch.index == 0)
    stages(StartupStage.IMPORTED)
    runner.load(stages)
    if workers is not None:
        workers.wait(lambda share, detail: stages(StartupStage.ATTACHED, share, detail))

    limits = RequestLimits(
        vocab_size=runner.vocab_size,
        model_tokens=config.facts.max_model_len,
        cache_tokens=runner.num_blocks * runner.block_size,
    )
    cache = KvCache(
        runner.num_blocks,
        runner.block_size,
        prefix_caching=config.engine.enable_prefix_caching,
        key=control.security.secret[:64],
    )
    scheduler = Scheduler(
        cache,
        max_num_seqs=config.engine.max_num_seqs,
        max_num_batched_tokens=config.engine.max_num_batched_tokens,
        max_model_len=limits.max_model_len,
        eos_token_ids=runner.eos_token_ids,
    )
    hello = EngineHello(
        RankId(launch.index),
        launch.incarnation,
        limits.max_model_len,
        config.engine.max_num_seqs,
        limits.cache_tokens,
    )
    links = ApiLinks(notices, control.security, hello)
    attachment = Attachment(stages, links, runner.describe())
    engine = Engine(runner, scheduler, limits, links, attachment)
    control.pulse(engine.pulse)
    links.update(control.api_servers)
    attachment(None)
    engine.run()


def lead(control: Control, launch: Launch, notices: WakingQueue) -> WorkerGroup | None:
    """Take in the other workers of this rank, from the start: they report here as they load."""
    size = control.config.parallel.tensor_parallel_size
    if size == 1:
        return None
    [listener] = launch.sockets["workers"]
    hello = WorkerHello(RankId(launch.index), 0, launch.incarnation)
    return WorkerGroup(listener, control.security, hello, size, notices.put)


def make_runner(
    config: Config, workers: WorkerGroup | None, share: Callable[[], Share] = Share, *, first: bool
) -> Runner:
    """Imports only what the chosen engine needs: the synthetic one never loads torch.

    `share`: of the machine, as it was told last. `first`: of all ranks this one says what is true of each.
    """
    if config.engine.engine == "synthetic":
        from phalanx.engine.synthetic import SyntheticRunner

        return SyntheticRunner(config, workers)
    # torch warns, as it is imported, that there is no numpy; nothing here needs it.
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
    from phalanx.engine.runner import ModelRunner

    return ModelRunner(config, share, warns=first)


class Attachment:
    """Tells how many API servers the rank has reached, until it has reached all: then it is ready."""

    def __init__(self, stages: Stages, links: ApiLinks, description: str) -> None:
        self._stages = stages
        self._links = links
        self._description = description
        self._ready = False

    def __call__(self, trouble: str | None) -> None:
        """One more API server is attached, or one cannot be reached yet: `trouble` says why."""
        if self._ready:
            return
        attached, expected = len(self._links.attached), self._links.expected
        detail = f"{attached} of {expected} API servers"
        if missing := self._links.missing:
            # Should this be where it ends, they are to blame and not this rank.
            awaited = ", ".join(f"api {index}" for index in missing[:NAMED]) + (", ..." if missing[NAMED:] else "")
            detail += f"; {trouble or f'waits for {awaited}'}"
        self._stages(StartupStage.ATTACHED, attached / expected if expected else 1.0, detail)
        if attached == expected and self._links.complete:
            self._ready = True
            self._stages.ready(self._description)


if __name__ == "__main__":
    main()
