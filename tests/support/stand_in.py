"""A stand-in for a child: joins the service as the real ones do, and misbehaves where its plan says so.

    stand_in.py ROLE PLAN --control ... --index ... --incarnation ...

PLAN is JSON: {"engine 1": ["weights", "hang"]} makes rank 1 hang when it enters the stage weights.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time

from phalanx.child import EXIT_FAILED, Launch, enlist
from phalanx.protocol import MetricsGathered, MetricsQuery, MetricsReport, MetricsRequest, Role, StartupStage, Stop


def main() -> None:
    role, plan = Role(sys.argv[1]), json.loads(sys.argv[2])
    launch = Launch.from_process(sys.argv[3:])
    stage, deed = plan.get(f"{role} {launch.index}", ("", ""))
    do(deed if stage == "before hello" else "")
    stopped = threading.Event()
    box = []

    def on_message(message):
        match message:
            case Stop():
                if deed != "ignore stop":
                    stopped.set()
            case MetricsRequest(query):
                if deed != "keep metrics":
                    box[0].send(MetricsReport(query, f"samples of {launch.index}".encode()))
            case MetricsGathered():
                print("gathered", message.query, *sorted(bytes(s).decode() for s in message.samples), flush=True)

    control = enlist(launch, role, on_message)
    box.append(control)
    try:
        for name in list(StartupStage)[1:-1]:
            control.stage(name, 0.5, f"detail of {name}")
            do(deed if stage == name else "", control)
        if role is Role.API:
            assert launch.sockets["http"][0].getsockname()[1] > 0
            assert launch.sockets["engine"][0].getsockname()
        signal.signal(signal.SIGUSR1, lambda *_: control.send(MetricsQuery(7)))
        control.ready("at your service")
        if stage == "ready":
            do(deed, control)
        stopped.wait()
    except Exception as error:
        control.failed(error)
        sys.exit(EXIT_FAILED)


def do(deed, control=None):
    match deed:
        case "hang":
            time.sleep(1000)
        case "hang silently":
            # Deaf to SIGABRT: not even its stack can be had.
            ctypes.CDLL(None).signal(signal.SIGABRT, ctypes.c_void_p(1))
            time.sleep(1000)
        case "exit":
            print("I am leaving", flush=True)
            os._exit(3)
        case "exit 0":
            os._exit(0)
        case "raise":
            raise ValueError("a reason of its own")
        case "abort":
            os.abort()
        case "import":
            import no_such_module_anywhere  # noqa: F401
        case "disconnect":
            socket.socket(fileno=os.dup(control._channel.fileno())).shutdown(socket.SHUT_WR)
            time.sleep(1000)
        case "talk":
            print("z" * 10_000 + "\n" + "\x00\xff odd", flush=True)
            os.write(1, b"\xff\xfe no text\nno end")
        case "grandchild":
            if os.fork() == 0:
                time.sleep(1000)
            os._exit(4)


if __name__ == "__main__":
    main()
