"""`python -m phalanx.engine --control ADDRESS --index RANK --incarnation K`: a rank's process, from start to end."""

import logging
import os
import sys
import threading
from typing import NoReturn

from phalanx.child import EXIT_FAILED, Control, Launch, enlist
from phalanx.config import Config
from phalanx.engine.core import Engine
from phalanx.engine.drills import Drills
from phalanx.engine.intake import Limits
from phalanx.engine.kv_cache import KvCache
from phalanx.engine.peers import Mailbox, Peers
from phalanx.engine.scheduler import Scheduler
from phalanx.engine.sequence import Runner
from phalanx.protocol import EngineHello, Membership, RankId, Role, StageName, Stop, ToChild

STOP_GRACE = 1.0
"""Seconds a stopped rank may take to end its step. Nothing in a step is worth waiting longer for."""


def main() -> NoReturn:
    launch = Launch.from_process(sys.argv[1:])
    mailbox = Mailbox()

    def hear(message: ToChild) -> None:
        if isinstance(message, Stop):
            grace = threading.Timer(STOP_GRACE, os._exit, (0,))
            grace.daemon = True
            grace.start()
        if not isinstance(message, Membership | Stop):
            raise TypeError(f"a rank has no use for {type(message).__name__}")
        mailbox.put(message)

    try:
        control = enlist(launch, Role.ENGINE, hear)
    except OSError as error:
        print(f"rank {launch.index} cannot join the service: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    status = 0
    try:
        logging.basicConfig(level=control.config.service.log_level.upper(), format="%(levelname)s: %(message)s")
        serve(control, launch, mailbox)
    except BaseException as error:
        control.failed(error)  # with its traceback, which the supervisor prints
        status = EXIT_FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing is left to do that the end of the process does not do: threads that dial or compute are not waited for.
    os._exit(status)


def serve(control: Control, launch: Launch, mailbox: Mailbox) -> None:
    """Load, attach to the API servers, serve until stopped. Raises whatever makes that impossible."""
    config = control.config
    stages = Stages(control, Drills(config.engine.synthetic_stage, launch.index))
    stages.drills.enter(StageName.STARTED, control.stage)
    runner = make_runner(config)
    stages(StageName.IMPORTED)
    runner.load(stages)

    limits = Limits(
        vocab_size=runner.vocab_size,
        model_tokens=config.model.max_model_len or config.facts.max_model_len,
        cache_tokens=runner.num_blocks * runner.block_size,
    )
    cache = KvCache(
        runner.num_blocks,
        runner.block_size,
        prefix_caching=config.engine.enable_prefix_caching,
        key=control.secret[:64],
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
    peers = Peers(mailbox, control.secret, hello)
    attachment = Attachment(stages, peers, runner.describe())
    engine = Engine(runner, scheduler, limits, peers, attachment)
    peers.update(control.membership)
    attachment("")
    engine.run()


def make_runner(config: Config) -> Runner:
    """Imports only what the chosen engine needs: the synthetic one never loads torch."""
    if config.engine.engine == "synthetic":
        from phalanx.engine.synthetic import SyntheticRunner

        return SyntheticRunner(config)
    from phalanx.engine.runner import ModelRunner

    return ModelRunner(config)


class Stages:
    """Reports the stages of the start to the supervisor, and holds the drills ordered for them."""

    def __init__(self, control: Control, drills: Drills) -> None:
        self.control = control
        self.drills = drills

    def __call__(self, stage: StageName, progress: float | None = None, detail: str = "") -> None:
        self.control.stage(stage, progress, detail)
        self.drills.enter(stage, self.control.stage)

    def ready(self, detail: str) -> None:
        self.control.ready(detail)
        self.drills.enter(StageName.READY, lambda stage, progress, detail: None)


class Attachment:
    """Tells how many API servers the rank has reached, until it has reached all: then it is ready."""

    def __init__(self, stages: Stages, peers: Peers, description: str) -> None:
        self._stages = stages
        self._peers = peers
        self._description = description
        self._ready = False

    def __call__(self, trouble: str) -> None:
        """One more is attached, or, with its reason, cannot be reached yet."""
        if self._ready:
            return
        attached, expected = len(self._peers.attached), self._peers.expected
        detail = f"{attached} of {expected} API servers"
        self._stages(
            StageName.ATTACHED,
            attached / expected if expected else 1.0,
            f"{detail}; {trouble}" if trouble else detail,
        )
        if attached == expected:
            self._ready = True
            self._stages.ready(self._description)


if __name__ == "__main__":
    main()
