"""A rank with a model: what else runs there, and what the cache holds, changes nobody's text."""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint
from support.rank_process import PlayedApiServer, config, running

REQUESTS = 12
TOKENS = 40


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ph-", dir="/tmp") as name:
        yield write_checkpoint(Path(name))


def configuration(folder: Path, **engine: Any) -> Any:
    facts = {"vocab_size": 260, "max_model_len": 256}
    whole = config(
        folder=str(folder), facts=facts, engine="model", cpu_threads=1, **{"kv_cache_tokens": 8192, **engine}
    )
    return type(whole)(
        model=type(whole.model)(model=str(folder), load_format="dummy", max_model_len=256),
        parallel=whole.parallel,
        engine=whole.engine,
        http=whole.http,
        service=whole.service,
        facts=whole.facts,
    )


def submit(api: PlayedApiServer, number: int) -> None:
    """A sampled request; its prompt shares its start with some others'."""
    prompt = [number % 3 + 4] * 40 + [random.Random(number).randrange(4, 250) for _ in range(number * 5)]
    api.submit(number, prompt, max_tokens=TOKENS, seed=number, temperature=1.0, top_p=0.9)


def test_sampled_text_is_the_same_alone_in_a_full_batch_and_after_preemption(folder: Path) -> None:
    with running(folder, configuration(folder)) as (rank, [api]):
        rank.ready()
        alone = []
        for number in range(REQUESTS):
            submit(api, number)
            alone.append(api.result(number)[0])
    assert len(set(map(tuple, alone))) == REQUESTS

    with running(folder, configuration(folder, max_num_batched_tokens=48, enable_prefix_caching=False)) as (
        rank,
        [api],
    ):
        rank.ready()
        for number in range(REQUESTS):
            submit(api, number)
        assert [api.result(number)[0] for number in range(REQUESTS)] == alone

    with running(folder, configuration(folder, kv_cache_tokens=256)) as (rank, [api]):
        rank.ready()
        for number in range(REQUESTS):
            submit(api, number)
        assert [api.result(number)[0] for number in range(REQUESTS)] == alone
        assert api.loads[-1].preemptions > 0
