"""From settings to what aiokafka is given: files that do not go together, tokens, and addresses where no one is."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiokafka.conn
import pytest
import uvloop
from aiohttp import web
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.admin import ApiVersionRequest

from consumer.connection import (
    ClientToken,
    FileToken,
    TokenError,
    arguments,
    member_arguments,
    reach,
    secrets_in_use,
)
from consumer.core.errors import BrokerUnavailableError, ConfigurationError
from consumer.settings import OAuth, Settings, load_settings
from tests.pki import Authority

FILE = """\
kafka:
  bootstrap_servers: [kafka-1:9092]
  topics: {events: charging-completed}
  security:
"""
REST = """\
rules: rules.yaml
privacy: {plates: none}
secrets: {kafka_password: a password, empty_handed: other, kafka_client_secret: a client secret}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A CA, a certificate and a key of it, another key, an encrypted one, and files that are none of these."""
    authority = Authority(tmp_path, "ca")
    authority.issue("client")
    authority.issue("other")
    authority.issue("locked", password="a password")
    (tmp_path / "nothing.pem").write_text("nothing", "utf-8")
    return tmp_path


def loaded(folder: Path, *lines: str) -> Settings:
    file = folder / "settings.yaml"
    file.write_text(FILE + "".join(f"    {line}\n" for line in lines) + REST, "utf-8")
    return load_settings(file, {})


def problems(folder: Path, *lines: str) -> list[str]:
    """Without the folder's name."""
    with pytest.raises(ConfigurationError) as refused:
        loaded(folder, *lines)
    return [str(problem).replace(f"{folder}/", "") for problem in refused.value.problems]


# -- Settings -----------------------------------------------------------------------------------------


def test_without_protection_nothing_is_said_of_it(folder: Path) -> None:
    found = arguments(loaded(folder, "{}").kafka, str)

    assert found == {
        "bootstrap_servers": ["kafka-1:9092"],
        "client_id": "charging-coupon",
        "request_timeout_ms": 20_000,
        "metadata_max_age_ms": 30_000,
        "connections_max_idle_ms": 180_000,
        "security_protocol": "PLAINTEXT",
    }


def test_paths_are_relative_to_the_settings_file_and_the_password_is_the_secrets_text(folder: Path) -> None:
    settings = loaded(
        folder,
        "protocol: sasl_ssl",
        "ca_file: ca.pem",
        "certificate_file: locked.crt",
        "key_file: locked.key",
        "key_password: kafka_password",
        "mechanism: SCRAM-SHA-512",
        "username: charging",
    )
    found = arguments(settings.kafka, settings.secret)

    assert settings.kafka.security.ca_file == folder / "ca.pem"
    assert secrets_in_use(settings.kafka, settings.secret) == ["a password", "a password"]
    assert found["security_protocol"] == "SASL_SSL"
    assert found["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (found["sasl_plain_username"], found["sasl_plain_password"]) == ("charging", "a password")
    assert len(found["ssl_context"].get_ca_certs()) == 1
    assert found["ssl_context"].check_hostname
    assert found["ssl_context"].verify_mode is ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("lines", "secrets"),
    [
        (["protocol: ssl", "password: empty_handed"], []),
        (["protocol: sasl_plaintext", "mechanism: OAUTHBEARER", "oauth: {token_file: t}"], []),
        (
            [
                "protocol: sasl_plaintext",
                "mechanism: OAUTHBEARER",
                "oauth: {token_url: https://x/t, client_id: c}",
            ],
            ["a client secret"],
        ),
    ],
)
def test_secrets_that_are_not_used_are_not_asked_for(
    folder: Path, lines: list[str], secrets: list[str]
) -> None:
    settings = loaded(folder, *lines)

    assert secrets_in_use(settings.kafka, settings.secret) == secrets


def test_without_the_check_of_the_host_the_certificate_is_checked_still(folder: Path) -> None:
    settings = loaded(folder, "protocol: ssl", "ca_file: ca.pem", "check_hostname: false")
    context = arguments(settings.kafka, settings.secret)["ssl_context"]

    assert not context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_a_file_that_is_gone_since_the_settings_were_read_is_named(folder: Path) -> None:
    settings = loaded(folder, "protocol: ssl", "ca_file: ca.pem")
    (folder / "ca.pem").unlink()

    with pytest.raises(
        ConfigurationError, match=r"kafka\.security\.ca_file: .* cannot be read: No such file"
    ):
        arguments(settings.kafka, settings.secret)


def test_rack_and_static_membership_are_the_consumers(folder: Path) -> None:
    kafka = load_settings(
        None,
        {
            "CHARGING_COUPON__KAFKA__BOOTSTRAP_SERVERS": "kafka-1:9092",
            "CHARGING_COUPON__KAFKA__TOPICS__EVENTS": "e",
            "CHARGING_COUPON__KAFKA__CLIENT_RACK": "zone-a",
            "CHARGING_COUPON__KAFKA__GROUP_INSTANCE_ID": "member-1",
            "CHARGING_COUPON__RULES": "r",
            "CHARGING_COUPON__PRIVACY__PLATES": "none",
        },
    ).kafka

    assert member_arguments(kafka) == {"client_rack": "zone-a", "group_instance_id": "member-1"}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            ["ca_file: ca.pem", "username: charging"],
            [
                (
                    "settings.yaml:5:5: kafka.security.ca_file is set, but kafka.security.protocol is plaintext: nothing "
                    "would be encrypted; set kafka.security.protocol to ssl or sasl_ssl, or remove it"
                ),
                (
                    "settings.yaml:6:5: kafka.security.username is set, but kafka.security.protocol is plaintext: no user "
                    "would be told; set kafka.security.protocol to sasl_ssl or sasl_plaintext, or remove it"
                ),
            ],
        ),
        (
            ["protocol: sasl_plaintext"],
            [
                (
                    "settings.yaml:4:3: kafka.security.mechanism is missing: kafka.security.protocol is sasl_plaintext; "
                    "set it to what the brokers offer: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"
                ),
            ],
        ),
        (
            ["protocol: sasl_ssl", "ca_file: nowhere.pem", "mechanism: PLAIN", "password: hunter2"],
            [
                (
                    "settings.yaml:6:5: kafka.security.ca_file nowhere.pem cannot be read: No such file or directory; "
                    "name a PEM file with the brokers' CA certificates"
                ),
                "settings.yaml:4:3: kafka.security.username is missing: PLAIN needs it; set it to our Kafka user",
                (
                    "settings.yaml:8:5: kafka.security.password names a secret that is neither in secrets nor in "
                    "secrets_dir; write here only its name (such as kafka_password), and its text there"
                ),
            ],
        ),
        (
            ["protocol: ssl", "ca_file: nothing.pem", "certificate_file: client.crt", "key_file: other.key"],
            [
                (
                    "settings.yaml:6:5: kafka.security.ca_file nothing.pem holds no certificate in PEM form; it is to hold "
                    "-----BEGIN CERTIFICATE----- blocks; a Java keystore has to be exported first"
                ),
                (
                    "settings.yaml:8:5: kafka.security.key_file other.key is not the key of the certificate in client.crt; "
                    "name the two that belong together"
                ),
            ],
        ),
        (
            ["protocol: ssl", "certificate_file: nothing.pem", "key_file: client.key"],
            [
                (
                    "settings.yaml:6:5: kafka.security.certificate_file nothing.pem holds no certificate in PEM form; "
                    "it is to begin with our certificate's -----BEGIN CERTIFICATE----- block"
                ),
            ],
        ),
        (
            ["protocol: ssl", "certificate_file: client.crt", "key_file: nothing.pem"],
            [
                (
                    "settings.yaml:7:5: kafka.security.key_file nothing.pem holds no private key in PEM form; "
                    "it is to hold a -----BEGIN ... PRIVATE KEY----- block"
                ),
            ],
        ),
        (
            ["protocol: ssl", "certificate_file: client.crt"],
            [
                (
                    "settings.yaml:6:5: kafka.security.certificate_file client.crt holds no private key in PEM form; "
                    "it is to hold a -----BEGIN ... PRIVATE KEY----- block"
                ),
            ],
        ),
        (
            ["protocol: ssl", "key_file: client.key"],
            [
                "settings.yaml:6:5: kafka.security.key_file is set without certificate_file; set both, or neither",
            ],
        ),
        (
            ["protocol: ssl", "certificate_file: locked.crt", "key_file: locked.key"],
            [
                (
                    "settings.yaml:7:5: kafka.security.key_file locked.key is encrypted; "
                    "name the secret with its password in key_password"
                ),
            ],
        ),
        (
            [
                "protocol: ssl",
                "certificate_file: locked.crt",
                "key_file: locked.key",
                "key_password: empty_handed",
            ],
            [
                (
                    "settings.yaml:7:5: kafka.security.key_file locked.key is not decrypted by the secret of key_password; "
                    "correct the secret"
                ),
            ],
        ),
        (
            ["protocol: sasl_plaintext", "mechanism: OAUTHBEARER"],
            [
                (
                    "settings.yaml:4:3: kafka.security.oauth is to say where the token comes from: in one of token_file "
                    "and token_url; set the one, and not the other"
                ),
            ],
        ),
        (
            [
                "protocol: sasl_plaintext",
                "mechanism: OAUTHBEARER",
                "oauth: {token_url: https://login.example/token}",
            ],
            [
                (
                    "settings.yaml:7:5: kafka.security.oauth.client_id is missing: oauth.token_url needs it; "
                    "set it to our client's id"
                ),
            ],
        ),
    ],
)
def test_what_does_not_go_together_is_named_all_at_once(
    folder: Path, lines: list[str], expected: list[str]
) -> None:
    assert sorted(problems(folder, *lines)) == sorted(expected)


def test_a_password_that_is_nowhere_is_missed_with_what_to_do(folder: Path) -> None:
    file = folder / "settings.yaml"
    security = "    {protocol: sasl_plaintext, mechanism: PLAIN, username: charging}\n"
    file.write_text(FILE + security + REST.replace("kafka_password", "another"), "utf-8")

    with pytest.raises(ConfigurationError) as refused:
        load_settings(file, {})
    assert str(refused.value) == (
        f"{file}:4:3: kafka.security.password needs a secret: CHARGING_COUPON__SECRETS__KAFKA_PASSWORD: "
        "the secret 'kafka_password' is nowhere; set this variable, or secrets_dir"
    )


# -- Tokens -------------------------------------------------------------------------------------------


class Endpoint:
    """Gives tokens, counts how often it was asked, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, dict[str, Any]]] = []
        self.reply: tuple[int, Any] = (200, {"access_token": "token-{}", "expires_in": 100})
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.headers.get("Authorization"), dict(await request.post())))
        status, body = self.reply
        if "access_token" in body:
            body = {**body, "access_token": body["access_token"].format(len(self.asked))}
        return web.json_response(body, status=status)


@asynccontextmanager
async def listening(tls: ssl.SSLContext | None = None) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    app = web.Application()
    app.router.add_post("/token", endpoint.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "localhost", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    endpoint.url = f"{'https' if tls else 'http'}://localhost:{port}/token"
    try:
        yield endpoint
    finally:
        await runner.cleanup()


def client_token(url: str, clock: Any = None, trust: ssl.SSLContext | None = None) -> ClientToken:
    oauth = OAuth(token_url=url, client_id="charging", scope="kafka")
    trust = trust or ssl.create_default_context()
    return ClientToken(oauth, "a client secret", trust, *([clock] if clock else []))


async def test_a_token_is_asked_for_once_and_again_well_before_it_expires() -> None:
    now = 1000.0
    async with listening() as endpoint:
        provider = client_token(endpoint.url, lambda: now)
        assert set(await asyncio.gather(*(provider.token() for _ in range(5)))) == {"token-1"}
        now += 69
        assert await provider.token() == "token-1"
        now += 2
        assert await provider.token() == "token-2"
    assert (
        endpoint.asked
        == [
            ("Basic Y2hhcmdpbmc6YSBjbGllbnQgc2VjcmV0", {"grant_type": "client_credentials", "scope": "kafka"})
        ]
        * 2
    )


async def test_a_token_serves_until_shortly_before_it_expires_where_there_is_no_other() -> None:
    now = 1000.0
    async with listening() as endpoint:
        provider = client_token(endpoint.url, lambda: now)
        assert await provider.token() == "token-1"
        endpoint.reply = (503, {})
        now += 79
        assert await provider.token() == "token-1"
        now += 2
        with pytest.raises(TokenError, match="answers 503"):
            await provider.token()


async def test_the_endpoints_certificate_may_be_of_a_ca_of_ones_own(folder: Path) -> None:
    authority = Authority(folder, "own")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*authority.issue("endpoint", "localhost"))
    trust = ssl.create_default_context()
    async with listening(server) as endpoint:
        with pytest.raises(
            TokenError, match=r"shows a certificate that we do not trust \(self-signed certificate"
        ):
            await client_token(endpoint.url).token()
        trust.load_verify_locations(authority.ca)
        assert await client_token(endpoint.url, trust=trust).token() == "token-1"


@pytest.mark.parametrize(
    ("reply", "said", "remedy"),
    [
        (
            (401, {"error": "invalid_client", "error_description": "a client secret"}),
            "refuses our client (401 invalid_client)",
            "correct kafka.security.oauth.client_id, scope, or the secret of client_secret",
        ),
        ((503, {}), "answers 503 and gives no token", "correct kafka.security.oauth.token_url"),
        ((200, {"token": "x"}), "answers 200 and gives no token", "correct kafka.security.oauth.token_url"),
    ],
)
async def test_an_endpoint_that_gives_no_token_is_named_with_what_it_said(
    reply: tuple[int, Any], said: str, remedy: str
) -> None:
    async with listening() as endpoint:
        endpoint.reply = reply
        with pytest.raises(TokenError) as refused:
            await client_token(endpoint.url).token()
    assert refused.value.trouble == f"the token endpoint {endpoint.url} {said}"
    assert refused.value.remedy == remedy


async def test_an_endpoint_that_is_not_there_is_named() -> None:
    with pytest.raises(TokenError, match="cannot be reached"):
        await client_token(f"http://localhost:{free_port()}/token").token()


async def test_a_token_file_is_read_again_for_every_connection(tmp_path: Path) -> None:
    file = tmp_path / "token"
    provider = FileToken(file)
    file.write_bytes(b"first\r\n")
    assert await provider.token() == "first"
    file.write_text("second", "utf-8")
    assert await provider.token() == "second"


@pytest.mark.parametrize(
    ("text", "said"), [("\n", "{file} is empty"), ("Bearer abc", "{file} holds no token")]
)
async def test_a_token_file_without_one_is_told_unless_there_was_one(
    tmp_path: Path, text: str, said: str
) -> None:
    (file := tmp_path / "token").write_text(text, "utf-8")
    with pytest.raises(TokenError) as refused:
        await (provider := FileToken(file)).token()
    assert refused.value.trouble == said.format(file=file)

    file.write_text("first", "utf-8")
    assert await provider.token() == "first"
    file.write_text(text, "utf-8")
    assert await provider.token() == "first"


# -- No one there -------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


async def test_servers_where_nothing_listens_are_named_in_one_line() -> None:
    ports = sorted([free_port(), free_port()])
    with pytest.raises(BrokerUnavailableError) as away:
        await reach(
            {
                "bootstrap_servers": [f"127.0.0.1:{port}" for port in ports],
                "request_timeout_ms": 1000,
                "security_protocol": "PLAINTEXT",
            }
        )
    at = ", ".join(sorted(f"127.0.0.1:{port}" for port in ports))
    assert str(away.value) == (
        f"Kafka at {at} is not there: nothing listens on this port; "
        "look whether it runs, or correct kafka.bootstrap_servers"
    )


async def test_a_name_without_address_is_told_from_a_server_that_is_silent() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        with pytest.raises(BrokerUnavailableError) as away:
            await reach(
                {
                    "bootstrap_servers": [f"127.0.0.1:{port}", "nowhere.invalid:9092"],
                    "request_timeout_ms": 300,
                    "security_protocol": "PLAINTEXT",
                }
            )
    assert str(away.value) == (
        f"Kafka at 127.0.0.1:{port} does not answer within 0.3 s; look at the network between, whether it runs, "
        "or correct kafka.bootstrap_servers / Kafka at nowhere.invalid:9092 has no address: its name is unknown "
        "here; correct kafka.bootstrap_servers, or look at the DNS"
    )


def test_a_connection_that_was_closed_a_moment_ago_is_a_connection_error() -> None:
    """uvloop raises a RuntimeError of its own, for which nobody waits: the ledger took it for a bug."""
    ended = asyncio.Event()

    async def until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            writer.close()
            ended.set()

    async def send_on_a_closed_one() -> None:
        async with await asyncio.start_server(until_closed, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(host, port)
            connection = aiokafka.conn.AIOKafkaConnection(host, port)
            connection._reader, connection._writer = reader, writer
            connection._read_task = asyncio.ensure_future(asyncio.sleep(0))
            connection._versions = {18: (0, 0)}
            writer.transport.abort()
            await asyncio.sleep(0.05)
            with pytest.raises(KafkaConnectionError):
                connection.send(ApiVersionRequest())
            await ended.wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(send_on_a_closed_one(), 10))
