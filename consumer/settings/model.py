"""The settings themselves, each with unit, default and reason; which of them do not agree. Reads secret files."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from consumer import certificates, schemas
from consumer.core.errors import ConfigurationError, Problem
from consumer.core.outcomes import PlateMode, Privacy
from consumer.settings.values import (
    BYTES,
    PREFIX,
    SECONDS,
    Count,
    Delays,
    Duration,
    Port,
    Rate,
    Retention,
    Secret,
    SecretName,
    Servers,
    Size,
    StartFrom,
    TopicName,
    TopicNames,
    Word,
    canonical,
    headers_of,
    in_largest,
    secret_names,
    unseen_in,
    web_address,
    without_newline,
)

PLATE_HASH_SECRET = "plate_hash"  # noqa: S105  # the name of a secret, not one
HASH_KEY_BYTES = 16
"""Fewer can be guessed, and with them every plate: there are not many."""

LONGEST_TOPIC = 249
"""Characters that Kafka takes in a topic's name."""

Location = tuple[str | int, ...]
"""The names that lead to a setting."""

DEFAULT = "its default"
"""The place of what nobody has set."""


class Group(BaseModel):
    """Settings that belong together: never changed once read, unknown names refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


class Topics(Group):
    """The topics, by what they are for."""

    events: TopicNames
    """Topics with charging-completed events. No default: nothing is guessed."""

    outcomes: TopicName = "coupon-outcomes"
    """Topic of the outcomes, one for every order. Default `coupon-outcomes`."""

    dead_letters: TopicName = "coupon-dead-letters"
    """Topic of the originals that a person has to look at. Default `coupon-dead-letters`."""

    retries: TopicName = "coupon-retries"
    """Prefix of the retry topics, one for each of `retries.delays`. Default `coupon-retries`: `coupon-retries.1m` ..."""

    partitions: Count = 3
    """Partitions of each of these, at least, as `topics` checks and creates them. Default 3: three can share the work."""

    outcomes_retention: Retention = 90 * 86400.0
    """How long outcomes are kept, as `topics` checks and creates it. Default 90d: a quarter's complaints and accounts."""

    dead_letters_retention: Retention = 30 * 86400.0
    """How long dead letters are kept, likewise. Default 30d: they hold whole plates, and are mended within days."""

    retries_retention: Retention = 7 * 86400.0
    """How long retry topics keep what waits in them, likewise. Default 7d: longer than the service may be away."""


class OAuth(Group):
    """Where the token for the mechanism OAUTHBEARER comes from: a file, or an endpoint that gives it to a client."""

    token_file: Path | None = None
    """File with the token, read again for every connection. Default none. In the settings file relative to its folder."""

    token_url: Annotated[str, AfterValidator(web_address)] | None = None
    """Endpoint of the client-credentials grant. Default none. Its certificate may be of a CA in `ca_file`, too."""

    client_id: Word | None = None
    """Who asks there. Default none; needed with `token_url`."""

    client_secret: SecretName = "kafka_client_secret"  # noqa: S105  # the name of a secret, not one
    """Name of the secret that the client proves itself with. Default `kafka_client_secret`."""

    scope: Word | None = None
    """Scope that is asked for. Default none."""


class Security(Group):
    """How the connection to Kafka is protected, and who we are there. Files and secrets that change are followed."""

    protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    """`ssl`: TLS. `sasl_`: a user is told, too. Default `plaintext`."""

    ca_file: Path | None = None
    """PEM file of the CAs that sign the brokers' certificates. Default the system's. Paths in the settings file
    are relative to its folder."""

    certificate_file: Path | None = None
    """PEM file of our own certificate and its chain, where the brokers want one. Default none."""

    key_file: Path | None = None
    """PEM file of its private key. Default: in `certificate_file`."""

    key_password: SecretName | None = None
    """Name of the secret that decrypts the key. Default none: it is not encrypted."""

    check_hostname: bool = True
    """Whether a broker's certificate must be for the name that we reach it by. Default true."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """SASL mechanism; needed with `sasl_plaintext` and `sasl_ssl`. Default none."""

    username: Word | None = None
    """User of PLAIN and SCRAM. Default none."""

    password: SecretName = "kafka_password"  # noqa: S105  # the name of a secret, not one
    """Name of the secret that holds the user's password. Default `kafka_password`."""

    oauth: OAuth = OAuth()
    """Tokens of OAUTHBEARER."""

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.protocol in {"ssl", "sasl_ssl"}

    @property
    def sasl(self) -> bool:
        """Whether a user is told."""
        return self.protocol in {"sasl_plaintext", "sasl_ssl"}


class Kafka(Group):
    """How Kafka is reached, and the group's membership."""

    bootstrap_servers: Servers
    """First contacts, `host:port` (`[::1]:9092` for IPv6), a list or comma-separated. No default."""

    security: Security = Security()
    """TLS and SASL."""

    topics: Topics
    """The topics."""

    group_id: Word = "charging-coupon"
    """Consumer group, and prefix of the transactional ids. Default `charging-coupon`."""

    client_id: Word = "charging-coupon"
    """Name that the brokers' logs and quotas show. Default `charging-coupon`."""

    client_rack: Word | None = None
    """Where we stand (a zone, as in the brokers' `broker.rack`), to read from a replica near by. Default none."""

    group_instance_id: Word | None = None
    """Name of this one member, unlike any other's: restarted within `session_timeout`, it keeps its partitions
    without a rebalance. Default none."""

    start_from: StartFrom = "earliest"
    """Where a group without offsets begins: `earliest`, `latest`, or at the first record of a time with its zone,
    `2026-03-01T00:00:00+08:00`. Default `earliest`, so that no charge is passed over, not even in a
    partition that is added later. With `latest` such a partition is read from its first record only by a member
    that was started before that record was written, and else from its end."""

    session_timeout: Duration = 30.0
    """Silence after which the group gives a member's partitions away. Default 30s."""

    rebalance_timeout: Duration = 60.0
    """Time that a rebalance leaves to drain. Default 60s; more than `drain_timeout`."""

    heartbeat_interval: Duration = 3.0
    """Time between heartbeats. Default 3s; at most a third of `session_timeout`."""

    transaction_timeout: Duration = 15.0
    """Age at which a broker ends a dead member's transaction, the last resort. Default 15s."""

    request_timeout: Duration = 20.0
    """Longest wait for a broker's reply. Default 20s."""

    max_message_size: Size = 1_000_000
    """Largest record that the brokers take (their `message.max.bytes`), in bytes. Default 1000000."""

    compression: Literal["gzip", "snappy", "lz4", "zstd", "none"] = "lz4"
    """Compression of what is written. Default `lz4`: the cheapest that outcomes, which repeat themselves, gain much
from. `zstd` takes half of its room, and 1 us more for each outcome."""


class Gateway(Group):
    """How the parking platform is called."""

    url: Annotated[str, AfterValidator(web_address)] = "https://api.4pyun.com/gate/1.0/parking/mcoupon/event"
    """Where coupons are asked for. Default the platform's documented address."""

    client: Literal["builtin", "aiohttp"] = "builtin"
    """Who speaks HTTP: `builtin` is the service's own, and takes a small part of the CPU that aiohttp takes. Default
    `builtin`; where a `proxy` is set it is always aiohttp."""

    max_in_flight: Count = 256
    """Requests under way at once, per process, at most. Default 256: ample for 1000 a second at 0.2 s each."""

    adaptive_limit: bool = True
    """Whether fewer are under way where more would only queue at the platform, as its latency shows. Default true;
    false where something else already tells the service how much the platform can take."""

    fleet_rate: Rate | None = None
    """Requests a second of all members of the group together; each takes the part of its partitions. Default: no bound;
    set what the platform's operator has allowed."""

    fleet_max_in_flight: Count | None = None
    """Requests under way at once of all members together, likewise. Default: no bound. At least the number of partitions
    of the events topics: each may have one."""

    connect_timeout: Duration = 3.0
    """Longest wait for a connection. Default 3s."""

    read_timeout: Duration = 8.0
    """Longest silence while a reply is awaited or read. Default 8s; a platform that says nothing for that long is away."""

    total_timeout: Duration = 10.0
    """Longest duration of a whole call. Default 10s; the platform's slowest published answer took 2.9 s."""

    max_response_size: Size = 64 << 10
    """Bytes of a reply that are read; the rest is cut off. Default 64KiB; real replies are below 1 KiB."""

    connection_lifetime: Duration = 60.0
    """Age from which a connection takes no more calls. Default 60s: so soon a moved name, and changed certificates, count."""

    ca_file: Path | None = None
    """PEM file of the CAs that sign the platform's certificate, or a proxy's. Default the system's."""

    certificate_file: Path | None = None
    """PEM file of our own certificate and its chain, where the platform wants one. Default none."""

    key_file: Path | None = None
    """PEM file of its private key. Default: in `certificate_file`."""

    key_password: SecretName | None = None
    """Name of the secret that decrypts the key. Default none: it is not encrypted."""

    proxy: Annotated[str, AfterValidator(web_address)] | None = None
    """HTTP proxy on the way to the platform, `http://proxy:3128`. Default none; the environment is not asked."""

    proxy_credentials: SecretName | None = None
    """Name of the secret with the proxy's `user:password`. Default none."""


class Retries(Group):
    """Calls that are made again: within seconds from memory, later from retry topics."""

    max_attempts_now: Count = 3
    """Calls for one order within seconds; then it goes to a retry topic, or its outcome is final. Default 3."""

    base: Duration = 0.5
    """First pause's upper end; it doubles with every try, and the pause is drawn from 0 to it. Default 500ms."""

    cap: Duration = 10.0
    """Upper end of any pause. Default 10s."""

    retry_after_cap: Duration = 30.0
    """Longest pause within seconds that the platform's Retry-After is granted. Default 30s."""

    delays: Delays = (60.0, 300.0, 1800.0)
    """Delays of the retry topics; an order goes from one to the next, and the last repeats until the order's deadline
    (rules file). Default 1m, 5m, 30m. `[]`: no retry topics, an outcome is final after `max_attempts_now`."""


class Intake(Group):
    """What may be held in memory: what was taken in and is not yet committed."""

    max_records: Count = 2000
    """Records held at once; beyond it partitions are paused. Default 2000."""

    max_bytes: Size = 64 << 20
    """Their bytes. Default 64MiB; at least `kafka.max_message_size`. A batch that unpacks to more, and to more than 64MiB,
    counts as damaged."""

    max_unreadable: Annotated[int, Field(ge=0, le=1_000_000)] = 100
    """Records of a topic in a row that cannot be read, after which the topic is paused with an alarm instead of going
    to the dead letters as a whole. Default 100; 0: never."""


class Ledger(Group):
    """When outcomes and offsets are written, in one transaction."""

    flush_interval: Duration = 0.1
    """Longest wait of a finished record for its transaction. Default 100ms."""

    flush_records: Count = 200
    """Finished records at which the transaction is made at once. Default 200."""


class PrivacySettings(Group):
    """What of a plate leaves the service."""

    plates: PlateMode = PlateMode.BOTH
    """Plates in the outcome topic: `clear`, `hash` (keyed, HMAC-SHA256), `both` or `none`. Default `both`.
    `hash` and `both`, so the default too, need the secret `plate_hash`, of 16 bytes or more:
    `openssl rand -base64 32` makes one."""


class Web(Group):
    """The port for metrics and health."""

    host: Word = "::"
    """Address to listen on. Default `::`: all, of IPv6 and of IPv4; a pod is scraped and probed from outside."""

    port: Port = 8080
    """Port to listen on; 0 takes any free one. Default 8080."""


class Tracing(Group):
    """Traces by OpenTelemetry; needs the extra `tracing`, which the image has."""

    endpoint: Annotated[str, AfterValidator(web_address)] | None = None
    """Address of a collector that takes OTLP over HTTP, `http://collector:4318`; spans are posted to `/v1/traces` there.
    Default none: nothing is traced."""

    ca_file: Path | None = None
    """PEM file of the CAs that sign the collector's certificate, read at the start. Default the system's."""

    headers: SecretName | None = None
    """Name of the secret with the headers that the collector wants, as OpenTelemetry writes them:
    `authorization=Bearer%20...,x-scope-orgid=parking`. Default none."""

    sample: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the traces that begin here which are kept; an event with a `traceparent` is traced as that one says.
    Default 1: all."""


class Log(Group):
    """What is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is logged; `debug` has a line for every final outcome. Default `info`."""

    format: Literal["auto", "json", "console"] = "auto"
    """`json`, `console`, or `auto`: console on a terminal, else JSON. Default `auto`."""


class Settings(Group):
    """Everything that a deployment sets. What a coupon is granted for stands in the rules file instead."""

    kafka: Kafka
    """Kafka."""

    rules: Path
    """Path of the YAML file with the coupon rules, or of a folder of such files. No default. A relative path is
    relative to the settings file's folder, in the variable to the working directory."""

    gateway: Gateway = Gateway()
    """The parking platform."""

    retries: Retries = Retries()
    """Calls made again."""

    intake: Intake = Intake()
    """Bounds of memory."""

    ledger: Ledger = Ledger()
    """Writing outcomes."""

    drain_timeout: Duration = 20.0
    """Time for calls under way to end, when stopping and in a rebalance. Default 20s; twice the longest call."""

    secrets: Annotated[dict[str, Secret], BeforeValidator(secret_names)] = Field({}, repr=False)
    """Secrets by name (the rules file names them), best as `CHARGING_COUPON__SECRETS__<NAME>`. Default none;
    `plate_hash` is needed by default, see `privacy.plates`."""

    secrets_dir: Path | None = None
    """Folder with a file for each secret, as Kubernetes mounts them. Default none."""

    privacy: PrivacySettings = PrivacySettings()
    """Plates."""

    web: Web = Web()
    """Metrics and health."""

    log: Log = Log()
    """Logs."""

    tracing: Tracing = Tracing()
    """Traces."""

    guarantee: Literal["exactly_once", "at_least_once"] = "exactly_once"
    """`exactly_once`: one outcome an order, by transactions (Kafka 2.5 or later, and rights to them). `at_least_once`:
    without them; after a crash an outcome can come again under its `outcome_id`. Default `exactly_once`."""

    @property
    def retry_topics(self) -> tuple[str, ...]:
        """Their names, in the order of `retries.delays`."""
        return tuple(
            f"{self.kafka.topics.retries}.{in_largest(delay, SECONDS)}" for delay in self.retries.delays
        )

    def secret(self, name: str) -> str:
        """The secret's text: from `secrets`, else from its file in `secrets_dir`."""
        found = self.secrets.get(canonical(name))
        return found.get_secret_value() if found is not None else self._secret_from_file(name)

    def missing_secrets(self, names: Iterable[str]) -> list[Problem]:
        """What is wrong with the secrets that are named, each once."""
        problems: list[Problem] = []
        for name in dict.fromkeys(names):
            try:
                self.secret(name)
            except ConfigurationError as error:
                problems += error.problems
        return problems

    def plate_privacy(self) -> Privacy:
        """How outcomes show plates, with the key for their hashes."""
        plates = self.privacy.plates
        if not plates.hashed:
            return Privacy(plates)
        try:
            return Privacy(plates, self.secret(PLATE_HASH_SECRET).encode())
        except ConfigurationError as error:
            raise ConfigurationError([_hash_key_missing(plates, error.problems[0])]) from error

    def _secret_from_file(self, name: str) -> str:
        variable = f"{PREFIX}SECRETS__{canonical(name).upper()}"
        if self.secrets_dir is None:
            raise one_problem(
                variable, f"the secret {name!r} is nowhere", "set this variable, or secrets_dir"
            )
        file = self.secrets_dir / name
        if file.parent != self.secrets_dir or name.startswith("."):
            raise one_problem(
                str(self.secrets_dir), f"{name!r} cannot be a secret's name", "use letters, digits and _"
            )
        try:
            text = without_newline(file.read_text("utf-8-sig"))
        except FileNotFoundError:
            raise one_problem(
                str(file), f"no file holds the secret {name!r}", f"write it, or set {variable}"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise one_problem(str(file), f"cannot be read: {why}", "make it a readable UTF-8 file") from None
        if not text:
            raise one_problem(str(file), f"the secret {name!r} is empty", "write its text into the file")
        wrong = unseen_in(text) if name != PLATE_HASH_SECRET else None  # for that any bytes will do
        if wrong is not None:
            raise one_problem(str(file), f"the secret {name!r} {wrong}", "write its text alone into the file")
        return text


class Finding(NamedTuple):
    """Settings that do not agree, or that name what cannot be used."""

    path: Location
    message: str
    remedy: str
    other: Location = ()
    """The setting that it disagrees with: its place is told where `path` has its default."""
    depends: tuple[Location, ...] = ()
    """What else has to be right by itself for this to be so."""
    at: str = ""
    """The place, where it is in none of the settings."""


def disagreements(settings: Settings, told: Callable[[Location], str]) -> Iterator[Finding]:
    """Each value is fine by itself, and two of them are not. `told` says where a setting was set."""
    kafka, retries = settings.kafka, settings.retries
    drain, rebalance = (
        in_largest(settings.drain_timeout, SECONDS),
        in_largest(kafka.rebalance_timeout, SECONDS),
    )
    if settings.drain_timeout >= kafka.rebalance_timeout:
        yield Finding(
            ("drain_timeout",),
            f"({drain}) is not below kafka.rebalance_timeout ({rebalance}): "
            "a rebalance would throw the member out while it drains",
            "lower drain_timeout or raise kafka.rebalance_timeout",
            ("kafka", "rebalance_timeout"),
        )
    if kafka.heartbeat_interval * 3 > kafka.session_timeout:
        yield Finding(
            ("kafka", "heartbeat_interval"),
            f"({in_largest(kafka.heartbeat_interval, SECONDS)}) is more than a third of kafka.session_timeout "
            f"({in_largest(kafka.session_timeout, SECONDS)}): one lost heartbeat would cost the membership",
            "lower kafka.heartbeat_interval or raise kafka.session_timeout",
            ("kafka", "session_timeout"),
        )
    if settings.gateway.connect_timeout > settings.gateway.total_timeout:
        yield Finding(
            ("gateway", "connect_timeout"),
            f"({in_largest(settings.gateway.connect_timeout, SECONDS)}) is longer than gateway.total_timeout "
            f"({in_largest(settings.gateway.total_timeout, SECONDS)})",
            "lower gateway.connect_timeout or raise gateway.total_timeout",
            ("gateway", "total_timeout"),
        )
    if retries.base > retries.cap:
        yield Finding(
            ("retries", "base"),
            f"({in_largest(retries.base, SECONDS)}) is longer than retries.cap ({in_largest(retries.cap, SECONDS)})",
            "lower retries.base or raise retries.cap",
            ("retries", "cap"),
        )
    if settings.intake.max_bytes < kafka.max_message_size:
        yield Finding(
            ("intake", "max_bytes"),
            f"({in_largest(settings.intake.max_bytes, BYTES)}) is less than kafka.max_message_size "
            f"({in_largest(kafka.max_message_size, BYTES)}): the largest record could never be taken in",
            "raise intake.max_bytes",
            ("kafka", "max_message_size"),
        )
    if retries.delays and retries.delays[-1] * 2 > kafka.topics.retries_retention:
        yield Finding(
            ("retries", "delays"),
            f"wait up to {in_largest(retries.delays[-1], SECONDS)}, more than half of "
            f"kafka.topics.retries_retention ({in_largest(kafka.topics.retries_retention, SECONDS)}): "
            "Kafka could remove an order that waits",
            "lower the last delay or raise kafka.topics.retries_retention",
            ("kafka", "topics", "retries_retention"),
        )
    yield from _topic_findings(settings, told)
    yield from _security_findings(kafka.security, settings)
    yield from _gateway_findings(settings)
    yield from _tracing_findings(settings)
    yield from _hash_key_findings(settings)


def _topic_findings(settings: Settings, told: Callable[[Location], str]) -> Iterator[Finding]:
    """A topic that is named for two purposes, or by too long a name."""
    here: Location = ("kafka", "topics")
    topics = settings.kafka.topics
    longest = max(map(len, settings.retry_topics), default=0)
    if longest > LONGEST_TOPIC:
        yield Finding(
            (*here, "retries"),
            f"makes topic names of {longest} characters, and Kafka takes {LONGEST_TOPIC}",
            "shorten it",
        )
    named: dict[str, Location] = {}
    for name, path in (
        *((name, (*here, "events", number)) for number, name in enumerate(topics.events)),
        (topics.outcomes, (*here, "outcomes")),
        (topics.dead_letters, (*here, "dead_letters")),
        *((name, (*here, "retries")) for name in settings.retry_topics),
    ):
        first = named.setdefault(name, path)
        if first != path:
            default = " by default" * (told(path) == DEFAULT)
            yield Finding(
                path,
                f"names the topic {name!r}{default}, and so does {dotted(first)} ({told(first)})",
                "give each a topic of its own",
                first,
            )


_SECURITY = ("kafka", "security")


def _security_findings(security: Security, settings: Settings) -> Iterator[Finding]:
    """Protocol, files, user and token that do not go together, or cannot be used."""
    if security.tls:
        yield from _certificate_findings(security, settings)
    else:
        for name in _FILES:
            if getattr(security, name) is not None:
                yield _finding(
                    name,
                    f"is set, but kafka.security.protocol is {security.protocol}: nothing would be encrypted",
                    "set kafka.security.protocol to ssl or sasl_ssl, or remove it",
                )
    if not security.sasl:
        for name in ("mechanism", "username"):
            if getattr(security, name) is not None:
                yield _finding(
                    name,
                    f"is set, but kafka.security.protocol is {security.protocol}: no user would be told",
                    "set kafka.security.protocol to sasl_ssl or sasl_plaintext, or remove it",
                )
    elif security.mechanism is None:
        yield _finding(
            "mechanism",
            f"is missing: kafka.security.protocol is {security.protocol}",
            "set it to what the brokers offer: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER",
        )
    elif security.mechanism == "OAUTHBEARER":
        yield from _token_findings(security.oauth, settings)
    else:
        if security.username is None:
            yield _finding(
                "username",
                f"is missing: {security.mechanism} needs it",
                "set it to our Kafka user",
                "mechanism",
            )
        yield from _secret_findings("password", security.password, settings, "mechanism")


_FILES = ("ca_file", "certificate_file", "key_file", "key_password")


def _certificate_findings(security: Security, settings: Settings) -> Iterator[Finding]:
    password: str | None = None
    if security.key_password is not None:
        missing = list(_secret_findings("key_password", security.key_password, settings))
        yield from missing
        password = "" if missing else settings.secret(security.key_password)
    for trouble in certificates.troubles(
        security.ca_file, security.certificate_file, security.key_file, password
    ):
        yield _finding(trouble.setting, trouble.message, trouble.remedy, *_FILES)


def _gateway_findings(settings: Settings) -> Iterator[Finding]:
    """Files and secrets of the way to the platform."""
    gateway = settings.gateway
    password: str | None = None
    for name in ("key_password", "proxy_credentials"):
        secret = getattr(gateway, name)
        try:
            found = settings.secret(secret) if secret is not None else None
        except ConfigurationError:
            message = "names a secret that is neither in secrets nor in secrets_dir"
            remedy = f"write here only its name (such as gateway_{name}), and its text there"
            needs: tuple[Location, ...] = (("secrets_dir",), ("secrets", canonical(secret)))
            yield Finding(("gateway", name), message, remedy, depends=needs)
            continue
        if name == "key_password":
            password = found
        elif found is not None and ":" not in found:
            message = "names a secret that is not of the form user:password"
            yield Finding(("gateway", name), message, "write both into it, with a colon between")
    for trouble in certificates.troubles(
        gateway.ca_file, gateway.certificate_file, gateway.key_file, password
    ):
        depends = tuple(("gateway", name) for name in _FILES)
        yield Finding(("gateway", trouble.setting), trouble.message, trouble.remedy, depends=depends)


def _tracing_findings(settings: Settings) -> Iterator[Finding]:
    """Files and secrets of the way to the collector."""
    name = settings.tracing.headers
    if name is not None:
        try:
            headers_of(settings.secret(name))
        except ConfigurationError:
            message = "names a secret that is neither in secrets nor in secrets_dir"
            remedy = "write here only its name (such as tracing_headers), and its text there"
            needs: tuple[Location, ...] = (("secrets_dir",), ("secrets", canonical(name)))
            yield Finding(("tracing", "headers"), message, remedy, depends=needs)
        except ValueError as error:
            yield Finding(("tracing", "headers"), f"names a secret that {error}", "correct the secret's text")
    for trouble in certificates.troubles(settings.tracing.ca_file, None, None, None):
        yield Finding(("tracing", trouble.setting), trouble.message, trouble.remedy)


def _token_findings(oauth: OAuth, settings: Settings) -> Iterator[Finding]:
    if (oauth.token_file is None) == (oauth.token_url is None):
        yield _finding(
            "oauth",
            "is to say where the token comes from: in one of token_file and token_url",
            "set the one, and not the other",
            "mechanism",
        )
    elif oauth.token_url is not None:
        if oauth.client_id is None:
            yield _finding(
                "oauth.client_id", "is missing: oauth.token_url needs it", "set it to our client's id"
            )
        yield from _secret_findings("oauth.client_secret", oauth.client_secret, settings, "mechanism")


def _secret_findings(setting: str, name: str, settings: Settings, *others: str) -> Iterator[Finding]:
    """A secret that is named and not there. Its name may be the secret itself, by mistake: then it is not repeated."""
    *groups, last = setting.split(".")
    default = group_at((*_SECURITY, *groups)).model_fields[last].default
    try:
        settings.secret(name)
    except ConfigurationError as error:
        if name == default:
            why = error.problems[0]
            found = _finding(setting, f"needs a secret: {why.place}: {why.message}", why.remedy, *others)
        else:
            found = _finding(
                setting,
                "names a secret that is neither in secrets nor in secrets_dir",
                f"write here only its name (such as {default or 'kafka_key_password'}), and its text there",
                *others,
            )
        yield found._replace(depends=(*found.depends, ("secrets_dir",), ("secrets", canonical(name))))


def _finding(name: str, message: str, remedy: str, *others: str) -> Finding:
    depends = tuple((*_SECURITY, other) for other in ("protocol", *others))
    return Finding((*_SECURITY, *name.split(".")), message, remedy, depends=depends)


def _hash_key_findings(settings: Settings) -> Iterator[Finding]:
    """A key that is too short; a missing one is for `plate_privacy` to tell."""
    try:
        key = settings.plate_privacy().hash_key
    except ConfigurationError:
        return
    if settings.privacy.plates.hashed and len(key) < HASH_KEY_BYTES:
        held = PLATE_HASH_SECRET in settings.secrets or settings.secrets_dir is None
        yield Finding(
            ("secrets", PLATE_HASH_SECRET),
            f"is too short: it has {len(key)} bytes, where the key of the plates' hashes needs {HASH_KEY_BYTES}",
            "`openssl rand -base64 32` makes a good one; hashes under another key are other ones",
            depends=(("privacy", "plates"), ("secrets_dir",)),
            at="" if held else f"{settings.secrets_dir}/{PLATE_HASH_SECRET}",
        )


def dotted(path: Location) -> str:
    """A setting's name; a list's item goes by the list's."""
    return ".".join(str(part) for part in path if isinstance(part, str))


def group_at(location: Location) -> type[Group]:
    """The group of settings there, or the innermost on the way."""
    group: type[Group] = Settings
    for part in location:
        field = group.model_fields.get(str(part))
        inner: Any = field.annotation if field is not None else None
        if not (isinstance(inner, type) and issubclass(inner, Group)):
            break
        group = inner
    return group


def _hash_key_missing(plates: PlateMode, why: Problem) -> Problem:
    return Problem(
        why.place,
        f"privacy.plates is `{plates}`, whose hashes need the secret `{PLATE_HASH_SECRET}`: {why.message}",
        f"set {PREFIX}SECRETS__{PLATE_HASH_SECRET.upper()} to {HASH_KEY_BYTES} or more random bytes that you keep "
        "(`openssl rand -base64 32` makes them), or set privacy.plates to `clear` or `none`",
    )


def one_problem(place: str, message: str, remedy: str) -> ConfigurationError:
    """An error of a single problem."""
    return ConfigurationError([Problem(place, message, remedy)])


def schema_text() -> str:
    """The JSON Schema of a settings file, as `schemas/settings.v1.schema.json` has it."""
    return schemas.text_of(Settings.model_json_schema(ref_template="#/$defs/{model}"), "settings.v1")
