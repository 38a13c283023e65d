"""A Kafka with a listener for each way of protecting one, good and bad. Starts a broker."""

import asyncio
import base64
import os
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from hashlib import pbkdf2_hmac
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from consumer.core.errors import BrokerUnavailableError
from consumer.sandbox.broker import EmbeddedBroker
from tests.pki import Authority

USER, PASSWORD = "charging", "correct horse battery"
TOKEN_LIFETIME_MS = 4000
"""After it a broker that asks for authentication anew ends the connection."""

PLAIN_USERS = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    f'username="broker" password="b" user_{USER}="{PASSWORD}";'
)
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_OAUTH = (
    "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
    'unsecuredLoginStringClaim_sub="broker";'
)

Security = Mapping[str, str]
"""Settings below `kafka.security`; `__` leads deeper."""

LISTENERS = {
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "EXPIRED": "SSL",
    "ELSEWHERE": "SSL",  # its certificate is for another host
    "STRANGER": "SSL",  # its certificate is of another CA
    "USERS": "SASL_PLAINTEXT",
    "BOTH": "SASL_SSL",
    "TOKENS": "SASL_PLAINTEXT",
    "ASTRAY": "PLAINTEXT",  # sends clients on to where nothing listens
}


class SecureBroker:
    """Attributes: `at` of each listener its address; `ca` that signed; `other` that is unknown to all."""

    def __init__(self, folder: Path) -> None:
        self.ca = Authority(folder, "our-ca")
        self.other = Authority(folder, "other-ca")
        self.certificate, self.key = self.ca.issue("client")
        ports = _free_ports(len(LISTENERS) + 1)
        self.nowhere = ports.pop()
        self.at = {name: f"localhost:{port}" for name, port in zip(LISTENERS, ports, strict=True)}
        self.broker = EmbeddedBroker(properties=self._properties(folder))
        self._versions = 0

    @property
    def plain(self) -> str:
        """Its listener for everyone."""
        return self.broker.bootstrap_servers

    async def start(self) -> None:
        """Started, with its users of SCRAM."""
        await self.broker.start()
        await self.use_password(PASSWORD)

    async def use_password(self, password: str) -> None:
        """Of the users of SCRAM, which Kafka keeps in its own log; from the next connection on."""
        client = AIOKafkaClient(bootstrap_servers=self.plain)
        await client.bootstrap()
        try:
            reply = await client.send(client.get_random_node(), _AlterScramCredentials(password))
        finally:
            await client.close()
        assert [row[1] for row in reply.results] == [0, 0], reply

    async def use_stores(self, listener: str, own: tuple[Path, Path], trusted: Sequence[Authority]) -> None:
        """Of a listener with TLS: the certificate that it shows, and the CAs of those that it lets in; likewise."""
        self._versions += 1
        stores = {
            "keystore": own[0].read_bytes() + own[1].read_bytes(),
            "truststore": b"".join(each.ca.read_bytes() for each in trusted),
        }
        changes = {}
        for store, content in stores.items():
            file = self.ca.folder / f"{listener}-{store}-{self._versions}.pem"
            file.write_bytes(content)
            changes[f"listener.name.{listener}.ssl.{store}.location"] = str(file)
        async with admin(self.plain) as client:
            _, reply = await client.alter_configs([ConfigResource(ConfigResourceType.BROKER, "1", changes)])
        assert [row[0] for row in reply.resources] == [0], reply

    def _properties(self, folder: Path) -> dict[str, str]:
        good = self.ca.issue("broker", "localhost", "127.0.0.1")
        keys = {
            "tls": good,
            "mutual": good,
            "both": good,
            "expired": self.ca.issue("expired", "localhost", days=-1),
            "elsewhere": self.ca.issue("elsewhere", "kafka.example"),
            "stranger": self.other.issue("stranger", "localhost"),
        }
        found = {
            "listeners": ",".join(f"{name}://{at}" for name, at in self.at.items()),
            "advertised.listeners": ",".join(
                f"{name}://{at if name != 'ASTRAY' else f'localhost:{self.nowhere}'}"
                for name, at in self.at.items()
            ),
            "listener.security.protocol.map": ",".join(
                f"{name}:{protocol}"
                for name, protocol in {
                    **LISTENERS,
                    "PLAINTEXT": "PLAINTEXT",
                    "CONTROLLER": "PLAINTEXT",
                }.items()
            ),
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.users.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
            "listener.name.both.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.tokens.sasl.enabled.mechanisms": "OAUTHBEARER",
            "listener.name.tokens.oauthbearer.sasl.jaas.config": _OAUTH,
            "listener.name.tokens.oauthbearer.connections.max.reauth.ms": str(TOKEN_LIFETIME_MS),
        }
        for listener in ("users", "both"):
            found[f"listener.name.{listener}.plain.sasl.jaas.config"] = PLAIN_USERS
            found[f"listener.name.{listener}.scram-sha-256.sasl.jaas.config"] = _SCRAM
            found[f"listener.name.{listener}.scram-sha-512.sasl.jaas.config"] = _SCRAM
        for listener, (certificate, key) in keys.items():
            store = folder / f"{listener}-store.pem"
            store.write_bytes(certificate.read_bytes() + key.read_bytes())
            prefix = f"listener.name.{listener}.ssl"
            found[f"{prefix}.keystore.type"] = found[f"{prefix}.truststore.type"] = "PEM"
            found[f"{prefix}.keystore.location"] = str(store)
            found[f"{prefix}.truststore.location"] = str(self.ca.ca)
        return found


class _AlterScramCredentialsReplyV0(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString("utf-8")),
                ("error_code", Int16),
                ("error_message", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterScramCredentialsV0(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
    FLEXIBLE_VERSION = True
    API_KEY = 51
    API_VERSION = 0
    RESPONSE_TYPE = _AlterScramCredentialsReplyV0
    SCHEMA = Schema(
        ("deletions", CompactArray(Int8)),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterScramCredentials(Request[_AlterScramCredentialsV0]):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 51

    def __init__(self, password: str) -> None:
        self._password = password

    def build(self, request_struct_class: Any) -> Any:
        salt = b"salt of the tests"
        return request_struct_class(
            [],
            [
                (
                    f"{USER}{suffix}",
                    kind,
                    4096,
                    salt,
                    pbkdf2_hmac(name, self._password.encode(), salt, 4096),
                    {},
                )
                for suffix, kind, name in (("", 1, "sha256"), ("-512", 2, "sha512"))
            ],
            {},
        )


def token(seconds: float) -> str:
    """A JWT that no one signed, as a broker for trials takes it; good for so long."""
    claims = {"sub": USER, "iat": time.time() - 2 * 86400, "exp": time.time() + seconds}
    parts = (orjson.dumps({"alg": "none"}), orjson.dumps(claims))
    return ".".join([*(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts), ""])


def variables(kafka: SecureBroker, listener: str, security: Security) -> dict[str, str]:
    """The settings as the environment's; `{folder}` is where the certificates are."""
    prefix = "CHARGING_COUPON__KAFKA__"
    return {
        f"{prefix}BOOTSTRAP_SERVERS": kafka.at[listener],
        f"{prefix}REQUEST_TIMEOUT": "5s",
        **{
            f"{prefix}SECURITY__{name.upper()}": value.format(folder=kafka.ca.folder)
            for name, value in security.items()
        },
    }


@contextmanager
def running(folder: Path) -> Iterator[SecureBroker]:
    """Started, and taken down again. Certificates are in the folder."""
    broker = SecureBroker(folder)
    try:
        _run(broker.start())
        yield broker
    except BrokerUnavailableError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no Kafka: {error}")
    finally:
        _run(broker.broker.stop())


@asynccontextmanager
async def admin(broker: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """For whatever administrators do."""
    client = AIOKafkaAdminClient(bootstrap_servers=broker)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


def _run(task: Coroutine[Any, Any, None]) -> None:
    """On the main thread, since Kafka ends with the thread that started it; leaves pytest's loop alone."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(task)
    finally:
        loop.close()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
