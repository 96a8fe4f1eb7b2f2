"""A model hub on this machine, as much of it as fetching a snapshot needs; it remembers what was fetched."""

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

COMMIT = "a" * 40


class FakeHub:
    """Serves folders as repositories `org/NAME`. A context manager."""

    def __init__(self, **folders: Path) -> None:
        self.fetched: list[str] = []
        """Paths in their repository, in the order in which they were asked for."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.fetched, folders))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def environment(self, cache: Path) -> dict[str, str]:
        """For a process that is to fetch from here into a cache of its own."""
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(fetched: list[str], folders: Mapping[str, Path]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                self._describe(parts[3], tree="tree" in parts)
            elif parts[1] not in folders:
                self._send(404, b"")
            else:
                name = "/".join(parts[4:])
                if self.command == "GET":
                    fetched.append(name)
                etag = f'"{hashlib.sha1(name.encode()).hexdigest()}"'
                self._send(200, (folders[parts[1]] / name).read_bytes(), {"ETag": etag, "X-Repo-Commit": COMMIT})

        def _describe(self, repository: str, tree: bool) -> None:
            if repository not in folders:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                return
            folder = folders[repository]
            names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
            body: Any
            if tree:
                body = [
                    {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": "x"} for name in names
                ]
            else:
                body = {"id": f"org/{repository}", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    return Handler
