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
    Drain,
    Drained,
    Endpoint,
    Failed,
    Hello,
    Membership,
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
    StageName,
)
from phalanx.protocol.limits import Rejected, RequestLimits
from phalanx.protocol.moves import (
    AdminAnswer,
    AdminRequest,
    AdminVerb,
    ApiServerState,
    RankState,
    Roster,
    Standing,
    Vacated,
)
from phalanx.protocol.nodes import (
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
from phalanx.protocol.worker import ToLeader, ToWorker, WorkerAnswer, WorkerHello, WorkerStep, WorkerWelcome

PROTOCOL_VERSION = 1

ToSupervisor: TypeAlias = (
    Hello
    | Stage
    | Ready
    | Failed
    | MetricsReport
    | MetricsQuery
    | Pulse
    | Drained
    | Vacated
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
    | Membership
    | Roster
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
ToNode: TypeAlias = Welcome | Membership | Stop | Refused | LaunchChild | SignalChild | StopAccepting

__all__ = [
    "PROTOCOL_VERSION",
    "STEP_SIZES",
    "Abort",
    "AdminAnswer",
    "AdminRequest",
    "AdminVerb",
    "Alive",
    "ApiServerId",
    "ApiServerState",
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
    "Membership",
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
    "Pools",
    "Probe",
    "Pulse",
    "RankId",
    "RankState",
    "Ready",
    "Refused",
    "Rejected",
    "ReleaseNode",
    "RequestId",
    "RequestLimits",
    "RequestOutput",
    "Role",
    "Roster",
    "SamplingParams",
    "ServedAt",
    "Share",
    "SignalChild",
    "Stage",
    "StageName",
    "Standing",
    "StartNode",
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
    "Vacated",
    "Welcome",
    "WorkerAnswer",
    "WorkerHello",
    "WorkerStep",
    "WorkerWelcome",
    "expected_remaining",
]
