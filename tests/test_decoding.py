"""Whatever is in a fetch's answer, all its records come, in their order."""

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED

from consumer.decoding import AsDecoded, Records, partition_records
from consumer.link import TopicPartition
from tests.broker.test_records import Raw, raw_builder

PARTITION = TopicPartition("events", 3)
AT = 1_700_000_000_000


def batch(first: int, keys: Sequence[str], codec: int = 0) -> bytes:
    """Records from an offset on, each with a header of such a key."""
    builder = raw_builder(codec)
    for at, key in enumerate(keys):
        builder.append(at, AT, b"key", b"%d" % (first + at), [(Raw(key), b"\xff")])
    data = builder.build()
    data[:8] = first.to_bytes(8, "big")
    return bytes(data)


def read(data: bytes, start: int, deserializer: Any = None) -> list[Any]:
    return list(
        partition_records(PARTITION, Records(data), [], start, deserializer, None, True, READ_COMMITTED)
    )


@pytest.mark.parametrize("codec", [0, 4])
@pytest.mark.parametrize("deserializer", [None, AsDecoded()])
def test_header_keys_that_are_no_utf8_hold_nothing_up_and_repeat_nothing(
    codec: int, deserializer: Any
) -> None:
    data = (
        batch(10, ["fine"])
        + batch(11, ["fine", "caf\xe9", "fine"], codec)
        + batch(14, ["\xff\xfe", "fine"], codec)
        + batch(20, ["fine"])
    )

    found = read(data, 10, deserializer)

    assert [record.offset for record in found] == [10, 11, 12, 13, 14, 15, 20]
    assert [record.value for record in found] == [b"%d" % record.offset for record in found]
    assert [record.headers[0][0] for record in found][2:5] == [r"caf\xe9", "fine", r"\xff\xfe"]
    assert {tuple(record.headers[0])[1] for record in found} == {b"\xff"}


def test_what_stands_before_the_place_that_was_asked_for_is_passed_over() -> None:
    assert [record.offset for record in read(batch(10, ["\xff", "fine", "\xff", "fine"]), 12)] == [12, 13]


def test_records_as_decoded_tell_all_but_their_topic_and_partition() -> None:
    (plain,), (bare,) = read(batch(7, ["fine"]), 7), read(batch(7, ["fine"]), 7, AsDecoded())

    assert (plain.topic, plain.partition) == PARTITION
    for name in ("offset", "timestamp", "key", "value"):
        assert getattr(bare, name) == getattr(plain, name)
    assert tuple(bare.headers) == plain.headers


@pytest.mark.parametrize("deserializer", [None, AsDecoded()])
def test_a_fetch_that_is_thrown_away_half_read_is_free_without_a_search(deserializer: Any) -> None:
    data = Records(batch(10, ["fine", "fine"]) + batch(12, ["fine"]))
    freed = weakref.ref(data)
    fetched = partition_records(PARTITION, data, [], 10, deserializer, None, True, READ_COMMITTED)
    del data
    gc.disable()
    try:
        assert [record.offset for record, _ in zip(fetched, range(2), strict=False)] == [10, 11]
        assert fetched.next_fetch_offset >= 12
        del fetched

        assert freed() is None
    finally:
        gc.enable()


def test_the_leader_that_wrote_what_was_read_is_known_though_the_rest_was_thrown_away() -> None:
    decoded = AsDecoded()
    fetched = partition_records(
        PARTITION,
        Records(of_leader(5, batch(10, ["fine", "fine"]))),
        [],
        10,
        decoded,
        None,
        False,
        READ_COMMITTED,
    )
    assert next(iter(fetched)).offset == 10
    del fetched

    assert decoded.epoch(PARTITION) == 5


def of_leader(epoch: int, data: bytes) -> bytes:
    return data[:12] + epoch.to_bytes(4, "big") + data[16:]
