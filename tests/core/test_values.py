import pytest

from consumer.core.events import Attempts


def test_a_value_never_changes() -> None:
    attempts = Attempts(1)

    with pytest.raises(AttributeError):
        attempts.count = 2  # type: ignore[misc]  # mypy knows

    assert attempts.count == 1


def test_values_are_the_same_where_their_fields_are_and_their_kind_is() -> None:
    assert Attempts(1) == Attempts(1)
    assert hash(Attempts(1)) == hash(Attempts(1))
    assert Attempts(1) != Attempts(2)
