"""A completion's text, scores and end do not depend on how the engine's steps came together."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.fake_engine import an_output, byte_token, scored

from phalanx.protocol import FinishReason, RequestOutput
from phalanx.text.choice import Choice
from phalanx.text.tokenizer import ModelTokenizer

END = 256
MakeChoice = Callable[..., Choice]


@pytest.fixture
def make_choice(checkpoint_folder: Path) -> MakeChoice:
    tokenizer = ModelTokenizer.load(checkpoint_folder)

    def make(*stops: str, **options: bool | int) -> Choice:
        shown, generated = (tokenizer.detokenizer(skip_special_tokens=skip, context=[]) for skip in (True, False))
        return Choice(shown, generated=generated, stops=list(stops), **options)  # type: ignore[arg-type]

    return make


def steps_of(text: str, finish: FinishReason, sizes: list[int], scores: bool = False) -> list[RequestOutput]:
    """A token a byte, `sizes` of them a step; the end of sequence at the end where it stops."""
    tokens = [byte_token(byte) for byte in text.encode()] + [END] * (finish is FinishReason.STOP)
    steps = []
    while tokens:
        size = sizes[len(steps) % len(sizes)]
        step, tokens = tokens[:size], tokens[size:]
        logprobs = [scored(token, 1) for token in step] if scores else None
        steps.append(an_output(step, None if tokens else finish, logprobs=logprobs))
    return steps


def feed(choice: Choice, steps: list[RequestOutput]) -> tuple[str, list[int], list[int]]:
    """All text, scored tokens and token ids."""
    text, scores, ids = "", [], []
    for step in steps:
        if choice.finish_reason is not None:
            break
        text += choice.feed(step)
        scores += [score.token for score in choice.scores or ()]
        ids += choice.token_ids or ()
    return text, scores, ids


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text("ab\né", min_size=1, max_size=12),
    stops=st.lists(st.text("ab\né", min_size=1, max_size=3), max_size=2),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    finish=st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]),
    min_tokens=st.integers(0, 6),
    keep=st.booleans(),
)
def test_merged_steps_give_what_single_ones_give(
    make_choice: MakeChoice,
    text: str,
    stops: list[str],
    sizes: list[int],
    finish: FinishReason,
    min_tokens: int,
    keep: bool,
) -> None:
    def outcome(sizes: list[int]) -> tuple[object, ...]:
        choice = make_choice(*stops, min_tokens=min_tokens, keep_stop=keep, scored=True)
        found = feed(choice, steps_of(text, finish, sizes, scores=True))
        return *found, choice.finish_reason, choice.stop_reason, choice.tokens

    assert outcome(sizes) == outcome([1])


def test_the_end_of_sequence_is_counted_and_not_shown(make_choice: MakeChoice) -> None:
    choice = make_choice()
    assert feed(choice, steps_of("hi", FinishReason.STOP, [1]))[0] == "hi"
    assert (choice.finish_reason, choice.stop_reason, choice.tokens) == ("stop", None, 3)


def test_a_stop_token_is_named_as_the_reason(make_choice: MakeChoice) -> None:
    choice = make_choice()
    token = byte_token(ord("!"))
    assert choice.feed(an_output([byte_token(ord("a")), token], FinishReason.STOP, stop_token=token)) == "a"
    assert (choice.finish_reason, choice.stop_reason) == ("stop", token)


def test_a_stop_token_stays_where_stops_are_kept(make_choice: MakeChoice) -> None:
    choice = make_choice(keep_stop=True)
    token = byte_token(ord("!"))
    assert choice.feed(an_output([byte_token(ord("a")), token], FinishReason.STOP, stop_token=token)) == "a!"


def test_a_stop_string_ends_it_before_the_engine_does(make_choice: MakeChoice) -> None:
    choice = make_choice("lo w")
    text, _, _ = feed(choice, steps_of("hello world", FinishReason.STOP, [3]))
    assert text == "hel"
    assert (choice.finish_reason, choice.stop_reason, choice.tokens) == ("stop", "lo w", 7)


def test_stop_strings_do_not_count_before_min_tokens(make_choice: MakeChoice) -> None:
    choice = make_choice("a", min_tokens=3)
    assert feed(choice, steps_of("aaaaa", FinishReason.LENGTH, [2]))[0] == "aaa"
    assert choice.tokens == 4


def test_held_text_comes_out_at_the_end(make_choice: MakeChoice) -> None:
    choice = make_choice("ab!")
    assert [choice.feed(step) for step in steps_of("xab", FinishReason.LENGTH, [1])] == ["x", "", "ab"]


def test_scores_come_with_their_text_and_not_for_what_a_stop_cuts_off(make_choice: MakeChoice) -> None:
    choice = make_choice("cd", scored=True)
    due = []
    for step in steps_of("abcd", FinishReason.LENGTH, [1], scores=True):
        text = choice.feed(step)
        due.append((text, [(score.token, score.offset) for score in choice.scores or ()]))
    a, b = byte_token(ord("a")), byte_token(ord("b"))
    assert due == [("a", [(a, 0)]), ("b", [(b, 1)]), ("", []), ("", [])]


def test_with_token_ids_every_token_is_there_and_has_its_score(make_choice: MakeChoice) -> None:
    choice = make_choice("é", scored=True, keep_ids=True)
    _, scores, ids = feed(choice, steps_of("aéb", FinishReason.STOP, [1], scores=True))
    assert scores == ids == [byte_token(byte) for byte in "aé".encode()]
    choice = make_choice(scored=True, keep_ids=True)
    _, scores, ids = feed(choice, steps_of("a", FinishReason.STOP, [1], scores=True))
    assert scores == ids == [byte_token(ord("a")), END]


USER = 258


def said(text: str, *more: int | str) -> list[RequestOutput]:
    """A token a step: the bytes of texts, and tokens by their ids; the end comes with the last."""
    tokens = [
        token
        for part in (text, *more)
        for token in ([part] if isinstance(part, int) else map(byte_token, part.encode()))
    ]
    return [
        an_output([token], FinishReason.LENGTH if token is tokens[-1] else None, logprobs=[scored(token, 1)])
        for token in tokens
    ]


@pytest.mark.parametrize(
    ("stop", "keep", "text"),
    [
        ("<|user|>", False, "ab"),
        ("<|user|>", True, "ab<|user|>"),
        ("b<|us", False, "a"),
        ("b<|us", True, "ab<|us"),
        ("<|user|>c", False, "ab"),
        ("r|>cd", True, "abr|>cd"),
        ("bc", False, "abcde"),
        ("de", False, "abc"),
    ],
)
def test_a_special_token_that_is_not_shown_is_still_part_of_what_stops_it(
    make_choice: MakeChoice, stop: str, keep: bool, text: str
) -> None:
    choice = make_choice(stop, keep_stop=keep)
    assert feed(choice, said("ab", USER, "cde"))[0] == text
    found = text != "abcde"
    assert (choice.finish_reason, choice.stop_reason) == (("stop", stop) if found else ("length", None))


def test_a_special_token_that_stops_it_has_no_score_where_it_is_cut_off_and_one_where_it_is_kept(
    make_choice: MakeChoice,
) -> None:
    letters = [byte_token(ord(letter)) for letter in "ab"]
    cut = make_choice("<|user|>", scored=True)
    assert feed(cut, said("ab", USER, "cd"))[1] == letters
    kept = make_choice("<|user|>", scored=True, keep_stop=True)
    assert feed(kept, said("ab", USER, "cd"))[1] == [*letters, USER]


def test_a_special_token_that_is_no_stop_leaves_the_text_around_it_whole(make_choice: MakeChoice) -> None:
    choice = make_choice("never")
    half = [byte_token(byte) for byte in "é".encode()]
    assert feed(choice, said("a", USER, "b", half[0], USER, half[1], "n"))[0] == "abén"


def test_a_special_token_does_not_stop_it_before_min_tokens(make_choice: MakeChoice) -> None:
    choice = make_choice("<|user|>", min_tokens=2)
    assert feed(choice, said("a", USER, "b", USER, "c"))[0] == "ab"
    assert (choice.stop_reason, choice.tokens) == ("<|user|>", 4)
