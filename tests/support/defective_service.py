"""`phalanx serve` whose API servers have a defect: defective_service.py DEFECT [flags]."""

import sys
from collections.abc import Callable
from typing import Any

import msgspec

from phalanx.api import __main__ as api
from phalanx.api.dispatcher import Dispatcher, RankLink
from phalanx.cli import serve
from phalanx.hosting.children import own_commands
from phalanx.protocol import Role, Submit

AS_API_SERVER = "--as-api-server"


def repeat() -> None:
    """A request that goes on elsewhere makes its last token a second time."""
    attach = Dispatcher.attach

    def attached(self: Dispatcher, hello: Any, port: Any) -> RankLink:
        send = port.send

        class Port:
            def send(self, message: Any) -> None:
                if isinstance(message, Submit) and message.generated:
                    message = msgspec.structs.replace(message, generated=message.generated[:-1])
                send(message)

            def close(self) -> None:
                port.close()

        return attach(self, hello, Port())

    Dispatcher.attach = attached  # type: ignore[method-assign]


def forget() -> None:
    """A request whose rank died goes on nowhere, and nobody is told."""
    detach = Dispatcher.detach

    def detached(self: Dispatcher, link: RankLink, reason: str) -> bool:
        link.live.clear()
        return detach(self, link, reason)

    Dispatcher.detach = detached  # type: ignore[method-assign]


DEFECTS: dict[str, Callable[[], None]] = {"repeat": repeat, "forget": forget}

if __name__ == "__main__":
    if sys.argv[1] == AS_API_SERVER:
        DEFECTS[sys.argv[2]]()
        del sys.argv[1:3]
        sys.exit(api.main())
    defect, *flags = sys.argv[1:]
    sys.exit(serve.run(flags, {**own_commands(), Role.API: [sys.executable, __file__, AS_API_SERVER, defect]}))
