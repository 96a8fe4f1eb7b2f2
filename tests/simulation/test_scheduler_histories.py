"""Long random histories of one rank's scheduler: whatever happens, every request ends once, with its own tokens."""

import random

import pytest
from support.simulation.engine_world import World

HISTORIES = 200
EVENTS = 30


def world(seed: int) -> World:
    """A small rank, so that little is enough to run out of blocks, max_num_seqs or tokens."""
    rng = random.Random(seed)
    return World(
        rng,
        num_blocks=rng.choice((4, 6, 9, 12, 30)),
        block_size=rng.choice((1, 2, 4, 4, 8)),
        max_num_seqs=rng.choice((1, 2, 4, 8)),
        step_tokens=rng.choice((1, 3, 8, 16, 64)),
        prefix_caching=rng.random() < 0.85,
        priorities=rng.choice((1, 3)),
    )


@pytest.mark.parametrize("batch", range(10))
def test_every_request_ends_once_with_the_tokens_it_would_have_had_alone(batch: int) -> None:
    for seed in range(batch * HISTORIES, (batch + 1) * HISTORIES):
        history = world(seed)
        weights = history.rng.choice(((4, 8, 1, 0.1), (8, 4, 0.5, 0), (2, 10, 2, 0.5)))
        events = (history.submit, history.step, history.abort, history.lose_api_server)
        for event in history.rng.choices(events, weights, k=EVENTS):
            event()
            history.check()
        history.finish()
