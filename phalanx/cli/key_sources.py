"""The API keys and admin keys of a service, from wherever they were given: flags, `--config`, key files, environment.

Flags and files add to one another; the environment counts where neither names a key. A source that is named and empty
is refused: a variable that a script did not find must not open the service to everybody. No message shows a key.
"""

import ipaddress
import os
import socket
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from ssl import CERT_REQUIRED
from typing import NamedTuple

import msgspec

from phalanx.api import https
from phalanx.cli.options import OPTIONS, Given, UsageError
from phalanx.config import HttpOptions

MAX_FILE = 2**20
"""The most bytes of a key file; a longer file is something else."""


class _KeyKind(NamedTuple):
    """API keys or admin keys: the options and the variable that give them, and the values of the options."""

    name: str
    file: str
    variable: str
    given: tuple[str, ...]
    files: tuple[str, ...]


def _key_kinds(http: HttpOptions) -> tuple[_KeyKind, ...]:
    return (
        _KeyKind("api_key", "api_key_file", "PHALANX_API_KEY", http.api_key, http.api_key_file),
        _KeyKind("admin_key", "admin_key_file", "PHALANX_ADMIN_KEY", http.admin_key, http.admin_key_file),
    )


def gather(given: Given, environment: Mapping[str, str] = os.environ) -> Given:
    """Put all keys into `api_key` and `admin_key`, each once, and add warnings where others could read them.

    Raises:
        UsageError: a source holds no key, cannot be read, or holds what no client could send.
    """
    http = given.options.http
    warnings: list[str] = []
    gathered: dict[str, dict[str, str]] = {}
    for kind in _key_kinds(http):
        for name, values in ((kind.name, kind.given), (kind.file, kind.files)):
            if name in given.origins and not any(value.strip() for value in values):
                raise UsageError(f"{given.origins[name]}: an empty key would let everybody in")
        # Each key is kept with where it came from.
        keys = gathered[kind.name] = dict(_named(given, kind))
        if len(kind.files) > 1 and not os.path.isfile(kind.files[-1]):
            _refuse_model(given, OPTIONS[kind.file].flag, kind.files[-1])
        for path in kind.files:
            keys |= keys_of_file(Path(path), given.origins[kind.file])
            warnings += _file_warnings(Path(path))
        if not keys and kind.variable in environment:
            keys |= keys_of_environment(kind.variable, environment[kind.variable])
        if given.origins.get(kind.name) == OPTIONS[kind.name].flag:
            _refuse_model(given, OPTIONS[kind.name].flag, kind.given[-1])
            warnings.append(
                f"{OPTIONS[kind.name].flag}: `ps` showed this key while the service began, and the shell may remember "
                f"it; {OPTIONS[kind.file].flag} FILE keeps it to those who can read the file"
            )
    if both := gathered["api_key"].keys() & gathered["admin_key"].keys():
        twice = both.pop()
        raise UsageError(
            f"the key of {gathered['admin_key'][twice]} is an API key as well ({gathered['api_key'][twice]}): "
            "an admin key opens what no client should"
        )
    http = msgspec.structs.replace(http, **{name: tuple(keys) for name, keys in gathered.items()})
    origins = {**given.origins, **{name: next(iter(keys.values())) for name, keys in gathered.items() if keys}}
    return replace(given.with_http(http), origins=origins, warnings=tuple(warnings))


def _refuse_model(given: Given, flag: str, last: str) -> None:
    """Raise UsageError where MODEL stands behind a flag that takes all that follows.

    Everybody knows the name of a model: taken for a key, it would let everybody in.
    """
    if given.options.model.model is None and ("/" in last or os.path.exists(last)):
        raise UsageError(
            f"{flag}: its last value looks like a MODEL, and MODEL is missing: write it before the options"
        )


def exposure_warnings(http: HttpOptions, sockets: Iterable[socket.socket]) -> Iterator[str]:
    """Warn where whoever reaches this machine may use the service."""
    if http.api_key or https.CLIENT_CERTIFICATES[http.ssl_cert_reqs] == CERT_REQUIRED:
        return
    for sock in sockets:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            host, port = sock.getsockname()[:2]
            if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
                shown = f"[{host}]" if ":" in host else host
                yield f"whoever reaches {shown}:{port} may use this service: --api-key-file FILE asks for a key"
                return


def _named(given: Given, kind: _KeyKind) -> Iterator[tuple[str, str]]:
    for key in kind.given:
        origin = given.origins[kind.name]
        if not key.strip():
            raise UsageError(f"{origin}: an empty key would let everybody in")
        yield _checked(key, origin), origin


def keys_of_file(path: Path, origin: str) -> dict[str, str]:
    """The keys in a file, a key a line, each with where it stands; a line that begins with # is a comment.

    Raises:
        UsageError: the file cannot be read, or holds no key or one that no client could send.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise UsageError(f"{origin}: {path} is longer than {MAX_FILE} bytes, it is no file of keys")
        lines = content.decode().splitlines()
    except OSError as error:
        raise UsageError(f"{origin}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{origin}: {path} is not UTF-8 text") from None
    keys = {}
    for number, line in enumerate(lines, 1):
        key = line.strip()
        if key and not key.startswith("#"):
            where = f"{path}, line {number}"
            keys[_checked(key, f"{origin}: {where}")] = where
    if not keys:
        raise UsageError(f"{origin}: {path} holds no key; it takes one a line, and comments after #")
    return keys


def keys_of_environment(variable: str, text: str) -> dict[str, str]:
    """The keys in a variable, with commas or line ends between them, each with the name of the variable.

    Raises:
        UsageError: it holds no key, or one that no client could send.
    """
    keys = [key.strip() for key in text.replace(",", "\n").splitlines() if key.strip()]
    if not keys:
        raise UsageError(f"{variable} is set and holds no key: give it one, or unset it")
    return {_checked(key, variable): variable for key in keys}


def _checked(key: str, origin: str) -> str:
    """The key itself; raises UsageError where clients cannot send it as a bearer token."""
    if any(character.isspace() for character in key):
        raise UsageError(f"{origin}: a key with spaces or line ends in it is none that a client can send")
    if not key.isascii() or not key.isprintable():
        raise UsageError(f"{origin}: a key has characters other than visible ASCII, which clients cannot send alike")
    return key


def _file_warnings(path: Path) -> Iterator[str]:
    """Warn where every user of this machine can read the file."""
    try:
        mode = path.stat().st_mode
    except OSError:  # It has gone since it was read.
        return
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        yield f"{path} holds keys and can be read by every user of this machine: chmod o-r {path}"
