"""The tracker commits nothing that is not done, and its map survives a restart or is refused."""

import base64
import itertools
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.offsets import FULL_MAP_BYTES, OffsetMap, Tracker, UnusableMap, decode_map, encode_map


@pytest.mark.parametrize("order", list(itertools.permutations([10, 11, 13, 14])))
def test_the_frontier_is_the_lowest_offset_not_done_whatever_the_order_of_completion(
    order: tuple[int, ...],
) -> None:
    tracker = Tracker(10)
    taken = [10, 11, 13, 14]  # 12 was compacted away
    assert all(tracker.take(offset) for offset in taken)
    done: set[int] = set()
    for offset in order:
        tracker.finish_all([offset])
        done.add(offset)
        undone = [o for o in taken if o not in done]
        assert tracker.frontier == (undone[0] if undone else 15)
        assert tracker.outstanding == bool(undone)
        assert all(tracker.is_done(o) == (o in done) for o in taken)


def test_a_record_under_way_or_done_is_not_taken_twice() -> None:
    tracker = Tracker(0)
    assert tracker.take(0)
    assert tracker.take(1)
    assert not tracker.take(0)
    tracker.finish_all([1])
    assert not tracker.take(1)
    tracker.finish_all([0])
    assert not tracker.take(0)
    assert tracker.frontier == 2


def test_a_restored_map_skips_what_it_names_and_nothing_else() -> None:
    tracker = Tracker(100, [(102, 105), (110, 111)])
    taken = [offset for offset in range(100, 115) if tracker.take(offset)]
    assert taken == [100, 101, 105, 106, 107, 108, 109, 111, 112, 113, 114]
    for offset in taken:
        tracker.finish_all([offset])
    assert tracker.frontier == 115
    assert not tracker.outstanding


def test_done_offsets_at_the_end_move_the_frontier_though_gaps_lie_between_them() -> None:
    tracker = Tracker(5, [(6, 7), (8, 9)])
    assert tracker.take(5)
    tracker.finish_all([5])
    assert tracker.frontier == 7
    assert not tracker.take(8)  # 7 is a transaction marker
    assert tracker.frontier == 9


done_sets = st.sets(st.integers(min_value=1, max_value=5000), max_size=400)


def ranges(frontier: int, done: set[int]) -> list[tuple[int, int]]:
    tracker = Tracker(frontier)
    for offset in sorted(done):
        tracker._add(frontier + offset, frontier + offset + 1)
    return tracker.done()


@given(frontier=st.integers(min_value=0, max_value=2**53), done=done_sets, clean=st.booleans())
def test_a_map_comes_back_as_it_went(frontier: int, done: set[int], clean: bool) -> None:
    expected = ranges(frontier, done)
    text = encode_map("cluster", frontier, expected, clean=clean)
    assert decode_map(text, "cluster", frontier) == OffsetMap(tuple(expected), clean)


@given(
    frontier=st.integers(min_value=0, max_value=10**6),
    steps=st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=60),
)
def test_what_a_tracker_says_is_done_is_what_its_map_says_after_a_restart(
    frontier: int, steps: list[tuple[int, bool]]
) -> None:
    tracker, offset, expected = Tracker(frontier), frontier, {}
    for step, done in steps:
        offset += step
        tracker.take(offset)
        expected[offset] = done
        if done:
            tracker.finish_all([offset])
    text = encode_map("c", tracker.frontier, tracker.done(), clean=False)
    restored = decode_map(text, "c", tracker.frontier)
    assert isinstance(restored, OffsetMap)
    successor = Tracker(tracker.frontier, restored.done)
    for number, done in expected.items():
        assert successor.is_done(number) == done


@given(
    before=st.sets(st.integers(min_value=1, max_value=25), max_size=12),
    steps=st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(0, 30)), max_size=60),
)
def test_a_tracker_says_what_a_set_of_all_that_is_done_says(
    before: set[int], steps: list[tuple[int, bool, int]]
) -> None:
    """Records come with and without gaps, upon what an owner before had done, and end in any order."""
    tracker = Tracker(0, ranges(0, before))
    done, under_way, position = set(before), [], 0
    for gap, ends, which in steps:
        offset = position + gap
        done.update(range(position, offset))
        if tracker.take(offset):
            assert offset not in done
            under_way.append(offset)
        else:
            assert offset in done
        position = offset + 1
        if ends and under_way:
            finished = under_way.pop(which % len(under_way))
            tracker.finish_all([finished])
            done.add(finished)
        frontier = next(offset for offset in itertools.count() if offset not in done)
        assert tracker.frontier == frontier
        assert tracker.position == max(position, frontier)
        assert [offset for start, end in tracker.done() for offset in range(start, end)] == sorted(
            offset for offset in done if offset > frontier
        )
        position = tracker.position


@given(
    before=st.sets(st.integers(min_value=1, max_value=25), max_size=12),
    flushes=st.lists(st.lists(st.integers(0, 40), max_size=15), max_size=5),
)
def test_records_that_end_together_are_noted_as_if_they_had_ended_one_by_one(
    before: set[int], flushes: list[list[int]]
) -> None:
    together, one_by_one = (Tracker(0, ranges(0, before)) for _ in range(2))
    for tracker in (together, one_by_one):
        for offset in range(41):
            tracker.take(offset)
    for flush in flushes:
        for offset in flush:
            one_by_one.finish_all([offset])
        together.finish_all(flush)

        assert together.frontier == one_by_one.frontier
        assert together.done() == one_by_one.done()
        assert together.position == one_by_one.position


def test_a_map_of_a_topic_that_was_deleted_since_is_not_the_new_ones() -> None:
    text = encode_map("cluster", 7, [(9, 10)], clean=True, topic_id="first")
    assert decode_map(text, "cluster", 7, "first") == OffsetMap(((9, 10),), clean=True)
    assert decode_map(text, "cluster", 7, "second") == UnusableMap("other_topic")
    assert decode_map(text, "mirror", 7, "second") == UnusableMap("other_cluster")
    assert decode_map(text, "cluster", 7) == OffsetMap(((9, 10),), clean=True)
    untold = encode_map("cluster", 7, [(9, 10)], clean=True)
    assert decode_map(untold, "cluster", 7, "second") == OffsetMap(((9, 10),), clean=True)


def test_a_map_of_another_offset_or_cluster_is_not_used() -> None:
    text = encode_map("cluster", 7, [(9, 10)], clean=True)
    assert decode_map(text, "cluster", 8) == UnusableMap("other_offset")
    assert decode_map(text, "mirror", 7) == UnusableMap("other_cluster")


@pytest.mark.parametrize("text", ["", "offset metadata of another client", "{}", "ccc0:AAAA"])
def test_metadata_of_others_is_foreign(text: str) -> None:
    assert decode_map(text, "cluster", 0) == UnusableMap("foreign")


@given(st.text(max_size=200), st.binary(max_size=200))
def test_no_text_makes_the_reader_raise(text: str, data: bytes) -> None:
    for candidate in (text, "ccc1:" + text, "ccc1:" + base64.b64encode(data).decode()):
        assert isinstance(decode_map(candidate, "cluster", 0), OffsetMap | UnusableMap)


@given(done=done_sets, at=st.integers(min_value=5, max_value=60), to=st.characters(max_codepoint=127))
def test_a_damaged_map_is_read_as_a_map_or_refused_but_never_crashes(
    done: set[int], at: int, to: str
) -> None:
    text = encode_map("cluster", 3, ranges(3, done), clean=True)
    damaged = text[:at] + to + text[at + 1 :]
    assert isinstance(decode_map(damaged, "cluster", 3), OffsetMap | UnusableMap)


def test_the_worst_pattern_of_some_18_000_offsets_fits_a_commit() -> None:
    chance = random.Random(1)
    done = [(o, o + 1) for o in range(2, 18_000, 2) if chance.random() < 0.9]
    assert len(encode_map("cluster", 0, done, clean=False)) <= FULL_MAP_BYTES + 100


def test_a_map_with_every_other_of_many_offsets_is_read_at_once() -> None:
    done = tuple((offset, offset + 1) for offset in range(2, 400_000, 2))
    text = encode_map("cluster", 0, list(done), clean=False)
    before = time.process_time()

    assert decode_map(text, "cluster", 0) == OffsetMap(done, clean=False)
    assert time.process_time() - before < 3, "its length squared would be 13 s"


def test_a_stuck_head_with_a_million_done_behind_it_is_a_tiny_map() -> None:
    assert len(encode_map("cluster", 0, [(1, 1_000_000)], clean=False)) < 40


def test_what_an_owner_before_may_have_sent_stays_in_doubt_until_it_is_done() -> None:
    tracker = Tracker(4, maybe_sent_below=6)

    assert not tracker.clean
    assert tracker.take(4)
    tracker.finish_all([4])
    assert not tracker.outstanding
    assert not tracker.clean  # 5 was not taken: the next owner has to know what this one was told
    assert tracker.take(5)
    tracker.finish_all([5])
    assert tracker.clean
