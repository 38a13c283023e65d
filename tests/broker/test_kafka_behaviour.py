"""What the simulation takes for true of Kafka: each behaviour is tried on its fake and on a real broker."""

import asyncio
from collections.abc import Callable

import pytest

from consumer.link import Membership, TopicPartition
from tests.broker.stage import (
    REBALANCE,
    SESSION,
    Kafka,
    Member,
    Producer,
    Scenario,
    Stage,
    heartbeat,
    link_to,
    offset_of,
    on_a_real_one,
    on_the_fake,
    until,
)

NONE, UNKNOWN_TOPIC = 0, 3
GENERATION, UNKNOWN_MEMBER, REBALANCING = 22, 25, 27
GAP, EPOCH, STATE, MAPPING, CONCURRENT = 45, 47, 48, 49, 51
INSTANCE, UNSTABLE = 82, 88


def behaviour(scenario: Scenario) -> Callable[..., None]:
    """A test that runs on both."""

    @pytest.mark.parametrize("where", ["fake", pytest.param("real", marks=pytest.mark.broker)])
    def test(where: str, request: pytest.FixtureRequest) -> None:
        if where == "fake":
            on_the_fake(scenario)
        else:
            on_a_real_one(scenario, request.getfixturevalue("broker"))

    return test


# -- Transactions ------------------------------------------------------------------------------------


@behaviour
async def test_records_and_offsets_are_seen_once_committed(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    await stage.open(5, (b"1", b"2"))
    assert await kafka.read(stage.target.topic) == []
    assert await offset_of(stage.link, stage.source, stable=False) == (NONE, -1)
    assert await offset_of(stage.link, stage.source, stable=True) == (UNSTABLE, -1)
    assert await stage.producer.end(commit=True) == NONE
    assert (await stage.link.read_offsets([stage.source], _soon()))[stage.source].offset == 5
    await _until_read(kafka, stage.target, [(0, b"1"), (1, b"2")])


@behaviour
async def test_what_is_aborted_is_never_seen(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    await stage.open(5, (b"1",))
    assert await stage.producer.end(commit=False) == NONE
    assert (await stage.link.read_offsets([stage.source], _soon()))[stage.source].offset == -1
    await stage.open(6, (b"2",), sequence=1)
    assert await stage.producer.end(commit=True) == NONE
    await _until_read(kafka, stage.target, [(2, b"2")])


@behaviour
async def test_a_marker_takes_an_offset_also_where_nothing_was_written(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    await stage.open(1)
    assert await stage.producer.end(commit=True) == NONE
    await stage.link.read_offsets([stage.source], _soon())
    await stage.open(2, (b"1",))
    assert await stage.producer.end(commit=True) == NONE
    await _until_read(kafka, stage.target, [(1, b"1")])


@behaviour
async def test_nothing_is_read_beyond_the_first_open_transaction(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    other = Producer(stage.link, kafka.name("other"))
    await other.init()
    await stage.open(1, (b"first",))
    await kafka.append(stage.target.topic, [b"plain"])
    assert await other.add_partition(stage.target) == NONE
    assert (await other.produce(stage.target, (b"second",), 0))[0] == NONE
    assert await other.end(commit=True) == NONE
    await asyncio.sleep(0.5)
    assert await kafka.read(stage.target.topic) == []
    assert len(await kafka.read(stage.target.topic, "read_uncommitted")) == 3
    assert await stage.producer.end(commit=True) == NONE
    await _until_read(kafka, stage.target, [(0, b"first"), (1, b"plain"), (2, b"second")])


@behaviour
async def test_initialising_an_id_ends_what_it_had_open_and_fences_its_old_owner(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    await stage.open(5, (b"1",))
    old = stage.producer.twin()
    assert await stage.producer.init_once() == CONCURRENT
    await stage.producer.init()
    assert stage.producer.id == old.id
    assert stage.producer.epoch > old.epoch
    assert await old.end(commit=True) == EPOCH
    assert await old.add_offsets() == EPOCH
    assert await old.add_partition(stage.target) == EPOCH
    assert await old.commit_offset(stage.source, 9, stage.membership) == EPOCH
    assert (await old.produce(stage.target, (b"late",), 1))[0] == EPOCH
    assert await offset_of(stage.link, stage.source, stable=True) == (NONE, -1)
    assert await kafka.read(stage.target.topic) == []
    await stage.open(7, (b"new",))
    assert await stage.producer.end(commit=True) == NONE
    await _until_read(kafka, stage.target, [(2, b"new")])


@behaviour
async def test_initialising_an_id_that_has_nothing_open_takes_the_next_epoch(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    old = stage.producer.twin()
    await stage.producer.init()
    assert (stage.producer.id, stage.producer.epoch) == (old.id, old.epoch + 1)
    assert await old.add_offsets() == EPOCH


@behaviour
async def test_a_late_copy_of_an_old_epoch_does_not_touch_what_is_pending(kafka: Kafka) -> None:
    """Up to Kafka 3.9 it deletes the new epoch's offset: see `forgets_pending_offsets`."""
    stage = await Stage(kafka).set()
    await stage.open(5)
    late = stage.producer.twin()
    await stage.producer.init()
    await stage.open(6)
    assert await late.commit_offset(stage.source, 5, stage.membership) == EPOCH
    assert await stage.producer.end(commit=True) == NONE
    assert (await stage.link.read_offsets([stage.source], _soon()))[stage.source].offset == 6


@behaviour
async def test_ending_a_transaction_again_answers_as_before(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    for commit in (True, False):
        await stage.open(5)
        assert await stage.producer.end(commit=commit) == NONE
        assert await stage.producer.end(commit=commit) == NONE
        assert await stage.producer.end(commit=not commit) == STATE


@behaviour
async def test_a_late_copy_of_an_end_ends_the_next_transaction_of_the_same_epoch(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    await stage.open(5)
    assert await stage.producer.end(commit=True) == NONE
    await stage.open(6)
    assert await stage.producer.twin().end(commit=True) == NONE
    assert (await stage.link.read_offsets([stage.source], _soon()))[stage.source].offset == 6


@behaviour
async def test_a_late_copy_of_a_commit_of_offsets_overwrites_the_next_one_of_the_same_epoch(
    kafka: Kafka,
) -> None:
    stage = await Stage(kafka).set()
    await stage.open(5)
    assert await stage.producer.end(commit=True) == NONE
    await stage.open(9)
    assert await stage.producer.twin().commit_offset(stage.source, 5, stage.membership) == NONE
    assert await stage.producer.end(commit=True) == NONE
    assert (await stage.link.read_offsets([stage.source], _soon()))[stage.source].offset == 5


@behaviour
async def test_nothing_was_begun_so_nothing_can_be_ended(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    assert await stage.producer.end(commit=True) == STATE


@behaviour
async def test_an_id_that_was_never_initialised_or_has_expired_is_not_known(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    unknown = stage.producer.twin()
    unknown.name = kafka.name("unknown")
    assert await unknown.add_offsets() == MAPPING
    assert await unknown.add_partition(stage.target) == MAPPING
    assert await unknown.end(commit=True) == MAPPING


@behaviour
async def test_a_partition_that_is_not_there_is_not_added(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    assert await stage.producer.add_partition(TopicPartition(stage.target.topic, 7)) == UNKNOWN_TOPIC


# -- Producing ---------------------------------------------------------------------------------------


@behaviour
async def test_the_same_batch_again_is_written_once(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    await stage.open(1)
    first = await stage.producer.produce(stage.target, (b"1", b"2"), 0)
    assert await stage.producer.produce(stage.target, (b"3",), 2) == (NONE, 2)
    assert await stage.producer.produce(stage.target, (b"1", b"2"), 0) == first == (NONE, 0)
    assert await stage.producer.end(commit=True) == NONE
    await _until_read(kafka, stage.target, [(0, b"1"), (1, b"2"), (2, b"3")])


@behaviour
async def test_a_gap_in_the_sequence_is_refused(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    await stage.open(1, (b"1",))
    assert (await stage.producer.produce(stage.target, (b"3",), 2))[0] == GAP


@behaviour
async def test_the_sequence_goes_on_through_transactions_and_begins_anew_with_the_epoch(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    await stage.open(1, (b"1",))
    assert await stage.producer.end(commit=True) == NONE
    await stage.open(2, (b"2",), sequence=1)
    assert await stage.producer.end(commit=True) == NONE
    await stage.producer.init()
    await stage.open(3)
    assert (await stage.producer.produce(stage.target, (b"3",), 2))[0] == GAP
    assert (await stage.producer.produce(stage.target, (b"3",), 0))[0] == NONE


@behaviour
async def test_a_partition_outside_of_the_transaction_is_not_written_to(kafka: Kafka) -> None:
    """By Kafka since 3.6, so not where pending offsets can be forgotten."""
    stage = await Stage(kafka).set()
    assert await stage.producer.add_offsets() == NONE
    assert (await stage.producer.produce(stage.target, (b"1",), 0))[0] == STATE
    assert await kafka.read(stage.target.topic, "read_uncommitted") == []


# -- Who may commit offsets --------------------------------------------------------------------------


@behaviour
async def test_only_the_members_generation_commits_offsets(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    member, generation = stage.membership.member_id, stage.membership.generation
    assert await stage.producer.add_offsets() == NONE
    old = Membership(stage.group, generation - 1, member)
    assert await stage.producer.commit_offset(stage.source, 1, old) == GENERATION
    newer = Membership(stage.group, generation + 1, member)
    assert await stage.producer.commit_offset(stage.source, 1, newer) == GENERATION
    stranger = Membership(stage.group, generation, "stranger")
    assert await stage.producer.commit_offset(stage.source, 1, stranger) == UNKNOWN_MEMBER
    assert await stage.producer.end(commit=False) == NONE
    await stage.open(3)
    assert await stage.producer.end(commit=True) == NONE


@behaviour
async def test_who_claims_to_be_no_member_at_all_is_let_in(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    assert await stage.producer.add_offsets() == NONE
    assert await stage.producer.commit_offset(stage.source, 4, None) == NONE
    assert await stage.producer.end(commit=True) == NONE
    assert (await stage.link.read_offsets([stage.source], _soon()))[stage.source].offset == 4


@behaviour
async def test_offsets_are_refused_of_a_member_that_was_thrown_out(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    stage.member.freeze()
    other = await kafka.join(stage.group, stage.source.topic)
    membership = await other.assignment(1)
    assert membership.generation > stage.membership.generation
    assert other.assigned == [[0]]
    assert await stage.producer.add_offsets() == NONE
    assert await stage.producer.commit_offset(stage.source, 1, stage.membership) == UNKNOWN_MEMBER
    assert await stage.producer.commit_offset(stage.source, 1, membership) == NONE


@behaviour
async def test_a_group_without_offsets_reads_minus_one(kafka: Kafka) -> None:
    link = await link_to(kafka, kafka.name("nobody"))
    tp = TopicPartition(await kafka.topic(), 0)
    assert await offset_of(link, tp, stable=True) == (NONE, -1)


# -- Rebalances --------------------------------------------------------------------------------------


@behaviour
async def test_everything_is_revoked_and_let_go_before_anybody_has_the_next_generation(kafka: Kafka) -> None:
    group, topic = kafka.name("group"), await kafka.topic(2)
    link = await link_to(kafka, group)
    one = await kafka.join(group, topic)
    first = await one.assignment(1)
    assert one.seen == [("revoked", []), ("assigned", [0, 1])]
    one.lets_go.clear()
    two = await kafka.join(group, topic)
    await until(lambda: one.seen[-1] == ("revoked", [0, 1]))
    await asyncio.sleep(SESSION * 1.5)  # heartbeats go on meanwhile
    assert two.assigned == []
    assert await heartbeat(link, first.generation, first.member_id) == REBALANCING
    producer = Producer(link, kafka.name("id"))
    await producer.init()
    assert await producer.add_offsets() == NONE
    # It may still finish its work.
    assert await producer.commit_offset(TopicPartition(topic, 0), 3, first) == NONE
    assert await producer.end(commit=True) == NONE
    one.lets_go.set()
    again, other = await one.assignment(2), await two.assignment(1)
    assert sorted(one.assigned[-1] + two.assigned[-1]) == [0, 1]
    assert len(two.assigned[-1]) == 1
    assert again.generation == other.generation == first.generation + 1
    assert again.member_id == first.member_id
    assert await heartbeat(link, first.generation, first.member_id) == GENERATION
    assert await heartbeat(link, again.generation, again.member_id) == NONE
    assert await heartbeat(link, again.generation, "stranger") == UNKNOWN_MEMBER


@behaviour
async def test_who_does_not_let_go_within_the_rebalance_is_left_behind(kafka: Kafka) -> None:
    group, topic = kafka.name("group"), await kafka.topic(2)
    link = await link_to(kafka, group)
    one = await kafka.join(group, topic)
    first = await one.assignment(1)
    one.lets_go.clear()
    two = await kafka.join(group, topic)
    async with asyncio.timeout(REBALANCE + 5):
        await two.assignment(1)
    assert two.assigned == [[0, 1]]
    assert await heartbeat(link, first.generation, first.member_id) == UNKNOWN_MEMBER
    one.lets_go.set()
    back = await one.assignment(2)
    assert back.member_id != first.member_id


@behaviour
async def test_a_leader_that_joins_again_makes_a_new_generation_and_a_follower_does_not(kafka: Kafka) -> None:
    leader, follower, generation = await _leader_and_follower(kafka)
    follower.join_again()
    assert (await follower.assignment(2)).generation == generation
    assert follower.assigned[-1] == follower.assigned[-2]
    leader.join_again()
    assert (await leader.assignment(3)).generation == generation + 1
    assert (await follower.assignment(3)).generation == generation + 1


@behaviour
async def test_whoever_asks_for_a_new_generation_gets_one(kafka: Kafka) -> None:
    leader, follower, generation = await _leader_and_follower(kafka)
    follower.consumer.rejoin()
    assert (await follower.assignment(2)).generation == generation + 1
    assert (await leader.assignment(3)).generation == generation + 1
    follower.consumer.rejoin()
    assert (await follower.assignment(3)).generation == generation + 2
    leader.consumer.rejoin()
    assert (await leader.assignment(5)).generation == generation + 3


async def _leader_and_follower(kafka: Kafka) -> tuple[Member, Member, int]:
    group, topic = kafka.name("group"), await kafka.topic(2)
    leader = await kafka.join(group, topic)
    await leader.assignment(1)
    follower = await kafka.join(group, topic)
    await follower.assignment(1)
    return leader, follower, (await leader.assignment(2)).generation


@behaviour
async def test_who_stops_leaves_and_the_others_have_it_all_at_once(kafka: Kafka) -> None:
    group, topic = kafka.name("group"), await kafka.topic(2)
    one = await kafka.join(group, topic)
    await one.assignment(1)
    two = await kafka.join(group, topic)
    await two.assignment(1)
    await one.assignment(2)
    before = asyncio.get_running_loop().time()
    await two.consumer.stop()
    await one.assignment(3)
    assert one.assigned[-1] == [0, 1]
    assert asyncio.get_running_loop().time() - before < SESSION


@behaviour
async def test_partitions_that_are_added_are_found_and_shared_out(kafka: Kafka) -> None:
    group, topic = kafka.name("group"), await kafka.topic()
    one = await kafka.join(group, topic)
    first = await one.assignment(1)
    await kafka.add_partition(topic, 2)
    while len(one.memberships) < 2:
        await one.consumer.look_again()
        await asyncio.sleep(0.1)
    assert one.assigned[-1] == [0, 1]
    assert one.memberships[-1].generation > first.generation


@behaviour
async def test_a_restarted_static_member_takes_its_predecessors_place_in_the_same_generation(
    kafka: Kafka,
) -> None:
    group, topic = kafka.name("group"), await kafka.topic(2)
    link = await link_to(kafka, group)
    old = await kafka.join(group, topic, instance_id="one")
    first = await old.assignment(1)
    old.freeze()
    new = await kafka.join(group, topic, instance_id="one")
    second = await new.assignment(1)
    assert new.assigned == [[0, 1]]
    assert second.generation == first.generation
    assert second.member_id != first.member_id
    producer = Producer(link, kafka.name("id"))
    await producer.init()
    assert await producer.add_offsets() == NONE
    source = TopicPartition(topic, 0)
    assert await producer.commit_offset(source, 1, first) == INSTANCE
    nameless = Membership(group, first.generation, first.member_id)
    assert await producer.commit_offset(source, 1, nameless) == UNKNOWN_MEMBER
    assert await producer.commit_offset(source, 1, second) == NONE
    assert await heartbeat(link, first.generation, first.member_id) == UNKNOWN_MEMBER


# -- Reading -----------------------------------------------------------------------------------------


@behaviour
async def test_a_member_reads_on_past_what_is_aborted_and_past_markers(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    reader, _ = await _begin(kafka, stage.target)
    await stage.open(1, (b"1",))
    assert await stage.producer.end(commit=False) == NONE
    await stage.open(1, (b"2",), sequence=1)
    assert await stage.producer.end(commit=True) == NONE
    assert await _poll(reader, 1) == [(2, b"2")]
    async with asyncio.timeout(10):
        while reader.consumer.next_offset(stage.target) != 4:
            assert not await reader.consumer.getmany(timeout_ms=50)
    assert (await reader.consumer.end_offsets([stage.target]))[stage.target] == 4


@behaviour
async def test_the_end_of_a_log_is_the_first_open_transaction(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    await kafka.append(stage.target.topic, [b"0"])
    await stage.open(1, (b"1",))
    reader, _ = await _begin(kafka, stage.target)
    assert await _poll(reader, 1) == [(0, b"0")]
    assert not await reader.consumer.getmany(timeout_ms=300)
    assert (await reader.consumer.end_offsets([stage.target]))[stage.target] == 1
    assert reader.consumer.next_offset(stage.target) == 1


@behaviour
async def test_a_paused_partition_brings_nothing_and_goes_on_where_it_was(kafka: Kafka) -> None:
    reader, tp = await _reader(kafka, [b"0", b"1", b"2"])
    assert await _poll(reader, 1, most=1) == [(0, b"0")]
    reader.consumer.pause(tp)
    assert not await reader.consumer.getmany(timeout_ms=300)
    assert reader.consumer.next_offset(tp) == 1
    reader.consumer.resume(tp)
    assert await _poll(reader, 2) == [(1, b"1"), (2, b"2")]


@behaviour
async def test_what_was_fetched_before_a_seek_is_not_brought(kafka: Kafka) -> None:
    reader, tp = await _reader(kafka, [b"0", b"1", b"2"])
    assert await _poll(reader, 1, most=1) == [(0, b"0")]
    reader.consumer.seek(tp, 2)
    assert await _poll(reader, 1) == [(2, b"2")]
    reader.consumer.seek(tp, 0)
    assert await _poll(reader, 3) == [(0, b"0"), (1, b"1"), (2, b"2")]


@behaviour
async def test_beyond_the_end_of_the_log_nothing_is_read_and_that_is_told(kafka: Kafka) -> None:
    reader, tp = await _reader(kafka, [b"0", b"1"])
    reader.consumer.seek(tp, 100)
    async with asyncio.timeout(10):
        while not reader.consumer.doubtful:
            assert not await reader.consumer.getmany(timeout_ms=50)
    (doubt,) = reader.consumer.doubtful.values()
    assert (doubt.offset, doubt.next_epoch) == (100, None)
    reader.consumer.seek(tp, 0)
    assert await _poll(reader, 2) == [(0, b"0"), (1, b"1")]


@behaviour
async def test_a_poll_waits_while_partitions_are_let_go(kafka: Kafka) -> None:
    group, topic = kafka.name("group"), await kafka.topic(2)
    one = await kafka.join(group, topic)
    await one.assignment(1)
    one.lets_go.clear()
    await kafka.join(group, topic)
    await until(lambda: len(one.seen) == 3)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await one.consumer.getmany(timeout_ms=50)
    one.lets_go.set()
    await one.assignment(2)
    assert not await one.consumer.getmany(timeout_ms=50)


@behaviour
async def test_a_member_that_sought_nothing_begins_at_what_is_committed(kafka: Kafka) -> None:
    stage = await Stage(kafka).set()
    await kafka.append(stage.source.topic, [b"0", b"1", b"2"])
    await stage.open(2)
    assert await stage.producer.end(commit=True) == NONE
    await stage.link.read_offsets([stage.source], _soon())
    await stage.member.consumer.stop()
    other = await kafka.join(stage.group, stage.source.topic)
    await other.assignment(1)
    assert await _poll(other, 1) == [(2, b"2")]


async def _reader(kafka: Kafka, values: list[bytes]) -> tuple[Member, TopicPartition]:
    topic = await kafka.topic()
    await kafka.append(topic, values)
    return await _begin(kafka, TopicPartition(topic, 0))


async def _begin(kafka: Kafka, tp: TopicPartition) -> tuple[Member, TopicPartition]:
    """Where the log does: nobody has committed anything."""
    reader = await kafka.join(kafka.name("readers"), tp.topic)
    await reader.assignment(1)
    reader.consumer.seek(tp, 0)
    return reader, tp


async def _poll(member: Member, count: int, most: int = 100) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            for records in (await member.consumer.getmany(timeout_ms=100, max_records=most)).values():
                found += [(record.offset, record.value) for record in records]
    return found


async def _until_read(kafka: Kafka, tp: TopicPartition, wanted: list[tuple[int, bytes]]) -> None:
    found: list[tuple[int, bytes]] = []
    async with asyncio.timeout(10):
        while found != wanted:
            found = await kafka.read(tp.topic)
            assert found == wanted[: len(found)]
            await asyncio.sleep(0.02)


def _soon() -> float:
    return asyncio.get_running_loop().time() + 10
