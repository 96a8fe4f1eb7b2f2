"""The process of the Ray driver: `python -m phalanx.ray_backend --control ADDRESS --index 0 --incarnation K`."""

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from phalanx import running_time
from phalanx.child import EXIT_FAILED, Launch, enlist
from phalanx.protocol import ApiServers, Failed, ReleaseNode, Role, StartNode, StartupStage, Stop, ToChild
from phalanx.ray_backend.errors import ClusterError


def main() -> NoReturn:
    launch = Launch.from_process(sys.argv[1:])
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    process_exit = ProcessExit()

    def hear(message: ToChild) -> None:
        if isinstance(message, Stop):
            process_exit.end_within(process_exit.limit)
        if isinstance(message, Stop | StartNode | ReleaseNode):
            events.put(message)
        elif not isinstance(message, ApiServers):
            raise TypeError(f"the Ray driver has no use for {type(message).__name__}")

    try:
        control = enlist(launch, Role.RAY, hear)
    except OSError as error:
        print(f"the Ray driver cannot join the service: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    process_exit.limit = 0.8 * control.config.service.shutdown_timeout
    try:
        control.stage(StartupStage.STARTED)
        logging.basicConfig(level=control.config.service.log_level.upper(), format="%(levelname)s: %(message)s")
        # After enlisting, so that a failing import is told with its traceback.
        from phalanx.ray_backend.driver import Driver

        control.stage(StartupStage.IMPORTED)
        driver = Driver(control, events)
        process_exit.before = driver.let_go
        try:
            with running_time.kept():
                driver.run()
        except ClusterError as error:
            process_exit.status = EXIT_FAILED
            control.send(Failed(str(error)))
        except Exception as error:
            process_exit.status = EXIT_FAILED
            control.failed(error)
        process_exit.end_within(process_exit.limit)
        driver.leave()
    except BaseException as error:
        if process_exit.status == 0:
            process_exit.status = EXIT_FAILED
            control.failed(error)
    process_exit.end()


class ProcessExit:
    """Ends this process whatever Ray does: Ray's calls may block, and its exit handlers wait for them."""

    def __init__(self) -> None:
        self.status = 0
        self.limit = 5.0
        """Seconds that leaving the cluster in order may take; less than the supervisor waits before it kills."""
        self.before: Callable[[], None] = lambda: None

    def end_within(self, seconds: float) -> None:
        """End this process after so many seconds, if it has not ended by then."""

        def wait() -> None:
            running_time.sleep(seconds)
            self.end()

        threading.Thread(target=wait, name="exit", daemon=True).start()

    def end(self) -> NoReturn:
        self.before()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.status)


if __name__ == "__main__":
    main()
