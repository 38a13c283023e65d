"""Values that never change, and memos that forget."""

import pytest

from consumer.core.events import Attempts
from consumer.core.values import Memo


def test_a_value_never_changes() -> None:
    attempts = Attempts(1)

    with pytest.raises(AttributeError):
        attempts.count = 2  # type: ignore[misc]  # mypy knows

    assert attempts.count == 1


def test_values_are_the_same_where_their_fields_are_and_their_kind_is() -> None:
    assert Attempts(1) == Attempts(1)
    assert hash(Attempts(1)) == hash(Attempts(1))
    assert Attempts(1) != Attempts(2)


def test_a_memo_makes_each_of_a_few_once_and_never_holds_more() -> None:
    made: list[int] = []

    def make(key: int) -> str:
        made.append(key)
        return str(1 // key)

    memo = Memo(make, 2)

    assert [memo[1], memo[2], memo[1], memo[2]] == ["1", "0", "1", "0"]
    assert made == [1, 2]
    assert [memo[3], memo[1], len(memo)] == ["0", "1", 2]
    assert made == [1, 2, 3, 1]


def test_what_a_memo_cannot_make_it_does_not_keep() -> None:
    memo = Memo[int, int](lambda key: 1 // key, 2)

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            memo[0]
    assert not memo
