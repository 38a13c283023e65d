import socket

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from consumer.core.errors import BrokerUnavailableError, RefusedError
from consumer.topics import DAY_MS, TopicSpec, ensure_topics


@pytest.mark.broker
async def test_missing_topics_are_created_as_wanted(broker: str, topic_prefix: str) -> None:
    name = f"{topic_prefix}.outcomes"

    report = await ensure_topics(
        broker, {name: TopicSpec(3, retention_ms=DAY_MS, config={"max.message.bytes": "2000000"})}
    )

    assert report.created == (name,)
    assert report.present == {}
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    try:
        (topic,) = await admin.describe_topics([name])
        (reply,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    finally:
        await admin.close()
    config = {entry[0]: entry[1] for entry in reply.resources[0][4]}
    assert len(topic["partitions"]) == 3
    assert {key: config[key] for key in ("retention.ms", "cleanup.policy", "max.message.bytes")} == {
        "retention.ms": "86400000",
        "cleanup.policy": "delete",
        "max.message.bytes": "2000000",
    }


@pytest.mark.broker
async def test_topics_that_are_there_are_left_alone_and_reported(broker: str, topic_prefix: str) -> None:
    there, missing = f"{topic_prefix}.there", f"{topic_prefix}.missing"
    await ensure_topics(broker, {there: TopicSpec(2)})

    report = await ensure_topics(broker, {there: TopicSpec(4), missing: TopicSpec(1)})

    assert report.created == (missing,)
    assert report.present == {there: 2}
    assert report.fewer == (there,)


@pytest.mark.broker
async def test_a_topic_that_kafka_does_not_create_is_named(broker: str, topic_prefix: str) -> None:
    with pytest.raises(RefusedError, match=rf"does not create {topic_prefix}: .*compactt"):
        await ensure_topics(broker, {topic_prefix: TopicSpec(1, cleanup="compactt")})


async def test_a_kafka_that_does_not_answer_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BrokerUnavailableError, match=rf"Kafka at {address} does not answer"):
            await ensure_topics(address, {"events": TopicSpec(1)})
