"""How records are put into batches, before anything is sent."""

from typing import cast

import aiokafka.partitioner
import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.link import KafkaLink, Outgoing, TopicPartition
from consumer.publishing import Publisher, murmur2, murmur2_of

BATCH_HEAD = 61
"""Bytes before a batch's records (https://kafka.apache.org/documentation/#recordbatch)."""


class OnePartition:
    """A link that knows no more."""

    def partition_count(self, topic: str) -> int:
        return 1


def batch_of(records: list[Outgoing], compression: str) -> bytes:
    publisher = Publisher(cast("KafkaLink", OnePartition()), compression=compression)
    (batch,) = publisher.batches(records, range(len(records)))[TopicPartition("outcomes", 0)]
    return bytes(batch.builder.build())


def outcomes() -> list[Outgoing]:
    values = (b'{"outcome":"granted","order_id":"%d","seqno":"%x"}' % (n * 7919, n * n) for n in range(200))
    return [Outgoing("outcomes", b"key", value, [], 1_700_000_000_000) for value in values]


def test_lz4_is_used_at_the_level_that_costs_least() -> None:
    plain, packed = batch_of(outcomes(), "none"), batch_of(outcomes(), "lz4")
    fastest = cramjam.lz4.Compressor(level=1, content_checksum=False, block_linked=False)
    fastest.compress(plain[BATCH_HEAD:])

    assert packed[BATCH_HEAD:] == bytes(fastest.finish())
    assert len(packed) < len(plain) / 2


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_who_wants_it_smaller_gets_it_smaller(compression: str) -> None:
    assert len(batch_of(outcomes(), compression)) < len(batch_of(outcomes(), "lz4"))


@given(st.binary(max_size=60))
def test_a_key_has_the_partition_that_kafkas_own_producers_choose(key: bytes) -> None:
    assert murmur2(key) == aiokafka.partitioner.murmur2(key)


@given(
    st.integers(0, 20).flatmap(lambda size: st.lists(st.binary(min_size=size, max_size=size), max_size=30)),
    st.lists(st.none() | st.binary(max_size=30), max_size=30),
)
def test_keys_of_a_flush_are_hashed_together_as_each_is(
    alike: list[bytes], others: list[bytes | None]
) -> None:
    keys = [*alike, *others]

    assert murmur2_of(keys) == {key: murmur2(key) for key in keys if key is not None}


def test_records_are_put_into_as_few_batches_as_they_fit_in() -> None:
    records = [Outgoing("outcomes", b"key", bytes(100), [], 1_700_000_000_000) for _ in range(10)]
    records.insert(5, Outgoing("letters", b"key", bytes(100), [], 1_700_000_000_000))
    publisher = Publisher(cast("KafkaLink", OnePartition()), batch_bytes=61 + 4 * 120)

    queues = publisher.batches(records, range(len(records)))

    assert {tp.topic: [batch.indexes for batch in queue] for tp, queue in queues.items()} == {
        "outcomes": [[0, 1, 2, 3], [4, 6, 7, 8], [9, 10]],
        "letters": [[5]],
    }
