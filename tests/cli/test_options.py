"""The command line and the configuration file: what they take, what they refuse, and how they say so."""

import ast
import tempfile
from pathlib import Path

import pytest

import phalanx
from phalanx import cli
from phalanx.cli.options import OPTIONS, UsageError, serve_parser
from phalanx.cli.serve import parse
from phalanx.config import OPTION_GROUPS
from phalanx.supervisor.events import ExitCode

FLAGS = """
--admin-key --admin-key-file --allow-credentials --allowed-headers --allowed-methods --allowed-origins --api-key
--api-key-file --api-server-count --api-servers-per-node --block-size --body-timeout --chat-template
--cluster-ssl-ca-certs --cluster-ssl-certfile --cluster-ssl-keyfile --config --cpu-threads --data-parallel-address
--data-parallel-backend --data-parallel-nodes --data-parallel-pack --data-parallel-rpc-port --data-parallel-size
--data-parallel-size-local --device --drain-timeout --dtype --enable-prefix-caching --enable-ssl-refresh --engine
--frontend-command --header-timeout --help --host --keep-alive-timeout --kv-cache-memory-bytes --kv-cache-memory-share
--kv-cache-tokens --load-format --log-level --log-requests --max-batch --max-body-bytes --max-connections
--max-failed-starts --max-held-bytes --max-logprobs --max-model-len --max-num-batched-tokens --max-num-seqs
--max-queued-requests --max-queued-tokens --max-restarts --min-ranks --no-allow-credentials --no-enable-prefix-caching
--no-enable-ssl-refresh --no-log-requests --no-strict-fields --node-timeout --port --rank-timeout --ray-address
--ray-runtime-env --restart-window --revision --root-path --seed --served-model-name --shutdown-timeout
--sse-keep-alive --ssl-ca-certs --ssl-cert-reqs --ssl-certfile --ssl-keyfile --ssl-keyfile-password-file
--startup-timeout --step-timeout --strict-fields --synthetic-rate --synthetic-stage --tensor-parallel-size --uds
--uds-mode --write-timeout -asc -dp -dpa -dpl -dpp -h -tp
"""
"""All of them. A change here is a change of what people type: say it in the documentation."""


def refusal(*arguments: str) -> str:
    with pytest.raises(UsageError) as refused:
        parse(arguments)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_the_flags_are_these() -> None:
    assert sorted(serve_parser()._option_string_actions) == sorted(FLAGS.split())


def test_every_field_of_the_configuration_tree_is_an_option_with_a_help_line() -> None:
    text = " ".join(serve_parser().format_help().split())
    for option in OPTIONS.values():
        assert option.flag in text or option.name == "model"
        assert " ".join(option.help.split()) in text
    for struct in OPTION_GROUPS.values():
        assert f"{struct.__doc__}:" in text


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("4k", 4000), ("4K", 4096), ("3m", 3 * 10**6), ("2G", 2**31), ("1g", 10**9), ("1T", 2**40)],
)
def test_a_size_may_be_in_thousands_or_1024s(text: str, size: int, tmp_path: Path) -> None:
    assert parse(["--kv-cache-memory-bytes", text]).options.engine.kv_cache_memory_bytes == size
    file = tmp_path / "phalanx.toml"
    file.write_text(f'kv-cache-memory-bytes = "{text}"\n')
    if not text.isdecimal():
        assert parse(["--config", str(file)]).options.engine.kv_cache_memory_bytes == size


def test_every_option_is_read_by_somebody() -> None:
    """An option that is accepted and ignored is a lie: each is read as an attribute of its group."""
    read: set[tuple[str, str]] = set()
    for path in Path(phalanx.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                read.add((name.lstrip("_"), node.attr))
    unread = {
        name
        for group, struct in OPTION_GROUPS.items()
        for name in struct.__struct_fields__
        if not any((owner, name) in read for owner in (group, "self", "options"))
    }
    assert unread == set()


def test_a_name_for_clients_is_taken_beside_a_model_and_where_no_model_runs() -> None:
    for arguments in (["some/model"], ["--engine", "synthetic"], ["MODEL"]):
        assert parse([*arguments, "--served-model-name", "org/model"]).options.model.served_model_name == ("org/model",)
    assert parse(["--served-model-name", "demo"]).options.model.served_model_name == ("demo",)


def test_help_shows_defaults_choices_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--block-size {16,32,64} tokens a KV block (default: 16)" in text
    assert "-dp, --data-parallel-size N engine ranks (from 1 to 1024; default: 1)" in text
    assert "(above 0, at most 1; default: 0.5)" in text


def test_what_was_typed_arrives() -> None:
    given = parse(
        [
            *("somewhere/model", "-dp", "2", "--api-server-count=3", "--max_model_len", "64", "--port", "0"),
            *("--served-model-name", "a", "b", "--api-key", "k1", "--api-key", "k2", "--no-enable-prefix-caching"),
            *("--block-size", "32", "--startup-timeout", "2.5"),
        ]
    )
    assert given.options.model.model == "somewhere/model"
    assert given.options.parallel.data_parallel_size == 2
    assert given.options.parallel.api_server_count == 3
    assert given.options.model.max_model_len == 64
    assert given.options.model.served_model_name == ("a", "b")
    assert given.options.http.api_key == ("k1", "k2")
    assert given.options.http.port == 0
    assert given.options.engine.enable_prefix_caching is False
    assert given.options.engine.block_size == 32
    assert given.options.service.startup_timeout == 2.5
    assert given.options.engine.max_num_seqs == 256


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prot", "80"], "--prot is not an option; did you mean --port?"),
        (["--max-model-length", "80"], "did you mean --max-model-len?"),
        (["--data_parallel_sise=2"], "did you mean --data-parallel-size?"),
        (["--frobnicate"], "--frobnicate is not an option"),
        (["--model", "x"], "MODEL is given without a flag"),
        (["one", "two"], "unexpected argument 'two'"),
        (["--port"], "--port"),
        (["--port", "http"], "--port: 'http' is not a whole number from 0 to 65535"),
        (["--port", "65536"], "from 0 to 65535"),
        (["--port", "-1"], "from 0 to 65535"),
        (["-tp", "2"], "--tensor-parallel-size 2 runs only --engine synthetic so far"),
        (["--device=cuda", "--engine=synthetic"], "--device cuda needs --data-parallel-backend ray so far"),
        (["--device", "cuda"], "--device cuda: models run on CPUs so far, leave it out"),
        (["--data-parallel-backend", "slurm"], "'slurm' is not one of mp, ray"),
        (["--ray-address", "h:1"], "--ray-address needs --data-parallel-backend ray"),
        (["--data-parallel-pack", "fill"], "--data-parallel-pack needs --data-parallel-backend ray"),
        (["-dp", "2", "--data-parallel-size-local", "3"], "--data-parallel-size-local 3 is above"),
        (["--data-parallel-rpc-port", "7"], "no meaning with every rank on this machine"),
        (["--cluster-ssl-certfile", "x"], "no meaning with every rank on this machine"),
        (["-dp=2", "-dpl=1", "--frontend-command=true", "--cluster-ssl-certfile=x"], "speaks with other machines"),
        (["--frontend-command", "no-such-program x"], "there is no program 'no-such-program'"),
        (["--frontend-command", "'"], "--frontend-command: No closing quotation"),
        (["--frontend-command=true", "--max-queued-tokens=5"], "the program bounds its own queues"),
        (["-dp", "2", "-dpl", "1", "-asc", "2", "--api-servers-per-node", "1"], "both count API servers"),
        (["--block-size", "17"], "one of 16, 32, 64"),
        (["--kv-cache-memory-share", "nan"], "--kv-cache-memory-share: 'nan'"),
        (["--startup-timeout", "inf"], "not a finite number"),
        (["--startup-timeout", "0"], "above 0"),
        (["--synthetic-rate", "10"], "--synthetic-rate needs --engine synthetic"),
        (["--synthetic-stage", "weights=1"], "--synthetic-stage needs --engine synthetic"),
        (["--engine", "synthetic", "--synthetic-stage", "wights=1"], "STAGE is one of"),
        (["--engine", "synthetic", "--synthetic-stage", "weights=explode"], "hang|exit|raise|abort"),
        (["--engine", "synthetic", "--synthetic-stage", "2:weights=1", "-dp", "2"], "ranks are 0 to 1"),
        (["--engine", "synthetic", "--synthetic-stage", "0.2:weights=1", "-tp", "2"], "workers are 0 to 1"),
        (["--engine", "synthetic", "--cpu-threads", "2"], "--cpu-threads has no meaning with --engine synthetic"),
        (["--engine", "synthetic", "--load-format", "dummy"], "no meaning with --engine synthetic"),
        (["--seed", "7"], "--seed is the seed of --load-format dummy"),
        (["--revision", "main"], "--revision needs a hub name"),
        (["/", "--revision", "main"], "/ is a folder"),
        (["--kv-cache-tokens", "4096", "--kv-cache-memory-share", "0.5"], "give one"),
        (["--kv-cache-memory-bytes", "4g", "--kv-cache-memory-share", "0.5"], "give one"),
        (["--kv-cache-memory-bytes", "4x"], "--kv-cache-memory-bytes: '4x' is not a whole number at least 1"),
        (["--kv-cache-memory-bytes", "0g"], "--kv-cache-memory-bytes: '0g' is not a whole number at least 1"),
        (["--gpu-memory-utilization", "0.9"], "--gpu-memory-utilization is not an option: it is for CUDA"),
        (["--enforce-eager"], "--enforce-eager is not an option: nothing is captured on CPUs"),
        (["--no-enforce_eager"], "--no-enforce-eager is not an option: nothing is captured on CPUs"),
        (["--kv-cache-tokens", "32", "--block-size", "64"], "less than one block"),
        (["--max-num-seqs", "64", "--max-num-batched-tokens", "32"], "--max-num-batched-tokens 32 is below"),
        (["--api-key", " "], "an empty key"),
        (["--ssl-cert-reqs", "1"], "--ssl-cert-reqs needs --ssl-certfile"),
        (["--ssl-keyfile", "k"], "--ssl-keyfile needs --ssl-certfile"),
        (["--no-enable-ssl-refresh"], "--enable-ssl-refresh needs --ssl-certfile"),
        (["--ssl-certfile", "c", "--ssl-cert-reqs", "2"], "--ssl-cert-reqs 2 needs --ssl-ca-certs"),
        (["--ssl-certfile", "c", "--ssl-ca-certs", "a"], "needs --ssl-cert-reqs optional or required"),
        (["--ssl-certfile", "c", "--ssl-cert-reqs", "always"], "is not one of 0, 1, 2, none, optional"),
        (["--ssl-certfile", "c", "--frontend-command", "true"], "--ssl-certfile has no meaning with --frontend"),
        (["--admin-key", "k", "--frontend-command", "true"], "--admin-key has no meaning with --frontend-command"),
        (["--served-model-name", ""], "an empty name"),
        (["--served-model-name", "a", "org/model"], "takes all that follows, org/model too: write MODEL before"),
        (
            ["--served-model-name", "org/model"],
            "--served-model-name org/model is only what clients call a model, and no MODEL is given: for that one, "
            "`phalanx serve org/model`; the demo model takes names without a slash",
        ),
        (["--served-model-name", "org/model", "a"], "`phalanx serve org/model`"),
        (["--served-model-name", tempfile.gettempdir()], f"`phalanx serve {tempfile.gettempdir()}`"),
        (["--chat-template", "/nowhere.jinja"], "there is no file /nowhere.jinja"),
        (["--config", "/nowhere.toml"], "cannot read /nowhere.toml: No such file"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(arguments: list[str], words: str) -> None:
    assert words in refusal(*arguments)


@pytest.mark.parametrize(
    "text",
    [
        'model = "m"\ndata-parallel-size = 2\nserved_model_name = ["a", "b"]\nenable-prefix-caching = false\n',
        '[model]\nmodel = "m"\nserved-model-name = ["a", "b"]\n[parallel]\ndata_parallel_size = 2\n'
        "[engine]\nenable-prefix-caching = false\n",
    ],
)
def test_a_file_may_be_flat_or_by_group_with_dashes_or_underscores(text: str, tmp_path: Path) -> None:
    file = tmp_path / "phalanx.toml"
    file.write_text(text)
    given = parse(["--config", str(file)])
    assert given.options.model.model == "m"
    assert given.options.model.served_model_name == ("a", "b")
    assert given.options.parallel.data_parallel_size == 2
    assert given.options.engine.enable_prefix_caching is False


def test_a_file_may_be_yaml(tmp_path: Path) -> None:
    file = tmp_path / "phalanx.yaml"
    file.write_text("model: m\nhttp:\n  port: 0\n  api-key: secret\nmax_model_len:\nstartup-timeout: 5\n")
    given = parse(["--config", str(file)])
    assert given.options.model.model == "m"
    assert given.options.http.port == 0
    assert given.options.http.api_key == ("secret",)
    assert given.options.model.max_model_len is None
    assert given.options.service.startup_timeout == 5.0


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "phalanx.yml"
    file.write_text("port: 1\ndata-parallel-size: 3\n")
    given = parse(["--config", str(file), "--port", "2"])
    assert given.options.http.port == 2
    assert given.options.parallel.data_parallel_size == 3


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.toml", "prot = 1", "prot is not an option; did you mean port?"),
        ("a.toml", "[http]\nprot = 1", "prot is not an option of [http]; did you mean port?"),
        ("a.toml", "[http]\nmax-num-seqs = 1", "max-num-seqs is not an option of [http]; it belongs to [engine]"),
        ("a.toml", "enforce-eager = true", "enforce-eager is not an option: nothing is captured on CPUs"),
        ("a.toml", "[engine]\ngpu_memory_utilization = 0.9", "is not an option of [engine]: it is for CUDA"),
        ("a.toml", "port = 1\n[http]\nport = 2", "port is given twice"),
        ("a.toml", 'port = "1"', "port: '1' is not a whole number"),
        ("a.toml", "port = true", "port: True is not a whole number"),
        ("a.toml", "enable-prefix-caching = 1", "1 is not true or false"),
        ("a.toml", "served-model-name = [1]", "[1] is not a list of texts"),
        ("a.toml", "port = = 1", "is not TOML"),
        ("a.yaml", "port: [", "is not YAML"),
        ("a.yaml", "- port", "must hold names and values"),
        ("a.json", "{}", "must end in .toml, .yaml or .yml"),
        ("a.toml", "synthetic-rate = 1.0", "synthetic_rate needs --engine synthetic"),
    ],
)
def test_a_file_that_cannot_be_is_refused_with_its_reason(name: str, text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    message = refusal("--config", str(file))
    assert words in message
    assert str(file) in message


def test_a_key_may_come_from_the_environment_and_a_given_one_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHALANX_API_KEY", "from-environment")
    assert parse([]).options.http.api_key == ("from-environment",)
    assert parse(["--api-key", "typed"]).options.http.api_key == ("typed",)


def test_a_refusal_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["serve", "--prot", "1"], ["srve"]):
        assert cli.main(arguments) == ExitCode.USAGE
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
    assert err == "phalanx: srve is not a command; did you mean serve?\n"


def test_version_and_commands_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("phalanx 0.")
    assert cli.main([]) == 0
    assert "serve " in capsys.readouterr().out
