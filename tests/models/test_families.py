"""Every family's output equals transformers', token by token, in a batch that mixes prompts and decodes."""

import pytest
from support.reference import FAMILIES, Driver, Reference, load_runner, random_prompt, write_reference

from phalanx.engine.sequence import Sequence

OUTPUT = 64


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys(), scope="module")
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    family, shape = request.param
    return write_reference(tmp_path_factory.mktemp("family"), family, **shape)


def assert_greedy(reference: Reference, driver: Driver, sequence: Sequence) -> None:
    """Given the tokens so far, transformers would choose each next one too; so both write the same text."""
    first, end = sequence.prompt_length, len(sequence.tokens)
    assert end - first == OUTPUT
    expected_TV = reference.log_probabilities(sequence.tokens[:-1])[first - 1 :]
    assert sequence.tokens[first:] == expected_TV.argmax(-1).tolist()
    for row_V, sampled in zip(expected_TV, driver.sampled[sequence], strict=True):
        found = sampled.logprobs
        assert found is not None
        assert found.rank == 1
        assert found.logprob == pytest.approx(float(row_V[sampled.token]), abs=1e-4)
        assert found.top_ids[0] == sampled.token
        assert found.top_logprobs == pytest.approx(row_V[found.top_ids].tolist(), abs=1e-4)


def test_greedy_text_and_logprobs_equal_transformers(reference: Reference) -> None:
    driver = Driver(load_runner(reference.folder))
    long, short, late = (driver.sequence(random_prompt(length, seed)) for seed, length in enumerate((150, 3, 70)))
    driver.prefill(short)
    driver.decode(short, steps=5)
    driver.step((long, 64), (short, 1))
    driver.step((short, 1), (long, 33), (late, 17))
    driver.step((late, 53), (short, 1), (long, 53))
    driver.decode(long, late, short, steps=OUTPUT - 9)
    driver.decode(long, late, steps=8)
    assert_greedy(reference, driver, short)
    assert_greedy(reference, driver, long)
    assert_greedy(reference, driver, late)
