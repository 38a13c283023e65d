"""Passwords, tokens, certificates and CAs of the way to Kafka that turn over under load: no restart, no rebalance, no doubles."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import BasicAuth, web
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.metadata import MetadataRequest

from consumer.connection import Access, reach
from consumer.core.errors import RefusedError
from consumer.link import Membership
from consumer.sandbox.gateway import SandboxGateway
from consumer.settings import Settings, load_settings
from tests.broker.audit import audit
from tests.broker.kafka import Topics, in_seconds, kafka_link, traffic, until
from tests.broker.secure import (
    PASSWORD,
    TOKEN_LIFETIME_MS,
    USER,
    SecureBroker,
    Security,
    admin,
    running,
    token,
    variables,
)
from tests.broker.world import APP_ID, SECRET, Member, World, just_now
from tests.mounts import mount
from tests.pki import Authority

pytestmark = [pytest.mark.broker, pytest.mark.long]

RENEWED, KEPT = "kafka.credentials_renewed", "credentials.kept"


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    with running(tmp_path_factory.mktemp("secure")) as broker:
        yield broker


@pytest.fixture
async def gateway() -> AsyncIterator[SandboxGateway]:
    async with SandboxGateway(apps={APP_ID: SECRET}, latency=0.1) as gateway:
        yield gateway


@pytest.fixture
async def world(
    kafka: SecureBroker,
    topic_prefix: str,
    create_topics: Callable[[str, Mapping[str, int]], Any],
    tmp_path: Path,
    gateway: SandboxGateway,
) -> AsyncIterator[World]:
    """Its secrets are files, as Kubernetes mounts them."""
    names = Topics(f"{topic_prefix}-e", f"{topic_prefix}-o", f"{topic_prefix}-d", f"{topic_prefix}-g", 4)
    await create_topics(kafka.plain, {names.events: 4, names.outcomes: 3, names.dead_letters: 1})
    world = World(kafka.plain, names, tmp_path, gateway.url)
    text = world.settings.read_text("utf-8")
    line = next(line for line in text.splitlines() if line.startswith("secrets:"))
    world.settings.write_text(text.replace(line, "secrets_dir: secrets"), "utf-8")
    try:
        yield world
    finally:
        world.end()


class Trial:
    """One member under load, whose way to Kafka becomes other."""

    def __init__(self, world: World, gateway: SandboxGateway) -> None:
        self.world = world
        self.gateway = gateway
        self.member: Member
        self._secrets: dict[str, str] = {"main": SECRET, "plate_hash": "a key for plates"}

    def keep(self, **secrets: str) -> None:
        """The folder of secrets holds these too, or in place of others."""
        self._secrets |= secrets
        mount(self.world.folder / "secrets", self._secrets)

    @asynccontextmanager
    async def under_load(self, settings: Mapping[str, str]) -> AsyncIterator[Member]:
        """Afterwards nothing is lost or doubled, and the member that joined at first is still in its first generation."""
        world = self.world
        self.member = member = world.start(**settings)
        async with traffic(world.broker, world.topics.events, just_now, 60) as sent:
            await world.until_outcomes(60)
            yield member
            await self.goes_on()
        await world.until_done(60)
        books = await audit(world, self.gateway, range(sent.sent))
        assert {each["outcome"] for each in books.outcomes} == {"granted"}
        await self._is_the_member_that_joined()
        assert await member.stop() == 0

    async def goes_on(self) -> None:
        """Until orders of now are granted."""
        done = self.gateway.journal.answers["1001"]
        await until(lambda: self.gateway.journal.answers["1001"] > done + 60, 15)

    async def logged(self, event: str, times: int) -> list[dict[str, Any]]:
        """Its log lines of this event, once there are so many."""

        def lines() -> list[dict[str, Any]]:
            return [line for line in self.member.events() if line["event"] == event]

        await until(lambda: len(lines()) >= times, 30)
        return lines()

    async def kept(self) -> list[str]:
        """What its page says is of no use."""
        _, page = await self.member.get("/readyz")
        found: list[str] = orjson.loads(page)["credentials_kept"]
        return found

    async def _is_the_member_that_joined(self) -> None:
        """Kafka confirms who it is in the generation of its only assignment."""
        (opened,) = [line for line in self.member.events() if line["event"] == "intake.open"]
        group = self.world.topics.group
        async with admin(self.world.broker) as client:
            (told,) = await client.describe_consumer_groups([group])
        ((_, _, _, _, _, members, *_),) = told.groups
        ((member_id, *_),) = members
        async with kafka_link(self.world.broker, group) as link:
            assert await link.confirms(Membership(group, opened["generation"], member_id), in_seconds(10))
            assert not await link.confirms(
                Membership(group, opened["generation"] + 1, member_id), in_seconds(10)
            )
        _, metrics = await self.member.get("/metrics")
        assert "coupon_assignments_total 1.0\n" in metrics


@pytest.fixture
def trial(world: World, gateway: SandboxGateway) -> Trial:
    return Trial(world, gateway)


SCRAM = {
    "protocol": "sasl_ssl",
    "ca_file": "{folder}/our-ca.pem",
    "mechanism": "SCRAM-SHA-512",
    "username": f"{USER}-512",
}


async def test_a_password_turns_over_whichever_side_hears_of_it_first(
    kafka: SecureBroker, trial: Trial
) -> None:
    trial.keep(kafka_password=PASSWORD)
    try:
        async with trial.under_load(variables(kafka, "BOTH", SCRAM)) as member:
            # The file first: Kafka refuses it, so that the one before stays until Kafka has heard of it.
            trial.keep(kafka_password="the second password")
            await trial.logged(KEPT, 1)
            (kept,) = await trial.kept()
            assert f"does not accept the user '{USER}-512' with its password (SCRAM-SHA-512)" in kept
            await trial.goes_on()
            await kafka.use_password("the second password")
            (renewed,) = await trial.logged(RENEWED, 1)
            assert renewed["connections"] > 1
            assert await trial.kept() == []

            # Kafka first: whoever is in stays in.
            await kafka.use_password("the third password")
            await trial.goes_on()
            trial.keep(kafka_password="the third password")
            await trial.logged(RENEWED, 2)

            # A slip of the pen, and an empty file, change nothing.
            trial.keep(kafka_password="the thrid password")
            await trial.logged(KEPT, 2)
            trial.keep(kafka_password="")
            await trial.logged(KEPT, 3)
            await member.until_page("/metrics", "coupon_credentials_kept 2.0\n")
            trial.keep(kafka_password="the third password")
            await member.until_page("/metrics", "coupon_credentials_kept 0.0\n")

        log = member.log.read_text("utf-8")
        said = [PASSWORD, "the second password", "the third password", "the thrid password"]
        assert [each for each in said if each in log] == []
    finally:
        await kafka.use_password(PASSWORD)


MUTUAL = {
    "protocol": "ssl",
    "ca_file": "{tls}/ca.pem",
    "certificate_file": "{tls}/tls.crt",
    "key_file": "{tls}/tls.key",
    "key_password": "key_password",
}


async def test_certificates_and_cas_turn_over_and_the_old_ones_are_of_no_more_use(
    kafka: SecureBroker, trial: Trial, tmp_path: Path
) -> None:
    (folder := tmp_path / "authorities").mkdir()
    old, new = kafka.ca, Authority(folder, "new-ca")
    tls: dict[str, bytes] = {"ca.pem": old.ca.read_bytes()}
    brokers = old.issue("broker", "localhost", "127.0.0.1")

    def identify(authority: Authority, name: str) -> None:
        certificate, key = authority.issue(name, password=f"password of {name}")
        tls.update({"tls.crt": certificate.read_bytes(), "tls.key": key.read_bytes()})
        mount(tmp_path / "tls", tls)
        trial.keep(key_password=f"password of {name}")

    def trust(*authorities: Authority) -> None:
        tls["ca.pem"] = b"".join(each.ca.read_bytes() for each in authorities)
        mount(tmp_path / "tls", tls)

    identify(old, "first")
    security = {name: value.format(tls=tmp_path / "tls") for name, value in MUTUAL.items()}
    try:
        async with trial.under_load(variables(kafka, "MUTUAL", security)):
            # Our certificate comes from another CA: Kafka does not know it yet, then both, then only the new one.
            identify(new, "second")
            await trial.logged(KEPT, 1)
            await trial.goes_on()
            await kafka.use_stores("mutual", brokers, [old, new])
            await trial.logged(RENEWED, 1)
            await kafka.use_stores("mutual", brokers, [new])
            identify(new, "third")
            await trial.logged(RENEWED, 2)

            # So does Kafka's: for a while both are trusted here.
            trust(old, new)
            await trial.logged(RENEWED, 3)
            brokers = new.issue("broker", "localhost", "127.0.0.1")
            await kafka.use_stores("mutual", brokers, [new])
            trust(new)
            await trial.logged(RENEWED, 4)
            assert await trial.kept() == []

            # Half a file changes nothing.
            kept = len([line for line in trial.member.events() if line["event"] == KEPT])
            (tmp_path / "tls/..data/tls.crt").write_bytes(tls["tls.crt"][:200])
            await trial.logged(KEPT, kept + 1)
            assert "certificate_file" in (await trial.kept())[0]
            mount(tmp_path / "tls", tls)
            await trial.logged(RENEWED, 5)
            assert await trial.kept() == []

        first = {name: str(old.folder / f"first.{kind}") for name, kind in OWN.items()}
        third = {name: str(folder / f"third.{kind}") for name, kind in OWN.items()}
        for ca, own, why in (
            (new, third, ""),
            (new, first, "our certificate"),
            (old, third, "CA that we do"),
        ):
            given = {**security, **own, "ca_file": str(ca.ca)}
            number = "third" if own is third else "first"
            assert why in await refusal(loaded(kafka, "MUTUAL", given, key_password=f"password of {number}"))
    finally:
        await kafka.use_stores("mutual", old.issue("broker", "localhost", "127.0.0.1"), [old])


OWN = {"certificate_file": "crt", "key_file": "key"}


async def refusal(settings: Settings) -> str:
    """Why one would not be let in; nothing where one is."""
    try:
        await reach(Access(settings.kafka, settings.secret).arguments())
    except RefusedError as error:
        return str(error)
    return ""


def loaded(kafka: SecureBroker, listener: str, security: Security, **secrets: str) -> Settings:
    """Settings with this way to Kafka."""
    return load_settings(
        None,
        {
            **variables(kafka, listener, security),
            "CHARGING_COUPON__KAFKA__TOPICS__EVENTS": "events",
            "CHARGING_COUPON__RULES": "rules.yaml",
            "CHARGING_COUPON__PRIVACY__PLATES": "none",
            **{f"CHARGING_COUPON__SECRETS__{name.upper()}": text for name, text in secrets.items()},
        },
    )


TOKENS = {
    "protocol": "sasl_plaintext",
    "mechanism": "OAUTHBEARER",
    "oauth__token_file": "{token}/token",
}


async def test_a_token_turns_over_before_it_ends(kafka: SecureBroker, trial: Trial, tmp_path: Path) -> None:
    trial.keep()
    mount(tmp_path / "token", {"token": token(60)})
    security = {name: value.format(token=tmp_path / "token") for name, value in TOKENS.items()}
    async with trial.under_load(variables(kafka, "TOKENS", security)) as member:
        mount(tmp_path / "token", {"token": token(90)})
        await trial.logged(RENEWED, 1)
        mount(tmp_path / "token", {"token": ""})
        await trial.logged(KEPT, 1)
        assert "is empty" in (await trial.kept())[0]
        await asyncio.sleep(1.5 * TOKEN_LIFETIME_MS / 1000)
        await trial.goes_on()
        mount(tmp_path / "token", {"token": token(90)})
        await trial.logged(RENEWED, 2)
    assert [
        line for line in member.events() if "onnection" in line["event"] and line["level"] != "info"
    ] == []


async def test_a_client_secret_turns_over_whichever_side_hears_of_it_first(
    kafka: SecureBroker, trial: Trial
) -> None:
    accepted = ["first"]

    async def answer(request: web.Request) -> web.Response:
        if BasicAuth.decode(request.headers["Authorization"]).password not in accepted:
            return web.json_response({"error": "invalid_client"}, status=401)
        return web.json_response({"access_token": token(20), "expires_in": 20})

    async with served(answer) as url:
        trial.keep(kafka_client_secret="first")
        security = {
            "protocol": "sasl_plaintext",
            "mechanism": "OAUTHBEARER",
            "oauth__token_url": url,
            "oauth__client_id": USER,
        }
        async with trial.under_load(variables(kafka, "TOKENS", security)):
            trial.keep(kafka_client_secret="second")
            await trial.logged(KEPT, 1)
            assert "refuses our client (401 invalid_client)" in (await trial.kept())[0]
            await trial.goes_on()
            accepted[:] = ["second"]
            await trial.logged(RENEWED, 1)
            assert await trial.kept() == []

            accepted[:] = ["third"]
            await trial.goes_on()
            trial.keep(kafka_client_secret="third")
            await trial.logged(RENEWED, 2)


@asynccontextmanager
async def served(answer: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """Its address."""
    app = web.Application()
    app.router.add_post("/token", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "localhost", 0).start()
        yield f"http://localhost:{runner.addresses[0][1]}/token"
    finally:
        await runner.cleanup()


async def test_a_connection_that_a_broker_would_end_is_renewed_before_and_no_request_is_lost(
    kafka: SecureBroker, tmp_path: Path
) -> None:
    """A broker ends a connection whose time is over at its next request, which then has no answer."""
    (tmp_path / "token").write_text(token(3600), "ascii")
    settings = loaded(kafka, "TOKENS", {**TOKENS, "oauth__token_file": str(tmp_path / "token")})
    client = AIOKafkaClient(**Access(settings.kafka, settings.secret).arguments())
    await client.bootstrap()
    used = set()
    try:
        began = time.monotonic()
        while time.monotonic() - began < 2.5 * TOKEN_LIFETIME_MS / 1000:
            node = client.get_random_node()
            await client.send(node, MetadataRequest([]))
            used |= set(client._conns.values())
            await asyncio.sleep(0.02)
    finally:
        await client.close()
    assert len(used) >= 3
