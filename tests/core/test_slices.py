"""Long work in slices: what is done in one step is little, and comes to the same as all at once."""

from itertools import pairwise

import pytest

from consumer.core.slices import BYTES, ITEMS, at_once, check_utf8, let_go


class Counted:
    """Counts those of its kind that are there."""

    there = 0

    def __init__(self) -> None:
        Counted.there += 1

    def __del__(self) -> None:
        Counted.there -= 1


def test_lists_and_dicts_are_emptied_a_little_at_a_time() -> None:
    parts: list[object] = [
        [Counted() for _ in range(1000)],
        {number: Counted() for number in range(1000)},
        [],
        7,
        [Counted()],
    ]
    there = [Counted.there]

    let_go(parts, lambda: there.append(Counted.there))

    steps = [before - after for before, after in pairwise(there)]
    assert sum(steps) == 2001
    assert max(steps) == ITEMS
    assert parts == []


@pytest.mark.parametrize("character", ["é", "电", "😀"])
@pytest.mark.parametrize("before", range(BYTES - 4, BYTES + 1))
def test_a_character_may_stand_across_two_slices(character: str, before: int) -> None:
    check_utf8(b"x" * before + character.encode() + b"y" * BYTES, at_once)


@pytest.mark.parametrize("before", [0, 5, *range(BYTES - 4, BYTES + 2), 2 * BYTES + 1])
@pytest.mark.parametrize("wrong", [b"\xff", b"\xe7\x94y", b"\xed\xa0\x80", b"\xe7\x94"])
def test_what_is_not_utf_8_is_found_where_it_stands(wrong: bytes, before: int) -> None:
    content = b"x" * before + wrong
    with pytest.raises(UnicodeDecodeError) as expected:
        content.decode()

    with pytest.raises(UnicodeDecodeError) as found:
        check_utf8(content, at_once)

    assert found.value.args == expected.value.args
