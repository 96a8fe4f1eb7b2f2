"""What a request says about sampling is what the engine is asked for."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.fake_engine import Asked, ServedApi, a_config, answering

from phalanx.api.openai.common import SamplingFields
from phalanx.config import Config
from phalanx.protocol import SamplingParams

Ask = Callable[..., list[Asked]]


@pytest.fixture(scope="module")
def api(checkpoint_folder: Path) -> Iterator[ServedApi]:
    with ServedApi(checkpoint_folder, answering("ok")) as api:
        yield api


@pytest.fixture
def ask(api: ServedApi) -> Ask:
    """Send a completion, or a chat where `messages` are given; what the engine was asked for it."""

    def ask(**body: Any) -> list[Asked]:
        before = len(api.rank.asked)
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        answer = api.http.post(path, json=body if "messages" in body else {"prompt": "hi", **body})
        assert answer.status_code == 200, answer.text
        return api.rank.asked[before:]

    return ask


def test_every_option_reaches_the_engine(ask: Ask) -> None:
    (asked,) = ask(
        max_tokens=7,
        min_tokens=3,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        presence_penalty=0.3,
        frequency_penalty=-0.3,
        repetition_penalty=1.2,
        seed=11,
        stop_token_ids=[5, 6],
        ignore_eos=True,
        logit_bias={"7": -100, "8": 2.5},
        logprobs=2,
        priority=-4,
    )
    assert asked.sampling == SamplingParams(
        max_tokens=7,
        min_tokens=3,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.1,
        presence_penalty=0.3,
        frequency_penalty=-0.3,
        repetition_penalty=1.2,
        seed=11,
        stop_token_ids=(5, 6),
        ignore_eos=True,
        logit_bias={7: -100.0, 8: 2.5},
        logprobs=2,
    )
    assert asked.submit.priority == -4


def test_a_request_that_says_nothing_samples_as_openai_does(ask: Ask) -> None:
    (asked,) = ask()
    plain = SamplingParams(max_tokens=16, seed=asked.sampling.seed)
    assert asked.sampling == plain


def test_the_checkpoint_s_defaults_stand_where_a_request_says_nothing(checkpoint_folder: Path) -> None:
    config = with_defaults(checkpoint_folder, temperature=0.6, top_p=0.95, top_k=20.0, repetition_penalty=1.1)
    sampling = SamplingFields(top_p=0.5).sampling(config, max_tokens=1, logprobs=None)
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.6, 0.5, 20)
    assert (sampling.repetition_penalty, sampling.min_p) == (1.1, 0.0)
    assert SamplingFields(temperature=0).sampling(config, max_tokens=1, logprobs=None).temperature == 0


def with_defaults(folder: Path, **values: float) -> Config:
    config = a_config(folder)
    return msgspec.structs.replace(config, facts=msgspec.structs.replace(config.facts, default_sampling=values))


def test_a_chat_may_take_all_that_is_left_of_the_model_s_length(ask: Ask) -> None:
    (asked,) = ask(messages=[{"role": "user", "content": "hi"}])
    assert asked.sampling.max_tokens == 2048 - len(asked.prompt)


def test_the_newer_name_of_max_tokens_wins(ask: Ask) -> None:
    (asked,) = ask(messages=[{"role": "user", "content": "hi"}], max_tokens=5, max_completion_tokens=6)
    assert asked.sampling.max_tokens == 6


def test_a_default_of_sixteen_tokens_shrinks_at_the_end_of_the_model_s_length(ask: Ask) -> None:
    (asked,) = ask(prompt=[1] * 2040)
    assert asked.sampling.max_tokens == 8


def test_requests_without_seed_get_different_ones(ask: Ask) -> None:
    seeds = {ask()[0].sampling.seed for _ in range(5)}
    assert len(seeds) == 5


def test_choices_of_a_seeded_request_have_seeds_of_their_own_and_the_same_every_time(ask: Ask) -> None:
    first = [asked.sampling.seed for asked in ask(prompt=["a", "b"], n=3, seed=42)]
    assert first == [asked.sampling.seed for asked in ask(prompt=["a", "b"], n=3, seed=42)]
    assert first[:3] == first[3:]
    assert len(set(first)) == 3
    # What the first choice gets does not depend on how many there are.
    assert first[0] == ask(seed=42)[0].sampling.seed == 42


def test_a_negative_seed_is_a_seed(ask: Ask) -> None:
    assert ask(seed=-1)[0].sampling.seed == 2**64 - 1


@pytest.mark.parametrize(("asked_for", "given"), [(-1, 0), (0, 0), (5, 5)])
def test_no_limit_of_top_k_has_two_names(ask: Ask, asked_for: int, given: int) -> None:
    assert ask(top_k=asked_for)[0].sampling.top_k == given


def test_top_p_of_zero_leaves_the_most_likely_token(ask: Ask) -> None:
    assert 0 < ask(top_p=0)[0].sampling.top_p < 1e-6


def test_echo_with_logprobs_asks_for_the_prompt_s_too(ask: Ask) -> None:
    assert ask(echo=True, logprobs=3)[0].sampling.prompt_logprobs == 3
    assert ask(logprobs=3)[0].sampling.prompt_logprobs is None
    assert ask(echo=True)[0].sampling.prompt_logprobs is None


def test_stop_strings_stay_in_the_api_server(ask: Ask) -> None:
    (asked,) = ask(stop=["zzz"])
    assert asked.sampling.stop_token_ids == ()
