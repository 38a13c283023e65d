"""The rights that `topics --acls` lists are enough for the service on a Kafka that checks them, and none is too many."""

import asyncio
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.api import Request

from consumer.connection import arguments
from consumer.sandbox.broker import EmbeddedBroker
from consumer.sandbox.gateway import SandboxGateway
from consumer.settings import load_settings
from consumer.topics import Right, rights
from tests.broker.kafka import Topics, committed_offsets, kafka_link, produce, read_all
from tests.broker.letters import dead_letter, write
from tests.broker.proxy import Older
from tests.broker.rights import CreateAclsV1
from tests.broker.secure import PASSWORD, PLAIN_USERS, USER
from tests.broker.world import APP_ID, SECRET, Member, World, event
from tests.conftest import CreateTopics

pytestmark = pytest.mark.broker

RESOURCES = {"topic": 2, "group": 3, "transactional-id": 5}
REFUSED = re.compile("AuthorizationFailed|does not allow|not allowed to this client")
OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}


class StrictBroker:
    """A Kafka on which our user may do only what is granted. `plain` is its superuser's listener."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.users = f"localhost:{free.getsockname()[1]}"
        protocols = "USERS:SASL_PLAINTEXT,PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
        self.broker = EmbeddedBroker(
            properties={
                "listeners": f"USERS://{self.users}",
                "advertised.listeners": f"USERS://{self.users}",
                "listener.security.protocol.map": protocols,
                "listener.name.users.sasl.enabled.mechanisms": "PLAIN",
                "listener.name.users.plain.sasl.jaas.config": PLAIN_USERS,
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
            }
        )

    @property
    def plain(self) -> str:
        return self.broker.bootstrap_servers

    async def grant(self, granted: Sequence[Right]) -> None:
        client = AIOKafkaClient(bootstrap_servers=self.plain)
        await client.bootstrap()
        try:
            reply = await client.send(client.get_random_node(), _Grant(granted))
        finally:
            await client.close()
        assert {code for code, _ in reply.results} == {0}, reply


class _Grant(Request[CreateAclsV1]):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 30

    def __init__(self, granted: Sequence[Right]) -> None:
        self._granted = granted

    def build(self, request_struct_class: Any) -> Any:
        return request_struct_class(
            [
                (RESOURCES[right.resource], right.name, 4 if right.prefixed else 3, f"User:{USER}", "*", OPERATIONS[operation], 3)
                for right in self._granted
                for operation in right.operations
            ]
        )  # fmt: skip  # a row an ACL


@pytest.fixture(scope="module")
def strict() -> Iterator[StrictBroker]:
    broker = StrictBroker()
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(broker.broker.start())
        yield broker
    finally:
        loop.run_until_complete(broker.broker.stop())
        loop.close()


class Place(World):
    """A deployment under a name of its own on the strict Kafka."""

    def __init__(self, strict: StrictBroker, name: str, folder: Path, gateway_url: str) -> None:
        folder.mkdir()
        names = Topics(f"{name}-events", f"{name}-outcomes", f"{name}-dead", f"{name}-group", 1)
        super().__init__(strict.plain, names, folder, gateway_url)
        self.environ = {
            "CHARGING_COUPON__KAFKA__BOOTSTRAP_SERVERS": strict.users,
            "CHARGING_COUPON__KAFKA__SECURITY__PROTOCOL": "sasl_plaintext",
            "CHARGING_COUPON__KAFKA__SECURITY__MECHANISM": "PLAIN",
            "CHARGING_COUPON__KAFKA__SECURITY__USERNAME": USER,
            "CHARGING_COUPON__SECRETS__KAFKA_PASSWORD": PASSWORD,
        }

    async def until_refused(self) -> None:
        give_up = time.monotonic() + 60
        while not REFUSED.search(self.members[0].log_tail()):
            assert time.monotonic() < give_up, self.members[0].log_tail()
            await asyncio.sleep(0.1)

    def rights(self, guarantee: str) -> list[Right]:
        self.environ["CHARGING_COUPON__GUARANTEE"] = guarantee
        return rights(load_settings(self.settings, self.environ))


@pytest.mark.parametrize(
    ("create", "code", "told"),
    [
        (True, 0, "Created {name}-outcomes, {name}-dead."),
        (False, 4, "error: Kafka does not let us see {name}-outcomes, {name}-dead; grant Describe on it"),
    ],
    ids=["with the rights of --create", "without any"],
)
async def test_the_command_itself_needs_the_rights_that_it_lists_with_create(
    strict: StrictBroker,
    topic_prefix: str,
    tmp_path: Path,
    create_topics: CreateTopics,
    create: bool,
    code: int,
    told: str,
) -> None:
    place = Place(strict, topic_prefix, tmp_path / "place", "http://127.0.0.1:1/")
    await create_topics(strict.plain, {place.topics.events: 1})
    needed = rights(load_settings(place.settings, place.environ), "topics", create=True)
    await strict.grant(needed if create else [right for right in needed if place.topics.events == right.name])
    command = [sys.executable, "-m", "consumer", "topics", "--create", "-s", str(place.settings)]

    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env={**os.environ, **place.environ},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, told.format(name=topic_prefix) in done.stdout + done.stderr) == (code, True), (
        done
    )


@pytest.fixture
async def gateway() -> AsyncIterator[SandboxGateway]:
    async with SandboxGateway(apps={APP_ID: SECRET}) as gateway:
        yield gateway


async def opened(
    place: Place, create_topics: CreateTopics, granted: Sequence[Right], strict: StrictBroker
) -> Member:
    """A member with these rights, and an event that is granted and one that becomes a dead letter before it."""
    names = place.topics
    await create_topics(strict.plain, {names.events: 1, names.outcomes: 1, names.dead_letters: 1})
    await strict.grant(granted)
    await produce(strict.plain, names.events, [event(1), b"{not json"])
    return place.start(**place.environ)


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_with_exactly_these_rights_events_end_in_outcomes_and_dead_letters(
    strict: StrictBroker,
    topic_prefix: str,
    tmp_path: Path,
    gateway: SandboxGateway,
    create_topics: CreateTopics,
    guarantee: str,
) -> None:
    place = Place(strict, topic_prefix, tmp_path / "place", gateway.url)
    try:
        member = await opened(place, create_topics, place.rights(guarantee), strict)
        await place.until_done(30)
        assert {outcome["outcome"] for outcome in await place.outcomes()} == {"granted", "invalid"}
        assert len(await read_all(strict.plain, place.topics.dead_letters)) == 1
        assert await member.stop() == 0
    finally:
        place.end()


@pytest.mark.parametrize("lacking", ["outcomes", "dead_letters", "events"])
async def test_without_a_right_to_a_topic_nothing_is_taken_in_until_it_comes(
    strict: StrictBroker,
    topic_prefix: str,
    tmp_path: Path,
    gateway: SandboxGateway,
    create_topics: CreateTopics,
    lacking: str,
) -> None:
    place = Place(strict, topic_prefix, tmp_path / "place", gateway.url)
    topic = getattr(place.topics, lacking)
    needed = place.rights("exactly_once")
    [number] = [number for number, right in enumerate(needed) if right.name == topic]
    operation = "READ" if lacking == "events" else "WRITE"
    short = [*needed[:number], needed[number]._replace(operations=("Describe",)), *needed[number + 1 :]]
    try:
        member = await opened(place, create_topics, short, strict)
        said = f"topic {topic}: not allowed to this client (ACL: {operation})"
        give_up = time.monotonic() + 30
        while said not in member.log_tail():
            assert time.monotonic() < give_up, member.log_tail()
            await asyncio.sleep(0.1)
        status, details = await member.get("/readyz")
        assert (status, json.loads(details)["waiting_for"]) == (503, said)
        assert [line for line in member.events() if line["event"].startswith("intake.")] == []
        await strict.grant([needed[number]])
        await place.until_done(30)
        assert {outcome["outcome"] for outcome in await place.outcomes()} == {"granted", "invalid"}
        assert await member.stop() == 0
    finally:
        place.end()


async def test_a_kafka_before_2_3_does_not_tell_our_rights_and_is_not_taken_to_refuse_them(
    strict: StrictBroker, topic_prefix: str, tmp_path: Path, create_topics: CreateTopics
) -> None:
    place = Place(strict, topic_prefix, tmp_path / "place", "http://127.0.0.1:1/")
    topic = place.topics.outcomes
    await create_topics(strict.plain, {topic: 1})
    await strict.grant([Right("topic", topic, ("Describe",), "")])

    async def missing(servers: str) -> dict[str, str]:
        variable = {"CHARGING_COUPON__KAFKA__BOOTSTRAP_SERVERS": servers}
        chosen = load_settings(place.settings, place.environ | variable)
        client = AIOKafkaClient(**arguments(chosen.kafka, chosen.secret))
        async with kafka_link(servers, place.topics.group, client) as link:
            return await link.missing([topic], {topic: ("READ", "WRITE")})

    async with Older(strict.users, {3: 7}) as before_2_3:
        assert await missing(before_2_3.servers) == {}
    assert await missing(strict.users) == {topic: "not allowed to this client (ACL: READ, WRITE)"}


@pytest.mark.long
async def test_without_any_one_of_them_the_event_stays_where_it_is_and_the_service_says_what_it_may_not(
    strict: StrictBroker,
    topic_prefix: str,
    tmp_path: Path,
    gateway: SandboxGateway,
    create_topics: CreateTopics,
) -> None:
    places: list[Place] = []
    try:
        for number in itertools.count():
            place = Place(strict, f"{topic_prefix}-{number}", tmp_path / str(number), gateway.url)
            granted = place.rights("exactly_once")
            if number == len(granted):
                break
            granted[number] = granted[number]._replace(operations=("Describe",))
            places.append(place)
            await opened(place, create_topics, granted, strict)
        assert len(places) == 5
        for place in places:
            await place.until_refused()
        for place in places:
            names = place.topics
            committed = await committed_offsets(strict.plain, names.group, names.events, 1)
            assert max(committed.values()) <= 0
    finally:
        for place in places:
            place.end()


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
async def test_a_replay_needs_exactly_the_rights_that_are_listed_for_it(
    strict: StrictBroker, topic_prefix: str, tmp_path: Path, create_topics: CreateTopics, guarantee: str
) -> None:
    async def replayed(number: int) -> tuple[int, str, str]:
        """With all rights, or with one of them cut down to Describe: exit code and what is printed."""
        place = Place(strict, f"{topic_prefix}-{number}", tmp_path / str(number), "http://127.0.0.1:1/")
        place.environ["CHARGING_COUPON__GUARANTEE"] = guarantee
        names = place.topics
        await create_topics(strict.plain, {names.events: 1, names.dead_letters: 1})
        granted = rights(load_settings(place.settings, place.environ), "replay")
        if number < len(granted):
            granted[number] = granted[number]._replace(operations=("Describe",))
        await strict.grant(granted)
        await write(strict.plain, names, [dead_letter(names, 1)])
        command = [sys.executable, "-m", "consumer", "replay", "--all", "--send", "-s", str(place.settings)]
        environ = {**os.environ, **place.environ}
        done = await asyncio.to_thread(
            subprocess.run, command, env=environ, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout.splitlines()[-1] if done.stdout else "", done.stderr

    kinds = ["dead letters", "events", *(["transactional id"] if guarantee == "exactly_once" else [])]
    all_granted = await replayed(len(kinds))
    lacking = [await replayed(number) for number in range(len(kinds))]

    assert all_granted == (0, "1 of 1 were sent back.", "")
    assert [code for code, _, _ in lacking] == [4] * len(kinds), lacking
    assert all(told.startswith("error: Kafka does not allow ") for _, _, told in lacking), lacking


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        ("outcomes", "error: Kafka does not allow us to read {topic}; grant Read and Describe on it"),
        ("send - --yes --topic {topic}", "error: Kafka does not allow us to write to {topic}; grant Write and Describe on it"),
    ],
)  # fmt: skip  # a row a command
async def test_looking_up_outcomes_and_sending_events_need_the_rights_that_are_listed_for_them(
    strict: StrictBroker,
    topic_prefix: str,
    tmp_path: Path,
    create_topics: CreateTopics,
    command: str,
    refusal: str,
) -> None:
    place = Place(strict, topic_prefix, tmp_path / "place", "http://127.0.0.1:1/")
    topic = place.topics.events if command.startswith("send") else place.topics.outcomes
    await create_topics(strict.plain, {topic: 1})
    await produce(
        strict.plain, topic, [b'{"outcome_id": "o/1", "outcome": "limited", "decided_at": "2026-01-01"}']
    )
    words = [
        sys.executable,
        "-m",
        "consumer",
        *command.format(topic=topic).split(),
        "-s",
        str(place.settings),
    ]

    async def run() -> tuple[int, str]:
        done = await asyncio.to_thread(
            subprocess.run,
            words,
            env={**os.environ, **place.environ},
            input=event(1).decode(),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    said = []
    needed = rights(
        load_settings(place.settings, place.environ), "send" if command.startswith("send") else "outcomes"
    )
    for granted in ([Right("topic", topic, ("Describe",), "")], needed):
        await strict.grant(granted)
        said.append(await run())

    code, complaint = said[0]
    assert (code, complaint.startswith(refusal.format(topic=topic))) == (4, True), complaint
    assert said[1] == (0 if command.startswith("send") else 1, "")
