"""What the service's topics and rights must be, why, and what they are; creates missing topics. Talks to Kafka.

A topic that is there is never changed, and an events topic is created only where that is asked for: both belong
to others, who are told what differs, why it matters and how to mend it.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from shlex import quote
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.api import Response
from aiokafka.protocol.metadata import MetadataRequest

from consumer.core.errors import BrokerUnavailableError, RefusedError
from consumer.settings import Settings

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
KAFKAS_MESSAGE_BYTES = 1_048_588
"""What Kafka's `max.message.bytes` is where no one sets it."""

_UNKNOWN_TOPIC, _NOT_ALLOWED = 3, (29, 31)
_TOPIC_RESOURCE = 2
_CREATE_TIMEOUT_MS = 30_000


# -- What they must be ------------------------------------------------------------------------------


class Want(NamedTuple):
    """One property of a topic: what it should be (or at least be), and why."""

    name: str
    value: int | str
    why: str
    at_least: bool = False

    def met_by(self, value: str) -> bool:
        """Whether a value, as Kafka tells it, is fine."""
        if self.at_least:
            return value.lstrip("-").isdecimal() and int(value) >= int(self.value)
        return value == str(self.value)


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """A topic that the service needs.

    Attributes:
        setting: that names it.
        why: it is needed.
        ours: what it is like is for us to say; an events topic is whose charges they are.
        wants: its properties, each with its reason; of an events topic what one that is made for a trial begins with.

    """

    name: str
    setting: str
    why: str
    ours: bool = False
    wants: tuple[Want, ...] = ()

    def spec(self, brokers: int) -> "TopicSpec":
        """How to create it."""
        wanted = {want.name: want.value for want in self.creation(brokers)}
        partitions, replication = int(wanted.pop("partitions")), int(wanted.pop("replication"))
        return TopicSpec(partitions, replication, config={name: str(value) for name, value in wanted.items()})

    def creation(self, brokers: int) -> list[Want]:
        """What it is created with: what it should be like, and what only counts from its beginning."""
        wants = [
            want._replace(value=max(int(want.value), KAFKAS_MESSAGE_BYTES))
            if want.name == "max.message.bytes"
            else want
            for want in (*self.wants, *_copies(brokers))
        ]
        if not self.ours:
            return wants
        why = "retention counts from a segment's last record: no plate stays a day longer"
        return [*wants, Want("segment.ms", DAY_MS, why)]

    def command(self, options: str, brokers: int) -> str:
        """The kafka-topics.sh line that creates it; `options` of `tool_options`."""
        spec = self.spec(brokers)
        config = " ".join(f"--config {name}={value}" for name, value in spec.configuration().items())
        return (
            f"kafka-topics.sh {options} --create --if-not-exists --topic {self.name} "
            f"--partitions {spec.partitions} --replication-factor {spec.replication} {config}"
        )

    def wants_among(self, brokers: int) -> Iterator[Want]:
        """What it should be like in a cluster of that many brokers."""
        if self.ours:
            yield from self.wants
            yield from _copies(brokers)


def _copies(brokers: int) -> Iterator[Want]:
    copies = min(3, brokers)
    yield Want("replication", copies, "the loss of a broker loses nothing", at_least=True)
    if copies == 3:
        yield Want("min.insync.replicas", 2, "what is committed stands on two brokers", at_least=True)


def plan(settings: Settings) -> list[TopicPlan]:
    """All topics that the service needs."""
    topics = settings.kafka.topics
    size = settings.kafka.max_message_size
    shared = Want("partitions", topics.partitions, "members can share the work", at_least=True)
    outcomes = (
        Want("partitions", topics.partitions, "its readers can share the work", at_least=True),
        Want("cleanup.policy", "delete", "compaction would remove an order's earlier outcomes"),
        Want("retention.ms", _ms(topics.outcomes_retention), "long enough for support, no longer for plates"),
        Want("max.message.bytes", size, "a batch is up to kafka.max_message_size long", at_least=True),
    )
    letters = (
        Want("partitions", topics.partitions, "its readers can share the work", at_least=True),
        Want("cleanup.policy", "delete", "compaction would remove originals with the same key"),
        Want(
            "retention.ms",
            _ms(topics.dead_letters_retention),
            "long enough to mend; originals hold whole plates",
        ),
        Want("max.message.bytes", size, "an original is up to kafka.max_message_size long", at_least=True),
    )
    waiting = (
        shared,
        Want("cleanup.policy", "delete", "compaction would remove orders that wait"),
        Want(
            "retention.ms",
            _ms(topics.retries_retention),
            "long enough for the service to be away; events hold whole plates",
            at_least=True,
        ),
        Want("max.message.bytes", size, "an original is up to kafka.max_message_size long", at_least=True),
    )
    return [
        *(
            TopicPlan(name, "kafka.topics.events", "charges are read from it; it is never changed here", wants=(shared,))
            for name in topics.events
        ),
        TopicPlan(topics.outcomes, "kafka.topics.outcomes", "every order's outcome goes there", True, outcomes),
        TopicPlan(
            topics.dead_letters, "kafka.topics.dead_letters", "what a person must see goes there", True, letters
        ),
        *(
            TopicPlan(name, "kafka.topics.retries", "orders wait there for another attempt", True, waiting)
            for name in settings.retry_topics
        ),
    ]  # fmt: skip  # a row a topic


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


# -- What they are ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TopicState:
    """What Kafka says of a topic: `partitions`, `replication`, and its configuration by Kafka's names."""

    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Cluster:
    """The answer to `look`. A topic that is missing has no state."""

    brokers: int
    topics: Mapping[str, TopicState]


class Finding(NamedTuple):
    """One property of one topic, as it is and as it should be."""

    topic: str
    name: str
    is_: str
    should_be: str
    fine: bool
    why: str
    remedy: str

    @property
    def missing(self) -> bool:
        """Whether it is that there is no such topic: the service waits for one, and lives with what differs."""
        return self.name == "exists" and not self.fine


def compare(plans: Sequence[TopicPlan], cluster: Cluster, options: str) -> list[Finding]:
    """Every property of every topic, fine or not. `options` are those of Kafka's tools (`tool_options`)."""
    return [finding for each in plans for finding in _findings(each, cluster, options)]


def tool_options(settings: Settings) -> str:
    """How Kafka's command line tools reach it; a protected one takes a file, which whoever runs them has."""
    config = "" if settings.kafka.security.protocol == "plaintext" else " --command-config client.properties"
    return f"--bootstrap-server {','.join(settings.kafka.bootstrap_servers)}{config}"


def _findings(topic: TopicPlan, cluster: Cluster, options: str) -> Iterator[Finding]:
    state = cluster.topics.get(topic.name)
    remedy = (
        "`charging-coupon topics --create` creates it"
        if topic.ours
        else "have it created, for a trial by `charging-coupon topics --create --events`"
    )
    yield Finding(
        topic.name,
        "exists",
        "yes" if state else "no",
        "yes",
        state is not None,
        topic.why,
        "" if state else f"{remedy}, or correct {topic.setting}",
    )
    if state is None:
        return
    for want in topic.wants_among(cluster.brokers):
        found = state.properties.get(want.name, "unknown")
        fine = want.met_by(found)
        yield Finding(
            topic.name,
            want.name,
            readable(want.name, found),
            readable(want.name, str(want.value)) + (" or more" if want.at_least else ""),
            fine,
            want.why,
            "" if fine else _remedy(topic, want, options),
        )


def _remedy(topic: TopicPlan, want: Want, options: str) -> str:
    match want.name:
        case "partitions":
            command = f"kafka-topics.sh {options} --alter --topic {topic.name}"
            return f"{command} --partitions {want.value}, or lower kafka.topics.partitions"
        case "replication":
            return "kafka-reassign-partitions.sh gives it further copies"
    other = {
        "retention.ms": f", or set {topic.setting}_retention",
        "max.message.bytes": ", or lower kafka.max_message_size",
    }
    return (
        f"kafka-configs.sh {options} --alter --entity-type topics --entity-name {topic.name} "
        f"--add-config {want.name}={want.value}{other.get(want.name, '')}"
    )


def readable(name: str, value: str) -> str:
    """A value as Kafka tells it, and a time in words, too."""
    if name not in {"retention.ms", "segment.ms"}:
        return value
    if value == "-1":
        return "-1 (for ever)"
    for unit, size in (("d", DAY_MS), ("h", HOUR_MS)):
        if value.isdecimal() and int(value) % size == 0:
            return f"{value} ({int(value) // size}{unit})"
    return value


# -- Looking and creating ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How a topic is to be created.

    Attributes:
        replication: copies; -1 leaves it to the broker's default.
        retention_ms: how long records are kept; -1 for ever, None by the broker's default.
        cleanup: `delete`, `compact` or `compact,delete`.
        config: further topic configuration, as Kafka names it.

    """

    partitions: int
    replication: int = -1
    retention_ms: int | None = None
    cleanup: str = "delete"
    config: Mapping[str, str] = field(default_factory=dict)

    def configuration(self) -> dict[str, str]:
        """As Kafka names it."""
        retention = {} if self.retention_ms is None else {"retention.ms": str(self.retention_ms)}
        return {"cleanup.policy": self.cleanup, **retention, **self.config}


@dataclass(frozen=True, slots=True)
class TopicReport:
    """What `ensure_topics` found and did.

    Attributes:
        created: topics that were missing.
        present: topics that were there, with their partitions; they are left as they are.
        fewer: of these, the topics with fewer partitions than wanted.

    """

    created: tuple[str, ...]
    present: Mapping[str, int]
    fewer: tuple[str, ...]


class _Client(Protocol):
    """What is used of aiokafka's client, which carries no types."""

    cluster: Any

    async def bootstrap(self) -> None: ...

    async def close(self) -> None: ...

    async def ready(self, node_id: int) -> bool: ...

    async def send(self, node_id: int, request: Any) -> Response: ...

    def get_random_node(self) -> int: ...


Connection = str | Mapping[str, Any]
"""Bootstrap servers, or all that aiokafka's client is to be given."""


async def look(connection: Connection, names: Sequence[str]) -> Cluster:
    """What these topics are like; creates nothing, also where brokers create what is asked for.

    Raises:
        BrokerUnavailableError: Kafka does not answer.
        RefusedError: it does not show them to us.

    """
    async with _connected(connection) as client:
        metadata = await _metadata(client, names)
        present = {topic["topic"]: topic for topic in metadata["topics"] if topic["error_code"] == 0}
        configs = await _configs(client, list(present))
    topics = {
        name: TopicState(
            {
                "partitions": str(len(topic["partitions"])),
                "replication": str(min(len(each["replicas"]) for each in topic["partitions"])),
                **configs[name],
            }
        )
        for name, topic in present.items()
    }
    return Cluster(len(metadata["brokers"]), topics)


async def ensure_topics(connection: Connection, wanted: Mapping[str, TopicSpec]) -> TopicReport:
    """Creates what is missing of the wanted topics, and changes nothing that is there.

    Raises:
        BrokerUnavailableError: Kafka does not answer.
        RefusedError: it does not create one of them; the others may have been created.

    """
    async with _connected(connection) as client:
        metadata = await _metadata(client, list(wanted))
        present = {
            topic["topic"]: len(topic["partitions"])
            for topic in metadata["topics"]
            if topic["error_code"] == 0
        }
        created = await _create(client, {name: spec for name, spec in wanted.items() if name not in present})
    fewer = tuple(name for name, count in present.items() if count < wanted[name].partitions)
    return TopicReport(created, present, fewer)


@asynccontextmanager
async def _connected(connection: Connection) -> AsyncIterator[_Client]:
    options = {"bootstrap_servers": connection} if isinstance(connection, str) else dict(connection)
    client = cast("_Client", AIOKafkaClient(**options))
    try:
        await client.bootstrap()
        yield client
    except (KafkaError, OSError) as error:
        servers = options["bootstrap_servers"]
        raise BrokerUnavailableError(
            f"Kafka at {servers if isinstance(servers, str) else ','.join(servers)} does not answer "
            f"({type(error).__name__}: {error}); look whether it runs, and at the address"
        ) from error
    finally:
        await client.close()


async def _metadata(client: _Client, names: Sequence[str]) -> dict[str, Any]:
    request = MetadataRequest(list(names), allow_auto_topic_creation=False)
    metadata: dict[str, Any] = (await client.send(client.get_random_node(), request)).to_object()
    hidden = [topic["topic"] for topic in metadata["topics"] if topic["error_code"] in _NOT_ALLOWED]
    if hidden:
        raise RefusedError(f"Kafka does not let us see {', '.join(hidden)}; grant Describe on it")
    for topic in metadata["topics"]:
        if topic["error_code"] not in (0, _UNKNOWN_TOPIC):
            raise for_code(topic["error_code"])(topic["topic"])
    return metadata


async def _configs(client: _Client, names: Sequence[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    request = DescribeConfigsRequest([(_TOPIC_RESOURCE, name, None) for name in names], False)
    reply = await client.send(client.get_random_node(), request)
    found: dict[str, dict[str, str]] = {}
    hidden: list[str] = []
    for code, message, _, name, entries in reply.resources:
        if code in _NOT_ALLOWED:
            hidden.append(name)
        elif code:
            raise for_code(code)(f"{name}: {message}")
        found[name] = {entry[0]: entry[1] for entry in entries}
    if hidden:
        raise RefusedError(
            f"Kafka does not show the configuration of {', '.join(hidden)}; grant DescribeConfigs on it"
        )
    return found


async def _create(client: _Client, missing: Mapping[str, TopicSpec]) -> tuple[str, ...]:
    if not missing:
        return ()
    request = CreateTopicsRequest(
        [
            (name, spec.partitions, spec.replication, [], list(spec.configuration().items()))
            for name, spec in missing.items()
        ],
        timeout=_CREATE_TIMEOUT_MS,
        validate_only=False,
    )
    controller = client.cluster.controller.nodeId
    await client.ready(controller)
    refused: list[str] = []
    for name, code, *message in (await client.send(controller, request)).topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:  # another process may have been faster
            refused.append(f"{name}: {(message and message[0]) or error.__name__}")
    if refused:
        raise RefusedError(
            f"Kafka does not create {'; '.join(refused)}; "
            "give this user the right to create topics, or have them created"
        )
    return tuple(missing)


# -- The rights -------------------------------------------------------------------------------------


class Right(NamedTuple):
    """An ACL: operations on a resource. `Describe` comes with `Read` and `Write` in Kafka's own authorizers."""

    resource: Literal["topic", "group", "transactional-id"]
    name: str
    operations: tuple[str, ...]
    why: str
    prefixed: bool = False

    def command(self, options: str, principal: str) -> str:
        """The kafka-acls.sh line that grants it; `options` of `tool_options`."""
        operations = " ".join(f"--operation {operation}" for operation in self.operations)
        resource = f"--{self.resource} {quote(self.name)}"
        pattern = " --resource-pattern-type prefixed" if self.prefixed else ""
        return (
            f"kafka-acls.sh {options} --add --allow-principal {quote(principal)} "
            f"{operations} {resource}{pattern}"
        )


Command = Literal["run", "topics", "replay", "outcomes", "explain", "diff", "send"]
COMMANDS: tuple[Command, ...] = get_args(Command)
"""Who needs rights at Kafka. Each may well be run as somebody else than the service."""


def rights(
    settings: Settings, command: Command = "run", *, create: bool = False, events: bool = False
) -> list[Right]:
    """Exactly what a command needs; `topics` with `create` also to create our topics, and with `events` those, too."""
    topics = settings.kafka.topics
    waiting = settings.retry_topics
    found: list[Right] = []
    match command:
        case "run":
            found = _of_run(settings)
        case "topics":
            found = _of_topics(settings, create=create, events=events)
        case "replay":
            found = _of_replay(settings)
        case "outcomes":
            found = [_reading(topics.outcomes, "outcomes are read")]
            found += [_reading(name, "who waits is read") for name in waiting]
        case "explain":
            places = (*topics.events, *waiting, topics.dead_letters)
            found = [_reading(name, "a record of it is read") for name in places]
        case "diff":
            found = [_reading(name, "events are read") for name in topics.events]
            found += [_reading(topics.outcomes, "with --against outcomes are read")]
        case "send":
            found = [
                Right("topic", name, ("Write", "Describe"), "events are written") for name in topics.events
            ]
    return found


def _reading(topic: str, why: str) -> Right:
    return Right("topic", topic, ("Read", "Describe"), why)


def _of_run(settings: Settings) -> list[Right]:
    kafka = settings.kafka
    written = (kafka.topics.outcomes, kafka.topics.dead_letters)
    waiting = settings.retry_topics
    found = [
        *(_reading(name, "events are read") for name in kafka.topics.events),
        *(Right("topic", name, ("Write", "Describe"), "outcomes and dead letters are written") for name in written),
        *(Right("topic", name, ("Read", "Write", "Describe"), "orders wait there") for name in waiting),
        Right("group", kafka.group_id, ("Read", "Describe"), "members join, and commit offsets"),
    ]  # fmt: skip  # a row a right
    if settings.guarantee == "exactly_once":
        why = "outcomes and offsets are one transaction"
        found.append(
            Right("transactional-id", f"{kafka.group_id}/", ("Write", "Describe"), why, prefixed=True)
        )
    return found


def _of_topics(settings: Settings, *, create: bool, events: bool) -> list[Right]:
    topics = settings.kafka.topics
    ours = (topics.outcomes, topics.dead_letters, *settings.retry_topics)
    look, make = ("Describe", "DescribeConfigs"), ("Create",) if create else ()
    why = "it is created, and its configuration compared" if create else "its configuration is compared"
    return [
        *(
            Right(
                "topic",
                name,
                (*make, *look) if events else look,
                "it is created" if events else "it is looked for",
            )
            for name in topics.events
        ),
        *(Right("topic", name, (*make, *look), why) for name in ours),
    ]


def _of_replay(settings: Settings) -> list[Right]:
    kafka = settings.kafka
    found = [
        Right("topic", kafka.topics.dead_letters, ("Read", "Write", "Describe"), "dead letters are read, receipts written"),
        *(Right("topic", name, ("Write", "Describe"), "events go back to it") for name in kafka.topics.events),
    ]  # fmt: skip  # a row a right
    if settings.guarantee == "exactly_once":
        why = "an event and its receipt are one transaction"
        found.append(Right("transactional-id", f"{kafka.group_id}/replay", ("Write", "Describe"), why))
    return found
