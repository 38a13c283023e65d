"""Every way of protecting a Kafka lets the service in; everything that is wrong has a line of its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from consumer.connection import arguments, reach
from consumer.core.errors import BrokerUnavailableError, RefusedError
from consumer.sandbox.gateway import SandboxGateway
from consumer.settings import Settings, load_settings
from tests.broker.kafka import Topics, produce, read_all
from tests.broker.secure import (
    PASSWORD,
    TOKEN_LIFETIME_MS,
    USER,
    SecureBroker,
    Security,
    running,
    token,
    variables,
)
from tests.broker.world import APP_ID, SECRET, World, event

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    folder = tmp_path_factory.mktemp("secure")
    for days in (-1, 30):
        name = "expired" if days < 0 else "good"
        (folder / f"{name}.token").write_text(token(days * 86400), "ascii")
    with running(folder) as broker:
        yield broker


def settings(kafka: SecureBroker, listener: str, security: Security, password: str = PASSWORD) -> Settings:
    return load_settings(
        None,
        {
            **variables(kafka, listener, security),
            "CHARGING_COUPON__KAFKA__TOPICS__EVENTS": "events",
            "CHARGING_COUPON__RULES": "rules.yaml",
            "CHARGING_COUPON__PRIVACY__PLATES": "none",
            "CHARGING_COUPON__SECRETS__KAFKA_PASSWORD": password,
        },
    )


TLS = {"protocol": "ssl", "ca_file": "{folder}/our-ca.pem"}
OURS = {"certificate_file": "{folder}/client.crt", "key_file": "{folder}/client.key"}
PLAIN = {"protocol": "sasl_plaintext", "mechanism": "PLAIN", "username": USER}
BOTH = {**TLS, "protocol": "sasl_ssl", "mechanism": "PLAIN", "username": USER}
TOKENS = {
    "protocol": "sasl_plaintext",
    "mechanism": "OAUTHBEARER",
    "oauth__token_file": "{folder}/good.token",
}

WAYS = {
    "TLS with a CA of one's own": ("TLS", TLS),
    "TLS on both sides": ("MUTUAL", {**TLS, **OURS}),
    "TLS without looking at the host's name": ("ELSEWHERE", {**TLS, "check_hostname": "false"}),
    "PLAIN": ("USERS", PLAIN),
    "SCRAM-SHA-256": ("USERS", {**PLAIN, "mechanism": "SCRAM-SHA-256"}),
    "PLAIN over TLS": ("BOTH", BOTH),
    "SCRAM-SHA-256 over TLS": ("BOTH", {**BOTH, "mechanism": "SCRAM-SHA-256"}),
    "SCRAM-SHA-512 over TLS": ("BOTH", {**BOTH, "mechanism": "SCRAM-SHA-512", "username": f"{USER}-512"}),
    "OAUTHBEARER": ("TOKENS", TOKENS),
}


@pytest.mark.parametrize("way", WAYS)
async def test_records_are_written_in_a_transaction_and_read_by_a_group(
    kafka: SecureBroker,
    way: str,
    topic_prefix: str,
    create_topics: Callable[[str, Mapping[str, int]], Any],
) -> None:
    found = settings(kafka, *WAYS[way])
    options = arguments(found.kafka, found.secret)
    await create_topics(kafka.plain, {topic_prefix: 1})
    await reach(options)
    async with AIOKafkaProducer(**options, transactional_id=topic_prefix) as producer, producer.transaction():
        await producer.send_and_wait(topic_prefix, b"a charge")
    async with AIOKafkaConsumer(
        topic_prefix,
        **options,
        group_id=topic_prefix,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    ) as consumer:
        async with asyncio.timeout(20):
            assert (await consumer.getone()).value == b"a charge"
        await consumer.commit()


FAILURES = {
    "wrong password": (
        "BOTH",
        {**BOTH, "mechanism": "SCRAM-SHA-256"},
        (
            "does not accept the user 'charging' with its password (SCRAM-SHA-256); "
            "correct kafka.security.username, or the secret that kafka.security.password names"
        ),
    ),
    "wrong password, PLAIN": (
        "USERS",
        PLAIN,
        (
            "does not accept the user 'charging' with its password (PLAIN); "
            "correct kafka.security.username, or the secret that kafka.security.password names"
        ),
    ),
    "unknown user": (
        "BOTH",
        {**BOTH, "mechanism": "SCRAM-SHA-512", "username": "nobody"},
        (
            "does not accept the user 'nobody' with its password (SCRAM-SHA-512); "
            "correct kafka.security.username, or the secret that kafka.security.password names"
        ),
    ),
    "expired token": (
        "TOKENS",
        {**TOKENS, "oauth__token_file": "{folder}/expired.token"},
        (
            "does not accept our token (OAUTHBEARER); "
            "look whether it has expired, and at issuer, audience and scope (kafka.security.oauth)"
        ),
    ),
    "no token": (
        "TOKENS",
        {**TOKENS, "oauth__token_file": "/nowhere/token"},
        (
            "wants a token, and the token in /nowhere/token cannot be read: No such file or directory; "
            "correct kafka.security.oauth.token_file, or look at what writes it"
        ),
    ),
    "wrong mechanism": (
        "USERS",
        {**PLAIN, "mechanism": "SCRAM-SHA-512"},
        (
            "does not offer the mechanism SCRAM-SHA-512, but PLAIN, SCRAM-SHA-256; "
            "correct kafka.security.mechanism"
        ),
    ),
    "wrong mechanism over TLS": (
        "BOTH",
        {**TOKENS, **TLS, "protocol": "sasl_ssl"},
        (
            "does not offer the mechanism OAUTHBEARER, but PLAIN, SCRAM-SHA-256, SCRAM-SHA-512; "
            "correct kafka.security.mechanism"
        ),
    ),
    "expired certificate": (
        "EXPIRED",
        TLS,
        (
            "shows a certificate that is not good (certificate has expired); "
            "have it renewed, or look at this machine's clock"
        ),
    ),
    "certificate of another host": (
        "ELSEWHERE",
        TLS,
        (
            "shows a certificate that is not for 'localhost'; name the brokers as their certificate does, "
            "have it issued for this name, or set kafka.security.check_hostname to false"
        ),
    ),
    "unknown CA": (
        "STRANGER",
        TLS,
        (
            "shows a certificate of a CA that we do not trust (self-signed certificate in certificate chain); "
            "put that CA's certificate into kafka.security.ca_file"
        ),
    ),
    "a CA that the system does not know": (
        "TLS",
        {"protocol": "ssl"},
        (
            "shows a certificate of a CA that we do not trust (self-signed certificate in certificate chain); "
            "put that CA's certificate into kafka.security.ca_file"
        ),
    ),
    "no certificate of ours": (
        "MUTUAL",
        TLS,
        (
            "wants a certificate of ours; "
            "set kafka.security.certificate_file and key_file to one that it accepts"
        ),
    ),
    "a certificate of ours that it does not know": (
        "MUTUAL",
        {**TLS, "certificate_file": "{folder}/stranger.crt", "key_file": "{folder}/stranger.key"},
        (
            "does not accept our certificate (certificate unknown); "
            "look at kafka.security.certificate_file: who signed it, and whether it has expired"
        ),
    ),
    "an expired certificate of ours": (
        "MUTUAL",
        {**TLS, "certificate_file": "{folder}/expired.crt", "key_file": "{folder}/expired.key"},
        (
            "does not accept our certificate (certificate unknown); "
            "look at kafka.security.certificate_file: who signed it, and whether it has expired"
        ),
    ),
    "without TLS to a port with it": (
        "TLS",
        {},
        (
            "ends the connection at once, as it does where TLS is expected; "
            "set kafka.security.protocol to ssl, or name its port without TLS"
        ),
    ),
    "SASL without TLS to a port with it": (
        "BOTH",
        PLAIN,
        (
            "ends the connection at once, as it does where TLS is expected; "
            "set kafka.security.protocol to sasl_ssl, or name its port without TLS"
        ),
    ),
    "TLS to a port without it": (
        "USERS",
        BOTH,
        (
            "does not speak TLS on this port; "
            "name its TLS port, or set kafka.security.protocol to plaintext or sasl_plaintext"
        ),
    ),
    "no user where one is wanted": (
        "USERS",
        {},
        "wants to be told a user; set kafka.security.protocol to sasl_plaintext, or name another port",
    ),
    "a user where none is wanted": (
        "TLS",
        BOTH,
        (
            "asks for no user on this port; "
            "name its SASL port, or set kafka.security.protocol to plaintext or ssl"
        ),
    ),
}


@pytest.mark.parametrize(
    "loop",
    [
        pytest.param(asyncio.new_event_loop, id="asyncio"),
        pytest.param(uvloop.new_event_loop, id="uvloop", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("failure", FAILURES)
def test_what_is_wrong_is_told_in_one_line(
    kafka: SecureBroker, failure: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    listener, security, line = FAILURES[failure]
    found = settings(kafka, listener, security, "a wrong one" if "password" in failure else PASSWORD)

    assert refusal(found, loop) == f"Kafka at {kafka.at[listener]} {line}"


def refusal(found: Settings, loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> str:
    """By a loop of its own, as `run` has (uvloop) and as the other commands have."""

    async def reached() -> None:
        try:
            await reach(arguments(found.kafka, found.secret))
        finally:
            await asyncio.sleep(0.05)  # what aiokafka closed without waiting for it

    with asyncio.Runner(loop_factory=loop) as runner, pytest.raises(RefusedError) as refused:
        runner.run(reached())
    return str(refused.value)


async def test_brokers_that_send_their_clients_astray_are_told_from_brokers_that_are_not_there(
    kafka: SecureBroker,
) -> None:
    found = settings(kafka, "ASTRAY", {})
    with pytest.raises(BrokerUnavailableError) as away:
        await reach(arguments(found.kafka, found.secret))
    assert str(away.value) == (
        f"Kafka at {kafka.at['ASTRAY']} sends us on to localhost:{kafka.nowhere}, which is not there: "
        "nothing listens on this port; name a listener that is meant for this network, "
        "or have the brokers' advertised.listeners corrected"
    )


async def test_one_server_that_lets_us_in_is_enough(kafka: SecureBroker) -> None:
    found = settings(kafka, "TLS", TLS)
    options = arguments(found.kafka, found.secret)
    await reach(
        {**options, "bootstrap_servers": [f"localhost:{kafka.nowhere}", *options["bootstrap_servers"]]}
    )


# -- The whole service --------------------------------------------------------------------------------


@pytest.fixture
async def world(
    kafka: SecureBroker,
    topic_prefix: str,
    create_topics: Callable[[str, Mapping[str, int]], Any],
    tmp_path: Path,
) -> AsyncIterator[World]:
    """Its secrets are files, as an editor on Windows would leave them."""
    names = Topics(f"{topic_prefix}-e", f"{topic_prefix}-o", f"{topic_prefix}-d", f"{topic_prefix}-g", 4)
    await create_topics(kafka.plain, {names.events: 4, names.outcomes: 3, names.dead_letters: 1})
    async with SandboxGateway(apps={APP_ID: SECRET}) as gateway:
        world = World(kafka.plain, names, tmp_path, gateway.url)
        text = world.settings.read_text("utf-8")
        line = next(line for line in text.splitlines() if line.startswith("secrets:"))
        world.settings.write_text(text.replace(line, "secrets_dir: secrets"), "utf-8")
        (tmp_path / "secrets").mkdir()
        for name, secret in {
            "main": f"{SECRET}\r\n",
            "kafka_password": f"{PASSWORD}\r\n",
            "plate_hash": "a key for plates\n",
        }.items():
            (tmp_path / "secrets" / name).write_bytes(secret.encode())
        try:
            yield world
        finally:
            world.end()


async def test_the_service_works_over_tls_with_a_user_whose_password_file_ends_in_a_newline(
    kafka: SecureBroker, world: World
) -> None:
    security = {**BOTH, "mechanism": "SCRAM-SHA-512", "username": f"{USER}-512"}
    await produce(kafka.plain, world.topics.events, [event(number) for number in range(200)])
    member = world.start(
        **variables(kafka, "BOTH", security),
        CHARGING_COUPON__KAFKA__GROUP_INSTANCE_ID="member-1",
        CHARGING_COUPON__KAFKA__CLIENT_RACK="zone-a",
        CHARGING_COUPON__KAFKA__COMPRESSION="zstd",
    )
    await world.until_done(60)
    outcomes = await world.outcomes()
    assert sorted(outcome["order_id"] for outcome in outcomes) == [
        f"ORDER{number:08}" for number in range(200)
    ]
    assert {outcome["outcome"] for outcome in outcomes} == {"granted"}
    assert PASSWORD not in member.log.read_text("utf-8")
    assert await member.stop() == 0


@pytest.mark.long
async def test_brokers_that_end_connections_as_tokens_expire_cost_no_outcome_and_double_none(
    kafka: SecureBroker, world: World
) -> None:
    member = world.start(**variables(kafka, "TOKENS", TOKENS))
    await member.port()
    begun = time.monotonic()
    number = 0
    while time.monotonic() - begun < 2.5 * TOKEN_LIFETIME_MS / 1000:
        await produce(kafka.plain, world.topics.events, [event(number + more) for more in range(20)])
        number += 20
        await asyncio.sleep(0.2)
    await world.until_done(60)
    outcomes = await world.outcomes()
    assert sorted(outcome["order_id"] for outcome in outcomes) == [
        f"ORDER{each:08}" for each in range(number)
    ]
    assert await member.stop() == 0


@pytest.mark.long
async def test_a_service_that_is_not_let_in_waits_says_why_and_goes_on_once_it_is(
    kafka: SecureBroker, world: World
) -> None:
    secret = world.folder / "secrets" / "kafka_password"
    secret.write_text("the old one\n", "utf-8")
    await produce(kafka.plain, world.topics.events, [event(1)])
    member = world.start(**variables(kafka, "BOTH", BOTH))
    line = f"Kafka at {kafka.at['BOTH']} does not accept the user 'charging' with its password (PLAIN)"
    async with asyncio.timeout(30):
        while line not in (await member.get("/readyz"))[1]:  # noqa: ASYNC110  # a page sets no event
            await asyncio.sleep(0.1)
    assert (await member.get("/healthz"))[0] == 200
    secret.write_text(PASSWORD, "utf-8")
    await world.until_done(60)
    assert [record.key for record in await read_all(kafka.plain, world.topics.outcomes)] != []
    assert await member.stop() == 0
