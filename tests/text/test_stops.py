"""Stop strings do not care how the text is cut into pieces."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from phalanx.text.stops import StopMatcher

# Few letters, so that stop strings overlap one another, themselves and the borders of pieces.
text = st.text("ab", max_size=24)
stop_list = st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4)


def cut_at_first_stop(whole: str, stops: list[str], keep: bool) -> tuple[str, str | None]:
    """By definition: the shortest beginning of the text that ends in a stop, of which the longest counts."""
    for end in range(1, len(whole) + 1):
        ending = [stop for stop in stops if whole[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return whole[: end if keep else end - len(longest)], longest
    return whole, None


def pieces_of(whole: str, cuts: list[int]) -> list[str]:
    borders = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    return [whole[a:b] for a, b in itertools.pairwise(borders)]


@given(text, stop_list, st.lists(st.integers(0, 100), max_size=8), st.booleans())
def test_what_is_shown_is_the_text_up_to_the_first_stop(
    whole: str, stops: list[str], cuts: list[int], keep: bool
) -> None:
    matcher = StopMatcher(stops, keep)
    shown = ""
    for piece in pieces_of(whole, cuts):
        shown += matcher.push(piece)
        if matcher.found is not None:
            break
    else:
        shown += matcher.finish()
    assert (shown, matcher.found) == cut_at_first_stop(whole, stops, keep)


@given(text, stop_list, st.lists(st.integers(0, 100), max_size=8))
def test_no_more_is_held_back_than_could_begin_a_stop(whole: str, stops: list[str], cuts: list[int]) -> None:
    matcher = StopMatcher(stops)
    pushed = shown = ""
    for piece in pieces_of(whole, cuts):
        pushed += piece
        shown += matcher.push(piece)
        if matcher.found is not None:
            return
        beginnings = {stop[:size] for stop in stops for size in range(len(stop))}
        held = max(len(beginning) for beginning in beginnings if pushed.endswith(beginning))
        assert matcher.held == held
        assert shown == pushed[: len(pushed) - held]


def test_a_stop_over_three_pieces_is_found_and_the_text_before_it_shown() -> None:
    matcher = StopMatcher(["\n\nUser:"])
    assert [matcher.push(piece) for piece in ("Hello", " there\n", "\nUs", "er: more")] == ["Hello", " there", "", ""]
    assert matcher.found == "\n\nUser:"


def test_text_that_only_began_like_a_stop_comes_out_as_soon_as_it_differs() -> None:
    matcher = StopMatcher(["<end>"])
    assert [matcher.push(piece) for piece in ("a<e", "n", "x", "<")] == ["a", "", "<enx", ""]
    assert matcher.finish() == "<"


pieces = st.lists(st.tuples(st.text("ab", max_size=5), st.booleans()), max_size=8)


@given(pieces, stop_list, st.booleans())
def test_stops_are_looked_for_in_all_that_was_generated_and_only_what_is_shown_comes_out(
    generated: list[tuple[str, bool]], stops: list[str], keep: bool
) -> None:
    matcher = StopMatcher(stops, keep)
    shown = ""
    for piece, visible in generated:
        shown += matcher.push(piece, piece if visible else "")
        if matcher.found is not None:
            break
    else:
        shown += matcher.finish()
    before, found = cut_at_first_stop("".join(piece for piece, _ in generated), stops, keep=False)
    visible_places = [visible for piece, visible in generated for _ in piece]
    expected = "".join(letter for letter, visible in zip(before, visible_places, strict=False) if visible)
    assert (shown, matcher.found) == (expected + (found or "" if keep else ""), found)


def test_a_piece_whose_beginning_is_not_shown_is_cut_where_the_stop_begins() -> None:
    matcher = StopMatcher(["lo!"])
    assert [matcher.push(" Hel", "Hel"), matcher.push("o"), matcher.push("!")] == ["He", "", ""]
    assert matcher.found == "lo!"
