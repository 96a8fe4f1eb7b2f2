"""Whatever a refusal tells the reader to do works when it is done."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.certificates import Authority
from support.checkpoints import write_checkpoint

from phalanx.checkpoint.errors import CheckpointError
from phalanx.cli.options import UsageError
from phalanx.cli.serve import configuration, parse, with_certificates


def refusal(arguments: Sequence[str]) -> str:
    with pytest.raises((UsageError, CheckpointError)) as refused:
        configuration(with_certificates(parse(arguments)))
    return str(refused.value)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """What stands for FILE and the like in the command lines below."""
    issued = Authority(tmp_path).issue("localhost")
    (tmp_path / "keys").write_text("key")
    folders = {name: tmp_path / name for name in ("MODEL", "LENGTHLESS")}
    for name, folder in folders.items():
        folder.mkdir()
        write_checkpoint(folder, max_position_embeddings=None if name == "LENGTHLESS" else 1000)
    return {
        "MODEL": str(folders["MODEL"]),
        "LENGTHLESS": str(folders["LENGTHLESS"]),
        "CERT": str(issued.certificate),
        "KEY": str(issued.key),
        "KEYS": str(tmp_path / "keys"),
    }


@pytest.mark.parametrize(
    ("refused", "advice", "followed"),
    [
        ("--synthetic-rate 9", "--synthetic-rate needs --engine synthetic", "--engine synthetic --synthetic-rate 9"),
        ("--seed 7", "--seed is the seed of --load-format dummy", "--load-format dummy --seed 7"),
        ("MODEL", "or use --load-format dummy for random ones", "MODEL --load-format dummy"),
        ("LENGTHLESS --load-format dummy", "give --max-model-len", "LENGTHLESS --load-format dummy --max-model-len 9"),
        ("--kv-cache-tokens 64 --kv-cache-memory-share 1", "both set the KV cache: give one", "--kv-cache-tokens 2048"),
        ("--gpu-memory-utilization 0.9", "there --kv-cache-memory-share sets", "--kv-cache-memory-share 0.9"),
        ("--enforce-eager", "so leave it out", ""),
        ("--model MODEL --load-format dummy", "MODEL is given without a flag", "MODEL --load-format dummy"),
        ("--api-key k MODEL", "write it before the options", "MODEL --api-key k --load-format dummy"),
        ("--api-key-file KEYS MODEL", "write it before the options", "MODEL --api-key-file KEYS --load-format dummy"),
        ("--served-model-name a MODEL", "MODEL before the options", "MODEL --served-model-name a --load-format dummy"),
        ("--api-key -k", "is written --api-key=KEY", "--api-key=-k"),
        ("--device cuda", "models run on CPUs so far, leave it out", ""),
        (
            "--device cuda",
            "--engine synthetic can ask a Ray cluster for GPUs with it",
            "--device cuda --engine synthetic --data-parallel-backend ray",
        ),
        (
            "--device cuda --engine synthetic",
            "needs --data-parallel-backend ray",
            "--device cuda --engine synthetic --data-parallel-backend ray",
        ),
        ("-tp 2", "runs only --engine synthetic", "-tp 2 --engine synthetic"),
        ("--node-timeout 9", "see --data-parallel-size-local", "--node-timeout 9 -dp 2 --data-parallel-size-local 1"),
        ("--ray-address a:1", "needs --data-parallel-backend ray", "--ray-address a:1 --data-parallel-backend ray"),
        (
            "-dp 2 --data-parallel-backend ray -dpl 1",
            "belongs to --data-parallel-pack strict",
            "-dp 2 --data-parallel-backend ray -dpl 1 --data-parallel-pack strict",
        ),
        (
            "--data-parallel-backend ray --data-parallel-pack strict",
            "needs --data-parallel-size-local",
            "--data-parallel-backend ray --data-parallel-pack strict --data-parallel-size-local 1",
        ),
        (
            "--data-parallel-backend ray --data-parallel-pack span",
            "use fill",
            "--data-parallel-backend ray --data-parallel-pack fill",
        ),
        ("-dp 2 -dpl 1 -asc 2 --api-servers-per-node 1", "both count API servers: give one", "-dp 2 -dpl 1 -asc 2"),
        ("--ssl-keyfile KEY", "needs --ssl-certfile", "--ssl-keyfile KEY --ssl-certfile CERT"),
        (
            "--ssl-certfile CERT --ssl-keyfile KEY --ssl-cert-reqs 2",
            "needs --ssl-ca-certs",
            "--ssl-certfile CERT --ssl-keyfile KEY --ssl-cert-reqs 2 --ssl-ca-certs CERT",
        ),
        (
            "--ssl-certfile CERT --ssl-keyfile KEY --ssl-ca-certs CERT",
            "needs --ssl-cert-reqs optional or required",
            "--ssl-certfile CERT --ssl-keyfile KEY --ssl-ca-certs CERT --ssl-cert-reqs optional",
        ),
        ("--min-ranks 3", "is above --data-parallel-size 1", "--min-ranks 3 --data-parallel-size 3"),
    ],
)
def test_the_command_line_that_follows_the_advice_is_taken(
    refused: str, advice: str, followed: str, files: dict[str, str]
) -> None:
    before, after = ([files.get(word, word) for word in line.split()] for line in (refused, followed))
    assert advice in refusal(before)
    configuration(with_certificates(parse(after)))


def test_a_cache_that_is_too_small_is_told_with_numbers_that_are_enough(files: dict[str, str]) -> None:
    model = [files["MODEL"], "--load-format", "dummy"]
    found = re.search(
        r"give at least (\d+), or a --max-model-len of at most (\d+)", refusal([*model, "--kv-cache-tokens", "70"])
    )
    assert found is not None
    configuration(parse([*model, "--kv-cache-tokens", found[1]]))
    configuration(parse([*model, "--kv-cache-tokens", "70", "--max-model-len", found[2]]))
    assert "give at least" in refusal([*model, "--kv-cache-tokens", str(int(found[1]) - 1)])
