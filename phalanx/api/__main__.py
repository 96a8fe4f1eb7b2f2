"""An API server's process: `python -m phalanx.api --control ADDRESS --index I --incarnation K`."""

import sys

from phalanx.api.supervisor_inbox import SupervisorInbox
from phalanx.child import EXIT_FAILED, Launch, enlist
from phalanx.protocol import Role, StartupStage


def main() -> int:
    launch = Launch.from_process(sys.argv[1:])
    inbox = SupervisorInbox()
    control = enlist(launch, Role.API, inbox.put)
    try:
        control.stage(StartupStage.STARTED)
        # After enlisting, so that a failing import is told with its traceback.
        from phalanx.api.server import run

        control.stage(StartupStage.IMPORTED)
        run(launch, control, inbox)
    except Exception as error:
        control.failed(error)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
