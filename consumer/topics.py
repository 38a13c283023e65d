"""Creates the topics that are missing. Talks to Kafka."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from consumer.core.errors import BrokerUnavailableError, RefusedError

DAY_MS = 86_400_000


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


class _Admin(Protocol):
    """What is used of aiokafka's admin client, which carries no types."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def describe_topics(self, topics: list[str]) -> list[dict[str, Any]]: ...

    async def create_topics(self, new_topics: list[Any]) -> Any: ...


async def ensure_topics(bootstrap_servers: str, wanted: Mapping[str, TopicSpec]) -> TopicReport:
    """Creates what is missing of the wanted topics, and changes nothing that is there.

    Raises:
        BrokerUnavailableError: Kafka does not answer.
        RefusedError: it does not create one of them; the others may have been created.

    """
    admin = cast("_Admin", AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers))
    try:
        await admin.start()
        present = await _present(admin, list(wanted))
        created = await _create(admin, {name: spec for name, spec in wanted.items() if name not in present})
    except (KafkaError, OSError) as error:
        raise BrokerUnavailableError(
            f"Kafka at {bootstrap_servers} does not answer ({type(error).__name__}: {error}); "
            "look whether it runs, and at the address"
        ) from error
    finally:
        await admin.close()
    fewer = tuple(name for name, count in present.items() if count < wanted[name].partitions)
    return TopicReport(created, present, fewer)


async def _present(admin: _Admin, names: list[str]) -> dict[str, int]:
    described = await admin.describe_topics(names)
    return {topic["topic"]: len(topic["partitions"]) for topic in described if topic["error_code"] == 0}


async def _create(admin: _Admin, missing: Mapping[str, TopicSpec]) -> tuple[str, ...]:
    if not missing:
        return ()
    reply = await admin.create_topics(
        [
            NewTopic(
                name,
                spec.partitions,
                spec.replication,
                replica_assignments={} if spec.replication == -1 else None,  # aiokafka's way to leave it open
                topic_configs=spec.configuration(),
            )
            for name, spec in missing.items()
        ]
    )
    refused: list[str] = []
    for name, code, *message in reply.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:  # another process may have been faster
            refused.append(f"{name}: {(message and message[0]) or error.__name__}")
    if refused:
        raise RefusedError(
            f"Kafka does not create {'; '.join(refused)}; "
            "give this user the right to create topics, or have them created"
        )
    return tuple(missing)
