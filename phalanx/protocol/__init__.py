"""Every message that crosses a process boundary.

Messages are msgpack arrays, their integer tag first (`array_like` structs: no field names on the wire). A
new field goes at the end with a default, so an older peer's shorter array still decodes; any other change
raises `PROTOCOL_VERSION`, which is compared in the first frame of every connection.

Control plane, child <-> supervisor: Hello -> Welcome -> Stage* -> Ready -> ... -> Stop, or Hello -> Refused.
Control plane, node <-> supervisor: NodeHello -> Welcome -> NodeReady -> (LaunchChild | SignalChild)* <->
(ChildLaunched | ChildNotLaunched | ChildOutput | ChildExited)* ... -> StopAccepting <-> StoppedAccepting ... -> Stop,
or NodeHello -> Refused.
Engine plane (rank <-> API server, the rank dials): EngineHello -> (Submit | Abort | Probe)* <-> (StepOutput | Alive)*.
Worker plane (worker of a rank <-> its worker 0, the worker dials): WorkerHello -> WorkerWelcome -> Stage* -> Ready ->
(WorkerStep -> WorkerAnswer)*, or WorkerHello -> Refused.
"""

from typing import TypeAlias

from phalanx.protocol.control import (
    ApiServers,
    Drain,
    Drained,
    Endpoint,
    Failed,
    Hello,
    MetricsGathered,
    MetricsQuery,
    MetricsReport,
    MetricsRequest,
    Pulse,
    Ready,
    Refused,
    Share,
    Stage,
    Stop,
    Welcome,
)
from phalanx.protocol.engine import (
    STEP_SIZES,
    Abort,
    Alive,
    EngineHello,
    FinishReason,
    Load,
    PhaseTimes,
    Probe,
    RequestOutput,
    SamplingParams,
    StepOutput,
    StepTokens,
    Submit,
    ToApi,
    ToEngine,
    TokenLogprobs,
    expected_remaining,
)
from phalanx.protocol.identity import (
    ApiServerId,
    ChildId,
    Incarnation,
    Message,
    Place,
    RankId,
    RequestId,
    Role,
    StartupStage,
)
from phalanx.protocol.limits import Rejected, RequestLimits
from phalanx.protocol.node_messages import (
    ChildExited,
    ChildLaunched,
    ChildNotLaunched,
    ChildOutput,
    ClusterPlan,
    LaunchChild,
    NodeEnded,
    NodeHello,
    NodeReady,
    NodeStarting,
    Pools,
    ReleaseNode,
    ServedAt,
    SignalChild,
    StartNode,
    StopAccepting,
    StoppedAccepting,
)
from phalanx.protocol.rank_changes import (
    AdminAnswer,
    AdminOutcome,
    AdminRequest,
    AdminVerb,
    ApiServerState,
    PlaceState,
    Ranks,
    RankState,
    RanksVacated,
)
from phalanx.protocol.tensor_parallel import ToLeader, ToWorker, WorkerAnswer, WorkerHello, WorkerStep, WorkerWelcome

PROTOCOL_VERSION = 2

ToSupervisor: TypeAlias = (
    Hello
    | Stage
    | Ready
    | Failed
    | MetricsReport
    | MetricsQuery
    | Pulse
    | Drained
    | RanksVacated
    | AdminRequest
    | NodeHello
    | NodeReady
    | ChildLaunched
    | ChildNotLaunched
    | ChildOutput
    | ChildExited
    | StoppedAccepting
    | ClusterPlan
    | NodeStarting
    | NodeEnded
)
ToChild: TypeAlias = (
    Welcome
    | ApiServers
    | Ranks
    | Stop
    | Drain
    | Share
    | MetricsRequest
    | MetricsGathered
    | AdminAnswer
    | Refused
    | StartNode
    | ReleaseNode
)
ToNode: TypeAlias = Welcome | ApiServers | Stop | Refused | LaunchChild | SignalChild | StopAccepting

__all__ = [
    "PROTOCOL_VERSION",
    "STEP_SIZES",
    "Abort",
    "AdminAnswer",
    "AdminOutcome",
    "AdminRequest",
    "AdminVerb",
    "Alive",
    "ApiServerId",
    "ApiServerState",
    "ApiServers",
    "ChildExited",
    "ChildId",
    "ChildLaunched",
    "ChildNotLaunched",
    "ChildOutput",
    "ClusterPlan",
    "Drain",
    "Drained",
    "Endpoint",
    "EngineHello",
    "Failed",
    "FinishReason",
    "Hello",
    "Incarnation",
    "LaunchChild",
    "Load",
    "Message",
    "MetricsGathered",
    "MetricsQuery",
    "MetricsReport",
    "MetricsRequest",
    "NodeEnded",
    "NodeHello",
    "NodeReady",
    "NodeStarting",
    "PhaseTimes",
    "Place",
    "PlaceState",
    "Pools",
    "Probe",
    "Pulse",
    "RankId",
    "RankState",
    "Ranks",
    "RanksVacated",
    "Ready",
    "Refused",
    "Rejected",
    "ReleaseNode",
    "RequestId",
    "RequestLimits",
    "RequestOutput",
    "Role",
    "SamplingParams",
    "ServedAt",
    "Share",
    "SignalChild",
    "Stage",
    "StartNode",
    "StartupStage",
    "StepOutput",
    "StepTokens",
    "Stop",
    "StopAccepting",
    "StoppedAccepting",
    "Submit",
    "ToApi",
    "ToChild",
    "ToEngine",
    "ToLeader",
    "ToNode",
    "ToSupervisor",
    "ToWorker",
    "TokenLogprobs",
    "Welcome",
    "WorkerAnswer",
    "WorkerHello",
    "WorkerStep",
    "WorkerWelcome",
    "expected_remaining",
]
