"""Where keys come from, what is said of a bad one, and that no message shows it."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Authority

from phalanx import cli
from phalanx.cli.key_sources import exposure_warnings
from phalanx.cli.options import Given, UsageError
from phalanx.cli.serve import parse, with_certificates
from phalanx.config import HttpOptions
from phalanx.supervisor.events import ExitCode

SECRET = "sesame-0123456789"


@pytest.fixture(autouse=True)
def _no_keys_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PHALANX_API_KEY", "PHALANX_ADMIN_KEY"):
        monkeypatch.delenv(variable, raising=False)


def key_file(folder: Path, content: str | bytes, name: str = "keys", mode: int = 0o600) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return str(path)


def http(given: Given) -> HttpOptions:
    return given.options.http


@pytest.mark.parametrize("kind", ["api", "admin"])
def test_a_file_holds_a_key_a_line_and_several_files_and_flags_add_up(kind: str, tmp_path: Path) -> None:
    first = key_file(tmp_path, "# of the first team\none\n\n  two\r\n#three\nfour#five\n", "a")
    second = key_file(tmp_path, "six\none", "b")
    given = parse([f"--{kind}-key", "seven", f"--{kind}-key-file", first, second])
    assert getattr(http(given), f"{kind}_key") == ("seven", "one", "two", "four#five", "six")


@pytest.mark.parametrize(
    ("text", "keys"),
    [("one", ("one",)), ("one,two", ("one", "two")), (" one\n two,\n\nthree\n", ("one", "two", "three"))],
)
def test_the_environment_may_hold_several(text: str, keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHALANX_API_KEY", text)
    monkeypatch.setenv("PHALANX_ADMIN_KEY", text.upper())
    assert http(parse([])).api_key == keys
    assert http(parse([])).admin_key == tuple(key.upper() for key in keys)


def test_the_environment_counts_only_where_nothing_else_names_a_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PHALANX_API_KEY", "left-over")
    assert http(parse(["--api-key-file", key_file(tmp_path, "one")])).api_key == ("one",)
    assert http(parse(["--admin-key-file", key_file(tmp_path, "one")])).api_key == ("left-over",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds no key; it takes one a line"),
        ("\n# nothing\n", "holds no key"),
        (f"one\n{SECRET} two\n", "line 2: a key with spaces"),
        (f"{SECRET}\tx", "line 1: a key with spaces"),
        (f"# yes\n{SECRET}-schlüssel", "line 2: a key has characters other than visible ASCII"),
        (f"{SECRET}\x00", "line 1: a key has characters other than visible ASCII"),
        (b"\xff\xfe", "is not UTF-8 text"),
        ("x" * 2**20 + "y", "longer than 1048576 bytes"),
    ],
)
def test_a_bad_file_is_named_with_its_line_and_without_its_key(content: str | bytes, says: str, tmp_path: Path) -> None:
    path = key_file(tmp_path, content)
    with pytest.raises(UsageError) as refused:
        parse(["--api-key-file", path])
    assert str(refused.value).startswith(f"--api-key-file: {path}")
    assert says in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(("path", "says"), [("nowhere", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_ends_the_start_with_code_2(
    path: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / path)
    assert cli.main(["serve", "--admin-key-file", path]) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert f"--admin-key-file: cannot read {path}: {says}" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--api-key", ""], "--api-key: an empty key"),
        (["--admin-key", " "], "--admin-key: an empty key"),
        (["--api-key", f"{SECRET} x"], "--api-key: a key with spaces"),
        (["--api-key", f"{SECRET}\n"], "--api-key: a key with spaces"),
        (["--api-key", f"{SECRET}é"], "--api-key: a key has characters other than visible ASCII"),
        (["--api-key", f"-{SECRET}"], "--api-key: a key that begins with a dash is written --api-key=KEY"),
        (["--admin-key", "good", f"--{SECRET}"], "--admin-key: a key that begins with a dash"),
        (["--api-key", SECRET, "--admin-key", SECRET], "the key of --admin-key is an API key as well (--api-key)"),
    ],
)
def test_a_bad_flag_is_refused_without_its_key(arguments: list[str], says: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(arguments)
    assert says in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("model", ["org/name", "."])
def test_a_model_behind_the_keys_does_not_become_one(model: str) -> None:
    with pytest.raises(UsageError, match="its last value looks like a MODEL") as refused:
        parse(["--api-key", SECRET, model])
    assert SECRET not in str(refused.value)
    assert http(parse([model, "--api-key", SECRET, "a/b"])).api_key == (SECRET, "a/b")
    assert http(parse(["--api-key", "x" * 5000])).api_key == ("x" * 5000,)


def test_a_key_may_begin_with_a_dash() -> None:
    assert http(parse([f"--api-key=-{SECRET}"])).api_key == (f"-{SECRET}",)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [("PHALANX_API_KEY", " ,\n", "holds no key"), ("PHALANX_ADMIN_KEY", f"{SECRET} x", "a key with spaces")],
)
def test_a_bad_variable_is_refused_without_its_key(
    variable: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError) as refused:
        parse([])
    assert f"{variable}" in str(refused.value)
    assert says in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("text", ["", " ", "\n", ",", " , \n"])
@pytest.mark.parametrize("kind", ["api", "admin"])
def test_an_empty_variable_is_no_way_in(kind: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"PHALANX_{kind.upper()}_KEY"
    monkeypatch.setenv(variable, text)
    with pytest.raises(UsageError, match=f"{variable} is set and holds no key: give it one, or unset it"):
        parse([])
    path = key_file(tmp_path, "one")
    keys = http(parse([f"--{kind}-key-file", path]))
    assert (keys.api_key, keys.admin_key) == ((("one",), ()) if kind == "api" else ((), ("one",)))


@pytest.mark.parametrize("empty", ['""', '" "', "[]", '[""]', "", "null", "[null]"])
@pytest.mark.parametrize("name", ["api-key", "api_key_file", "admin_key", "admin-key-file"])
def test_an_empty_value_of_a_configuration_file_is_no_way_in(name: str, empty: str, tmp_path: Path) -> None:
    path = tmp_path / "phalanx.yaml"
    path.write_text(f"{name}: {empty}\n")
    with pytest.raises(UsageError, match=f"{path}: {name.replace('-', '_')}"):
        parse(["--config", str(path)])


def test_an_empty_variable_ends_the_start_with_code_2_and_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHALANX_SECRET", " ")
    assert cli.main(["serve", "--engine", "synthetic", "--port", "0"]) == ExitCode.USAGE
    words = "PHALANX_SECRET is set and empty: unset it, or give it a secret (`openssl rand -hex 32`)"
    assert capsys.readouterr().err == f"phalanx serve: {words}\n"
    monkeypatch.setenv("PHALANX_SECRET", "")
    joined = ["join", "--control", "127.0.0.1:9", "--data-parallel-start-rank", "0", "--data-parallel-size-local", "1"]
    assert cli.main(joined) == ExitCode.USAGE
    assert capsys.readouterr().err == f"phalanx join: {words}\n"
    monkeypatch.setenv("PHALANX_API_KEY", "")
    assert cli.main(["serve", "--engine", "synthetic", "--port", "0"]) == ExitCode.USAGE
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("host", "options", "warned"),
    [
        ("127.0.0.1", {}, False),
        ("127.0.0.2", {}, False),
        ("::1", {}, False),
        ("0.0.0.0", {}, True),
        ("::", {}, True),
        ("0.0.0.0", {"api_key": ("k",)}, False),
        ("0.0.0.0", {"admin_key": ("k",)}, True),
        ("0.0.0.0", {"ssl_certfile": "x", "ssl_ca_certs": "y", "ssl_cert_reqs": "required"}, False),
        ("0.0.0.0", {"ssl_certfile": "x", "ssl_ca_certs": "y", "ssl_cert_reqs": "optional"}, True),
    ],
)
def test_a_service_that_everybody_reaches_without_a_key_is_warned_of(
    host: str, options: dict[str, Any], warned: bool, tmp_path: Path
) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as first, socket.create_server(("127.0.0.1", 0)) as second:
        shown = f"[{host}]" if ":" in host else host
        where = f"{shown}:{first.getsockname()[1]}"
        line = f"whoever reaches {where} may use this service: --api-key-file FILE asks for a key"
        assert list(exposure_warnings(HttpOptions(**options), [second, first, second])) == ([line] if warned else [])
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "http"))
        assert list(exposure_warnings(HttpOptions(), [sock])) == []


def test_a_configuration_file_with_a_wrong_kind_of_key_does_not_show_it(tmp_path: Path) -> None:
    path = tmp_path / "phalanx.toml"
    path.write_text("api-key = 4711471147114711\n")
    with pytest.raises(UsageError, match="api_key: what was given is not a list of texts") as refused:
        parse(["--config", str(path)])
    assert "4711" not in str(refused.value)


def test_what_lies_open_is_warned_of(tmp_path: Path) -> None:
    hidden, open_to_all = key_file(tmp_path, "one", "a"), key_file(tmp_path, "two", "b", mode=0o644)
    assert parse(["--api-key-file", hidden]).warnings == ()
    assert parse([]).warnings == ()
    (warning,) = parse(["--api-key-file", hidden, open_to_all]).warnings
    assert warning == f"{open_to_all} holds keys and can be read by every user of this machine: chmod o-r {open_to_all}"
    (warning,) = parse(["--admin-key", SECRET]).warnings
    assert "--admin-key-file FILE" in warning
    assert SECRET not in warning


def test_a_file_may_be_a_pipe(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"one\n")
    os.close(writing)
    try:
        assert http(parse(["--api-key-file", f"/dev/fd/{reading}"])).api_key == ("one",)
    finally:
        os.close(reading)


def test_certificates_are_named_to_other_processes_by_their_whole_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    issued = Authority(tmp_path).issue("localhost")
    given = parse(["--ssl-certfile", issued.certificate.name, "--ssl-keyfile", f"./{issued.key.name}"])
    named = http(with_certificates(given))
    assert (named.ssl_certfile, named.ssl_keyfile) == (str(issued.certificate), str(issued.key))


def test_a_configuration_says_that_there_are_keys_and_not_which() -> None:
    given = parse(["--api-key", SECRET, "--admin-key", f"admin-{SECRET}"])
    for shown in (repr(given), repr(http(given)), str(http(given)), f"{http(given)!r}"):
        assert SECRET not in shown
        assert "api_key=('***',)" in shown
        assert "max_batch=256" in shown
