"""A tensor-parallel worker above 0: answers its share of every step until its leader, worker 0, is gone."""

import msgspec

from phalanx.child import Control, Launch
from phalanx.engine.drills import Drills
from phalanx.engine.stages import Stages
from phalanx.engine.synthetic import SyntheticRunner
from phalanx.engine.tp_leader import PartnerGone
from phalanx.protocol import (
    RankId,
    Ready,
    Refused,
    Stage,
    StartupStage,
    ToWorker,
    WorkerAnswer,
    WorkerHello,
    WorkerStep,
    WorkerWelcome,
)
from phalanx.transport import handshake
from phalanx.transport.channel import Channel, Closed, dial


def work(control: Control, launch: Launch) -> None:
    """Join the leader, load, answer steps; returns never.

    Raises:
        PartnerGone: the leader's end of the connection has closed.
        ConnectionError: the leader cannot be reached or does not take us; says why.
    """
    leader = f"worker 0 of rank {launch.index}"
    control.stage(StartupStage.STARTED, None, f"waits for {leader}")
    try:
        channel = _join(control, launch, leader)
        _load_and_answer(control, launch, channel)
    except Closed as error:
        raise PartnerGone(f"{leader}, which leads worker {launch.worker}, is gone: {error}") from None


def _join(control: Control, launch: Launch, leader: str) -> Channel:
    """Waits in the backlog of a leader that is starting as we are."""
    try:
        channel = dial(control.leader, control.security, control.config.service.startup_timeout)
    except (Closed, handshake.HandshakeRefused):
        raise
    except OSError as error:
        raise ConnectionError(f"{leader} cannot be reached at {control.leader}: {error}") from error
    channel.send(WorkerHello(RankId(launch.index), launch.worker, launch.incarnation))
    answer = channel.receive(_decoder)
    if isinstance(answer, Refused):
        raise ConnectionRefusedError(f"{leader} refused us: {answer.reason}")
    if not isinstance(answer, WorkerWelcome):
        raise ConnectionError(f"{leader} answered WorkerHello with {type(answer).__name__}")
    return channel


def _load_and_answer(control: Control, launch: Launch, channel: Channel) -> None:
    def tell(message: Stage | Ready) -> None:
        # The supervisor first: should we get stuck here, our deadline passes before our leader's.
        control.send(message)
        channel.send(message)

    config = control.config
    stages = Stages(tell, Drills(config.engine.synthetic_stage, launch.index, launch.worker))
    stages.begin()
    runner = SyntheticRunner(config)
    stages(StartupStage.IMPORTED)
    runner.load(stages)
    stages(StartupStage.ATTACHED)
    stages.ready("answers its leader")
    while True:
        step = channel.receive(_decoder)
        if not isinstance(step, WorkerStep):
            raise ConnectionError(f"the leader said {type(step).__name__} to a worker that is ready")
        channel.send(WorkerAnswer(step.step, runner.draw(step.draws)))


_decoder: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
