"""What `phalanx join` refuses before it starts anything."""

import pytest

from phalanx import cli
from phalanx.cli.join import control_address
from phalanx.cli.options import UsageError
from phalanx.supervisor.events import ExitCode
from phalanx.transport import tls

GOOD = ("--control", "10.0.0.1:7000", "--data-parallel-start-rank", "8", "--data-parallel-size-local", "8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:7000", "tcp:10.0.0.1:7000"),
        ("tcp:10.0.0.1:7000", "tcp:10.0.0.1:7000"),
        ("head:1", "tcp:head:1"),
        ("[2001:db8::1]:7000", "tcp:[2001:db8::1]:7000"),
    ],
)
def test_the_control_address_may_be_written_in_two_ways(text: str, expected: str) -> None:
    assert control_address(text) == expected
    assert control_address(expected.replace("tcp:", "tls:"), "tls") == expected.replace("tcp:", "tls:")


@pytest.mark.parametrize(
    "text", ["head", "7000", ":7000", "head:0", "head:65536", "head:port", "2001:db8::1:7000", "unix:/x"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--control .* is not HOST:PORT"):
        control_address(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (GOOD[:4], "the following arguments are required: --data-parallel-size-local"),
        (
            (*GOOD, "--data-parallel-start-rank", "-1"),
            "start-rank -1 is not a whole number from 0 to 1023",
        ),
        (
            (*GOOD, "--data-parallel-size-local", "0"),
            "size-local 0 is not a whole number from 1 to 1024",
        ),
        ((*GOOD, "--timeout", "soon"), "--timeout soon is not a number of seconds above 0"),
        ((*GOOD, "--timeout", "inf"), "--timeout inf is not a number of seconds above 0"),
        ((*GOOD, "--log-level", "loud"), "argument --log-level: invalid choice: 'loud'"),
        ((*GOOD, "--modle", "/x"), "--modle is not an option; did you mean --model?"),
        ((*GOOD, "/x"), "unexpected argument '/x'"),
        (
            (*GOOD, "--cluster-ssl-keyfile", "/x"),
            "--cluster-ssl-keyfile needs --cluster-ssl-certfile and --cluster-ssl-ca-certs too",
        ),
        (
            (*GOOD, *(f"{flag}=/nowhere/x.pem" for flag in tls.FLAGS)),
            "--cluster-ssl-ca-certs: cannot read /nowhere/x.pem: No such file or directory",
        ),
        (GOOD, "PHALANX_SECRET is not set: it must hold the same text here as for `phalanx serve`"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PHALANX_SECRET", raising=False)
    for variable in tls.VARIABLES:
        monkeypatch.setenv(variable, "")
    assert cli.main(["join", *arguments]) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.startswith("phalanx join: ")
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""


def test_a_short_secret_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHALANX_SECRET", "short")
    assert cli.main(["join", *GOOD]) == ExitCode.USAGE
    assert "PHALANX_SECRET has 5 characters, it takes at least 16" in capsys.readouterr().err


def test_help_says_what_must_be_the_same_at_both_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["join", "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "PHALANX_SECRET must hold the same text" in text
    assert "--data-parallel-start-rank R" in text
    assert "(default: 600)" in text
    cli.main(["--help"])
    assert "join       bring ranks on this machine" in capsys.readouterr().out


def test_files_that_only_the_environment_names_do_not_leave_connections_in_the_clear(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tls.VARIABLES[0], "/a/certificate.pem")
    monkeypatch.setenv("PHALANX_SECRET", "a secret of some length")
    assert cli.main(["join", *GOOD]) == ExitCode.USAGE
    assert "PHALANX_CLUSTER_SSL_CERTFILE is set, which is for nodes on Ray: give" in capsys.readouterr().err
