"""Secrets and certificates of the way to the platform that turn over under load: nothing is rejected, nothing restarts."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from consumer import certificates
from consumer.core.replies import Answered
from consumer.gateway import HttpGateway, Options
from consumer.sandbox.gateway import SandboxGateway
from tests.broker.audit import audit
from tests.broker.kafka import Topics, traffic, until
from tests.broker.world import APP_ID, SECRET, Member, World, just_now
from tests.mounts import mount
from tests.pki import Authority

pytestmark = [pytest.mark.broker, pytest.mark.long]


class Platform:
    """Over TLS: it shows one certificate, and lets those in who have one of a CA that it trusts."""

    def __init__(self, authority: Authority) -> None:
        self.apps = {APP_ID: SECRET}
        first = self.use(authority, [authority])
        first.sni_callback = self._choose
        self.gateway = SandboxGateway(apps=self.apps, latency=0.1, tls=first)

    def use(self, authority: Authority, trusted: Sequence[Authority]) -> ssl.SSLContext:
        """From the next handshake on."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*authority.issue("server", "localhost"))
        for each in trusted:
            self._context.load_verify_locations(each.ca)
        self._context.verify_mode = ssl.CERT_REQUIRED
        return self._context

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _host: str | None, _first: ssl.SSLContext
    ) -> None:
        connection.context = self._context


class Files:
    """The service's, as Kubernetes mounts them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tls: dict[str, bytes] = {}
        self._secrets: dict[str, str] = {}

    def trust(self, *authorities: Authority) -> None:
        self._tls["ca.pem"] = b"".join(each.ca.read_bytes() for each in authorities)
        mount(self._folder / "tls", self._tls)

    def identify(self, authority: Authority, name: str) -> None:
        """By another certificate, whose key has another password: in the one folder and, a moment later, in the other."""
        certificate, key = authority.issue(name, password=f"password of {name}")
        self._tls |= {"tls.crt": certificate.read_bytes(), "tls.key": key.read_bytes()}
        mount(self._folder / "tls", self._tls)
        self.keep(key_password=f"password of {name}")

    def keep(self, **secrets: str) -> None:
        self._secrets |= secrets
        mount(self._folder / "secrets", self._secrets)


@pytest.fixture
def authorities(tmp_path: Path) -> tuple[Authority, Authority]:
    return Authority(tmp_path, "old-ca"), Authority(tmp_path, "new-ca")


@pytest.fixture
async def platform(authorities: tuple[Authority, Authority]) -> AsyncIterator[Platform]:
    platform = Platform(authorities[0])
    async with platform.gateway:
        yield platform


@pytest.fixture
async def world(broker: str, topics: Topics, tmp_path: Path, platform: Platform) -> AsyncIterator[World]:
    url = platform.gateway.url.replace("127.0.0.1", "localhost")
    world = World(broker, topics, tmp_path, url)
    text = world.settings.read_text("utf-8")
    given = next(line for line in text.splitlines() if line.startswith("secrets:"))
    ways = "ca_file: tls/ca.pem, certificate_file: tls/tls.crt, key_file: tls/tls.key, key_password: key_password"
    text = text.replace(given, "secrets_dir: secrets")
    text = text.replace("total_timeout: 5s", f"total_timeout: 5s, connection_lifetime: 1s, {ways}")
    world.settings.write_text(text, "utf-8")
    try:
        yield world
    finally:
        world.end()


async def noticed(member: Member, event: str, times: int) -> None:
    """Until its log has said so that often."""
    await until(lambda: [line["event"] for line in member.events()].count(event) >= times, 20)


async def test_all_of_them_turn_over_under_load_without_a_restart_and_without_a_rejected_outcome(
    world: World, platform: Platform, authorities: tuple[Authority, Authority], tmp_path: Path
) -> None:
    old, new = authorities
    gateway, files = platform.gateway, Files(tmp_path)
    files.trust(old)
    files.keep(main=SECRET, plate_hash="a key for plates")
    files.identify(old, "first")
    member = world.start()
    async with traffic(world.broker, world.topics.events, just_now, 60) as sent:
        await world.until_outcomes(60)

        # The platform's certificate comes from another CA: for a while both are trusted.
        files.trust(old, new)
        await noticed(member, "credentials.files_changed", 1)
        platform.use(new, trusted=[old])
        await asyncio.sleep(2)
        files.trust(new)
        await noticed(member, "credentials.files_changed", 2)

        # So does ours: for a while the platform lets both in.
        platform.use(new, trusted=[old, new])
        files.identify(new, "second")
        await noticed(member, "credentials.files_changed", 3)
        platform.use(new, trusted=[new])
        await asyncio.sleep(2)

        # The secret is written down here first, and is found when the old one is refused.
        files.keep(main="the second secret")
        platform.apps[APP_ID] = "the second secret"
        await noticed(member, "secrets.reloaded", 2)
        await asyncio.sleep(1)
        alarm = "the platform refuses this account; its orders wait, none is dropped"
        assert alarm not in [line["event"] for line in member.events()]

        # And it is exchanged there first: the line stops until it is written down here.
        platform.apps[APP_ID] = "the third secret"
        await noticed(member, alarm, 1)
        await asyncio.sleep(1)
        files.keep(main="the third secret")
        done = gateway.journal.answers["1001"]
        await until(lambda: gateway.journal.answers["1001"] > done + 60, 10)

    await world.until_done(60)
    refused, gateway.journal.unverified = gateway.journal.unverified, 0
    books = await audit(world, gateway, range(sent.sent))
    print(f"{sent.sent} events, {refused} calls refused for their signature meanwhile")
    assert {each["outcome"] for each in books.outcomes} == {"granted"}
    assert refused
    _, metrics = await member.get("/metrics")
    assert "coupon_assignments_total 1.0\n" in metrics
    assert "coupon_credentials_kept 0.0\n" in metrics
    log = member.log.read_text("utf-8")
    assert not [each for each in (SECRET, "the second secret", "the third", "password of") if each in log]
    await old_ones_are_of_no_more_use(gateway.url.replace("127.0.0.1", "localhost"), old, new, tmp_path)
    assert await member.stop() == 0


async def old_ones_are_of_no_more_use(url: str, old: Authority, new: Authority, folder: Path) -> None:
    """Else the trial would have shown nothing."""
    first = folder / "first.crt", folder / "first.key", "password of first"
    second = folder / "second.crt", folder / "second.key", "password of second"
    for ca, identity, works in ((new.ca, second, True), (new.ca, first, False), (old.ca, second, False)):
        async with HttpGateway(Options(tls=partial(certificates.context, ca, *identity))) as client:
            assert isinstance(await client.post(url, b""), Answered) is works
