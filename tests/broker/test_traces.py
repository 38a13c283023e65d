"""Traces of real members on a real Kafka: from the event through retry topics to outcome and dead letter."""

from collections.abc import AsyncIterator, Callable
from itertools import chain
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from consumer.sandbox.answers import ANSWERS, Answer, Call
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.kafka import read_all
from tests.broker.test_retries import (
    all_outcomes,
    topics,  # noqa: F401  # the fixture: with retry topics of short delays
)
from tests.broker.world import World, just_now
from tests.collector import CLIENT, CONSUMER, Collector, Sent

pytestmark = pytest.mark.broker

TRACES = {number: (f"{number:032x}", f"{number:016x}") for number in (1, 2)}


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with Collector() as collector:
        yield collector


async def produce_traced(world: World, *numbers: int) -> None:
    """Orders 1 and 2 come with a trace, others without."""
    producer = AIOKafkaProducer(bootstrap_servers=world.broker)
    await producer.start()
    try:
        for number in numbers:
            trace = TRACES.get(number)
            headers = [("traceparent", f"00-{trace[0]}-{trace[1]}-01".encode())] if trace else []
            await producer.send_and_wait(
                world.topics.events, just_now(number), key=b"%d" % number, headers=headers
            )
    finally:
        await producer.stop()


def answering(orders: dict[str, list[str]]) -> Callable[[Call], Answer | None]:
    """Each order's calls get these answers in turn; then the sandbox decides."""

    def answer(call: Call) -> Answer | None:
        left = orders.get(call.event_id)
        return ANSWERS[left.pop(0)] if left else None

    return answer


def of_order(collector: Collector, number: int) -> list[Sent]:
    """Its own spans, in the order of time."""
    return [
        span
        for span in collector.spans
        if span.kind == CONSUMER and span.attributes["charging_coupon.order_id"] == f"ORDER{number:08}"
    ]


async def headers_by_order(world: World, topic: str) -> dict[str, dict[str, Any]]:
    found = await read_all(world.broker, topic)
    return {orjson.loads(record.value)["order_id"]: dict(record.headers) for record in found}


async def test_an_order_is_one_trace_from_its_event_through_retry_topics_to_its_end(
    world: World, gateway: SandboxGateway, collector: Collector
) -> None:
    gateway.script = answering(
        {"ORDER00000001": ["1002", "1002"], "ORDER00000002": ["400"], "ORDER00000003": ["1002"]}
    )
    await produce_traced(world, 1, 2, 3)
    member = world.start(CHARGING_COUPON__TRACING__ENDPOINT=collector.url)
    await all_outcomes(world, 3)
    assert await member.stop() == 0  # what was not sent yet is sent now

    waited = of_order(collector, 1)
    assert [span.attributes.get("charging_coupon.outcome") for span in waited] == [None, None, "granted"]
    assert [span.attributes["messaging.destination.name"] for span in waited] == [
        world.topics.events,
        f"{world.topics.retries}.1s",
        f"{world.topics.retries}.2s",
    ]
    assert {span.trace_id for span in waited} == {TRACES[1][0]}
    assert [span.parent_id for span in waited] == [TRACES[1][1], waited[0].span_id, waited[1].span_id]
    calls = [span for span in collector.spans if span.kind == CLIENT and span.trace_id == TRACES[1][0]]
    assert {span.parent_id for span in calls} == {span.span_id for span in waited}
    assert [span.attributes["charging_coupon.code"] for span in calls] == ["1002", "1002", "1001"]

    (rejected,) = of_order(collector, 2)
    outcomes = await headers_by_order(world, world.topics.outcomes)
    (letter,) = (await headers_by_order(world, world.topics.dead_letters)).values()
    ours = f"00-{TRACES[2][0]}-{rejected.span_id}-01".encode()
    assert rejected.failed
    assert letter["traceparent"] == f"00-{TRACES[2][0]}-{TRACES[2][1]}-01".encode()
    assert letter["coupon_traceparent"] == outcomes["ORDER00000002"]["traceparent"] == ours

    first, last = of_order(collector, 3)
    assert (first.parent_id, last.parent_id, last.trace_id) == ("", first.span_id, first.trace_id)

    sent = b"".join(collector.bodies).decode("utf-8", "replace")
    plates = chain.from_iterable((f"粤B{number:04}Z", f"B{number:04}Z") for number in (1, 2, 3))
    assert [plate for plate in plates if plate in sent] == []


async def test_a_collector_that_is_away_costs_no_outcome(world: World, gateway: SandboxGateway) -> None:
    member = world.start(CHARGING_COUPON__TRACING__ENDPOINT="http://127.0.0.1:9")
    await produce_traced(world, *range(1, 41))
    await world.until_outcomes(40)
    await member.until_page("/metrics", 'coupon_spans_total{result="dropped"} 80.0')

    assert await member.stop() == 0
    lines = [line["event"] for line in member.events() if line["event"].startswith("tracing.")]
    assert lines == ["tracing.collector_is_away"]
