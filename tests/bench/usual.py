"""What one writes first: aiokafka and aiohttp in a loop, at least once. `pipeline` runs it beside the service.

As its users write it: a task an event, a semaphore for what is in flight, json, urlencode, a labelled counter,
`send` for each outcome, and a commit after each batch. It checks nothing, retries nothing, keeps no order, and
charges no rule: one coupon for all.
"""

import argparse
import asyncio
import hashlib
import json
import signal
from typing import Any
from urllib.parse import urlencode

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from prometheus_client import Counter, Histogram, start_http_server

OUTCOMES = Counter("usual_outcomes", "Outcomes.", ["outcome", "code"])
REQUESTS = Histogram("usual_request_seconds", "Calls.", ["account"])
COMMITS = Counter("coupon_transactions", "Commits.", ["result"])
SECRET = "secret"  # of no platform


def request_of(event: dict[str, Any]) -> dict[str, str]:
    minutes = {"minutes": {"name": "充电时长", "value": 90}, "kwh": {"name": "电量", "value": 31}}
    form = {
        "app_id": "app-1",
        "api_store_code": "store-1",
        "api_type": "5",
        "event_id": event["order_id"],
        "plate": event["plate"],
        "subject": f"【{event['plate']}】充电 {event['energy_kwh']} kWh",
        "metadata": json.dumps(minutes, ensure_ascii=False),
    }
    base = "&".join(f"{name}={value}" for name, value in sorted(form.items()))
    form["sign"] = hashlib.md5(f"{base}&app_secret={SECRET}".encode()).hexdigest().upper()
    return form


class Usual:
    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen = chosen
        self.limit = asyncio.Semaphore(chosen.in_flight)

    async def run(self) -> None:
        chosen, stopping = self.chosen, asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        consumer = AIOKafkaConsumer(
            chosen.events,
            bootstrap_servers=chosen.servers,
            group_id=chosen.group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        producer = AIOKafkaProducer(bootstrap_servers=chosen.servers, acks="all", linger_ms=5)
        connector = aiohttp.TCPConnector(limit=0)
        async with consumer, producer, aiohttp.ClientSession(connector=connector) as session:
            while not stopping.is_set():
                batches = await consumer.getmany(timeout_ms=200, max_records=1000)
                records = [record for batch in batches.values() for record in batch]
                if not records:
                    continue
                await asyncio.gather(
                    *(asyncio.create_task(self.handle(record, session, producer)) for record in records)
                )
                await producer.flush()
                await consumer.commit()
                COMMITS.labels("committed").inc()

    async def handle(self, record: Any, session: aiohttp.ClientSession, producer: AIOKafkaProducer) -> None:
        event = json.loads(record.value)
        form = request_of(event)
        async with self.limit:
            with REQUESTS.labels("main").time():
                async with session.post(
                    self.chosen.url,
                    data=urlencode(form),
                    headers={"Content-Type": "application/x-www-form-urlencoded"},
                    timeout=aiohttp.ClientTimeout(total=10),
                ) as response:
                    reply = await response.json()
        outcome = "granted" if reply["code"] == "1001" else "failed"
        OUTCOMES.labels(outcome, reply["code"]).inc()
        value = {"order_id": event["order_id"], "outcome": outcome, "reply": reply, "plate": event["plate"]}
        await producer.send(self.chosen.outcomes, json.dumps(value).encode(), key=record.key)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("servers", "group", "events", "outcomes", "url"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--port", type=int, required=True)
    chosen = parser.parse_args()
    start_http_server(chosen.port, "127.0.0.1")
    asyncio.run(Usual(chosen).run())


if __name__ == "__main__":
    main()
