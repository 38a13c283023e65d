"""Composition root: builds the rooms, starts them, drains and stops them. Does I/O through them."""

import asyncio
import platform
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import CollectorRegistry

from consumer import __version__, intake, ledger
from consumer.connection import Access, files_named, secrets_named
from consumer.core.errors import BrokerUnavailableError, ConfigurationError, Problem
from consumer.core.offsets import Tracker
from consumer.core.outcomes import OutcomeContext
from consumer.core.rates import Share
from consumer.core.retries import RetryPolicy
from consumer.core.rules import RuleBook
from consumer.core.status import (
    OF_A_FLUSH,
    RECENT,
    AccountStatus,
    LedgerStatus,
    Memory,
    Recent,
    RulesStatus,
    Status,
    Window,
    printable,
    tiers_of,
    with_texts,
)
from consumer.credentials import Credentials
from consumer.delivery import Delivery
from consumer.flow import FleetBounds, Flow
from consumer.gateway import Gateway, GatewayClient, gateway_of
from consumer.intake import Intake
from consumer.ledger import Encoder, EndedRecord, Ledger
from consumer.link import Membership, TopicPartition, cancel_until_ended
from consumer.logs import cleaned
from consumer.metrics import Metrics
from consumer.rotation import Rotation
from consumer.rulebook import Files
from consumer.rulebook.watching import Watcher
from consumer.selfcheck import Clock
from consumer.settings import Settings
from consumer.settings.values import headers_of
from consumer.waiting import Kafka, Waiting
from consumer.web import WebServer

if TYPE_CHECKING:
    from consumer.tracing import Tracing

log = structlog.get_logger(__name__)

STUCK_SECONDS = 120.0
"""Without a turn of the poll loop for this long, outside of a rebalance, the process no longer moves."""

SUMMARY_SECONDS = 10.0

BESIDE_SECONDS = 30.0
"""How long after a bug the work that is done beside all else is begun again."""

LOOP_SECONDS = 0.02

COUNT_SECONDS = 2.0
"""How often it is noted what is counted so far, so that the status page can tell of the last minute."""

MOST_PROBLEMS = 20
"""On a page; the log has them all."""

_WAY, _WAY_IN = "the way to the platform", "the way to Kafka"
"""What `Credentials.keep` calls the files that lead there."""


class Service:
    """One member of the group. `run` it once; `stop` makes it drain and return.

    Attributes:
        metrics: on the registry that was given, or on one of its own.
        port: of the web server, once it listens.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        rules: RuleBook,
        files: Files | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """Rules that have `files` follow these. Raises ConfigurationError where settings and rules do not fit together."""
        self.settings = settings
        self.rules = rules
        self.metrics = Metrics(registry if registry is not None else CollectorRegistry())
        self.port: int | None = None
        self._started_at = self._rules_at = datetime.now(UTC)
        self._window = Window(time.monotonic(), self.metrics.totals())
        self._recent: deque[Recent] = deque(maxlen=RECENT)
        self._committed_at: datetime | None = None
        way = settings.gateway
        ways_secrets = [name for name in (way.key_password, way.proxy_credentials) if name]
        others_secrets = [*ways_secrets, *filter(None, [settings.tracing.headers])]
        certificates = [file for file in (way.ca_file, way.certificate_file, way.key_file) if file]
        self._way = {*ways_secrets, *map(str, certificates)}
        security = settings.kafka.security
        self._way_in = {*secrets_named(security), *map(str, files_named(security))}
        self._credentials = Credentials(
            settings.secret,
            self.metrics,
            needed=lambda: {*others_secrets, *secrets_named(security), *_signing(self.rules)},
            certificates=[*certificates, *files_named(security)],
            on_change=self._heed,
        )
        self._credentials.use(self._fitting(rules) | {name: settings.secret(name) for name in others_secrets})
        self._gateway: GatewayClient | None = None
        self._rotation: Rotation | None = None
        self._privacy = settings.plate_privacy()
        self._intake: Intake | None = None
        self._flow = Flow(
            max_in_flight=settings.gateway.max_in_flight,
            accounts=rules.accounts,
            metrics=self.metrics,
            sets_aside=bool(settings.retries.delays),
            adaptive=settings.gateway.adaptive_limit,
            fleet=FleetBounds(settings.gateway.fleet_rate, settings.gateway.fleet_max_in_flight),
        )
        self._tracing = _tracing(settings, self.metrics, self._credentials.secrets)
        self._stopping = asyncio.Event()
        self._waiting = Waiting()
        self._watcher = (
            Watcher(files, rules, use=self._use, metrics=self.metrics) if files is not None else None
        )
        self.metrics.build.labels(__version__, platform.python_version()).set(1)
        self._tell_rules(rules)

    @property
    def secrets(self) -> Collection[str]:
        """The texts of those in use, which no line is to hold."""
        return self._credentials.secrets.values()

    def stop(self) -> None:
        """Stop admitting; `run` drains within the bound, flushes, leaves the group and returns."""
        log.info("service.stopping")
        self._stopping.set()
        if self._intake is not None:
            self._intake.stop()

    def reload(self) -> None:
        """Load the rules' files at once, changed or not."""
        if self._watcher is not None:
            self._watcher.look_now()

    async def run(self) -> None:
        """Serve until `stop`. Waits for a Kafka that is not there yet, and says so."""
        settings, credentials = self.settings, self._credentials
        credentials.use({name: settings.secret(name) for name in secrets_named(settings.kafka.security)})
        access = Access(settings.kafka, credentials.secrets.__getitem__)
        self._rotation = Rotation(access, credentials.secrets.__getitem__, partial(credentials.keep, _WAY_IN))
        async with AsyncExitStack() as stack:
            web = WebServer(settings.web.host, settings.web.port, registry=self.metrics.registry, health=self)
            self.port = (await stack.enter_async_context(web)).port
            self._gateway = gateway = await stack.enter_async_context(
                gateway_of(
                    settings.gateway,
                    credentials.secrets.__getitem__,
                    on_date=Clock().note,
                    on_tls=partial(credentials.keep, _WAY),
                )
            )
            log.info(
                "service.started",
                version=__version__,
                guarantee=settings.guarantee,
                rules=self.rules.hash,
                accounts=sorted(self.rules.accounts),
                port=self.port,
            )
            if self._tracing is not None:
                await stack.enter_async_context(self._tracing)
            await stack.enter_async_context(_beside(self._watch_loop))
            await stack.enter_async_context(_beside(self._count))
            await stack.enter_async_context(_beside(credentials.watch))
            await stack.enter_async_context(_beside(self._rotation.run))
            if self._watcher is not None:
                await stack.enter_async_context(_beside(self._watcher.run))
            while kafka := await Kafka.reach(settings, access, self._waiting, self._stopping):
                await self._serve(kafka, gateway)
        log.info("service.stopped")

    # -- Kafka ----------------------------------------------------------------------------------------

    async def _serve(self, kafka: Kafka, gateway: Gateway) -> None:
        """Until stopped, or until this connection is of no more use."""
        try:
            async with _beside(self._summarise):
                try:
                    await self._consume(kafka, gateway)
                finally:
                    self._intake = None
        except BrokerUnavailableError as error:
            self._waiting.wait_for(str(error))
        finally:
            await kafka.close()

    async def _consume(self, kafka: Kafka, gateway: Gateway) -> None:
        settings = self.settings
        encoder = Encoder(
            settings.kafka.topics.outcomes,
            settings.kafka.topics.dead_letters,
            OutcomeContext(kafka.cluster_id, self._privacy),
            settings.kafka.max_message_size,
            settings.retry_topics,
        )

        def make_ledger(
            member: Membership,
            producers: Mapping[str, tuple[int, int]],
            trackers: Mapping[TopicPartition, Tracker],
            on_committed: Callable[[Sequence[EndedRecord]], None],
        ) -> Ledger:
            return Ledger(
                writer=kafka.writer(member, producers),
                read_offsets=kafka.link.read_offsets,
                trackers=trackers,
                encoder=encoder,
                bounds=ledger.FlushBounds(settings.ledger.flush_interval, settings.ledger.flush_records),
                metrics=self.metrics,
                on_committed=lambda done: self._committed(done, on_committed),
            )

        delivery = Delivery(
            rules=lambda: self.rules,
            flow=self._flow,
            gateway=gateway,
            secrets=self._credentials.secrets,
            read_again=self._credentials.read_again,
            policy=RetryPolicy(
                max_attempts_now=settings.retries.max_attempts_now,
                base_seconds=settings.retries.base,
                cap_seconds=settings.retries.cap,
                retry_after_cap_seconds=settings.retries.retry_after_cap,
                delays=tuple(settings.retries.delays),
            ),
            url=settings.gateway.url,
            metrics=self.metrics,
            clock=partial(datetime.now, UTC),
            tracer=self._tracing,
        )
        self._intake = room = Intake(
            consumer=kafka.consumer,
            link=kafka.link,
            group=settings.kafka.group_id,
            cluster_id=kafka.cluster_id,
            start_from=settings.kafka.start_from,
            delivery=delivery,
            make_ledger=make_ledger,
            pause_reason=lambda: self._flow.pause_reason,
            supplied=lambda: self._flow.supplied,
            bounds=intake.Bounds(
                settings.intake.max_records,
                settings.intake.max_bytes,
                settings.drain_timeout,
                settings.intake.max_unreadable,
                max(intake.UNWRITTEN, 3 * settings.ledger.flush_records),
            ),
            metrics=self.metrics,
            retry_topics=settings.retry_topics,
            on_assigned=lambda partitions: self._divide(kafka.consumer.partitions_for_topic, partitions),
            watch=lambda: kafka.watch(self._waiting, room.heed_topic_ids),
        )
        topics = [*settings.kafka.topics.events, *settings.retry_topics]
        kafka.consumer.subscribe(topics, listener=self._intake)
        if self._stopping.is_set():
            return
        await room.run()

    def _committed(
        self, done: Sequence[EndedRecord], on_committed: Callable[[Sequence[EndedRecord]], None]
    ) -> None:
        """A flush: of its last orders a few words are kept for the status page."""
        on_committed(done)
        self._committed_at = datetime.now(UTC)
        entries = chain.from_iterable(reversed(item.entries) for item in reversed(done))
        latest = (entry.resolution for entry in entries if entry.tells)
        plates = self._privacy.plates
        self._recent.extend(reversed([Recent.of(each, plates) for each in islice(latest, OF_A_FLUSH)]))

    def _divide(
        self,
        partitions_of: Callable[[str], Collection[int] | None],
        assigned: Sequence[TopicPartition],
    ) -> None:
        """What the fleet may do is divided by the partitions of the events topics."""
        totals = {topic: len(partitions_of(topic) or ()) for topic in self.settings.kafka.topics.events}
        for topic, partition in assigned:  # where they are newer than what is known of the topic
            if topic in totals:
                totals[topic] = max(totals[topic], partition + 1)
        self._flow.use_share(
            Share.of(assigned, totals, waiting=any(tp.topic not in totals for tp in assigned))
        )
        cap = self.settings.gateway.fleet_max_in_flight
        if assigned and cap is not None and cap < sum(totals.values()):
            log.warning(
                "service.fleet_cap_too_low",
                problem=f"{sum(totals.values())} partitions share {cap} requests under way at once; each may have one",
                remedy="raise gateway.fleet_max_in_flight, or let one member run",
            )

    # -- Rules ----------------------------------------------------------------------------------------

    def _use(self, rules: RuleBook) -> None:
        """In force from the next record on. Raises ConfigurationError, and changes nothing, where they do not fit."""
        secrets, before = self._fitting(rules), self.rules.accounts
        changed = {
            name for name, account in rules.accounts.items() if before.get(name) not in (None, account)
        }
        self.rules, self._rules_at = rules, datetime.now(UTC)
        self._flow.use_accounts(rules.accounts, changed)
        self._heed(self._credentials.use(secrets))
        self._tell_rules(rules)
        if self._intake is not None:
            self._intake.read_again()

    def _tell_rules(self, rules: RuleBook) -> None:
        """The metrics know the rules in force."""
        of_stations = (station.api_store_code for station in rules.stations.values())
        of_rules = (rule.api_store_code for rule in rules.rules)
        self.metrics.use_rules(
            rules.hash,
            accounts=rules.accounts,
            rules=(rule.name for rule in rules.rules),
            lots=(lot for lot in chain(of_stations, of_rules) if lot is not None),
            replies=rules.replies.rows,
        )

    def _fitting(self, rules: RuleBook) -> dict[str, str]:
        """The secrets of these rules, which fit the settings."""
        names = _signing(rules)
        remedy = "add it to a source's topics, or leave topics out of the source that is for all"
        for topic, source in islice(self._beyond(rules), 3):  # rules for several services name many
            remedy += f", or put {topic}, which source {source} reads, into kafka.topics.events"
        problems = [
            Problem(f"kafka.topics.events: {topic}", "no source of the rules reads this topic", remedy)
            for topic in self.settings.kafka.topics.events
            if rules.source_for(topic) is None
        ]
        if not rules.rules:  # such a file may be part of a folder; `test` and `explain` take it
            message = "no rules: every charge would end as unmatched"
            problems.append(Problem(str(self.settings.rules), message, "add a rule under `rules:`"))
        problems += self.settings.missing_secrets(names)
        if problems:
            raise ConfigurationError(problems)
        return {name: self.settings.secret(name) for name in names}

    def _beyond(self, rules: RuleBook) -> Iterator[tuple[str, str]]:
        """Topics that sources name and this service does not read, each with its source."""
        known = self.settings.kafka.topics.events
        return (
            (topic, source.name) for source in rules.sources for topic in source.topics if topic not in known
        )

    def unread_topics(self) -> list[Problem]:
        """What a person should look at: perhaps these rules are for several services, perhaps it is a slip."""
        remedy = "put it into kafka.topics.events, unless another service reads it by these rules"
        return [
            Problem(f"sources.{source}.topics", f"{topic} is not in kafka.topics.events", remedy)
            for topic, source in self._beyond(self.rules)
        ]

    def _heed(self, changed: Collection[str]) -> None:
        """Secrets (by name) or certificates (by path) have changed: what the old ones may have kept from working is tried at once."""
        for name, account in self.rules.accounts.items():
            if account.secret in changed:
                self._flow.probe_now(name)
        if self._gateway is not None and not self._way.isdisjoint(changed):
            self._gateway.renew()
        if self._rotation is not None and not self._way_in.isdisjoint(changed):
            self._rotation.look_now()

    # -- Watching -------------------------------------------------------------------------------------

    async def _watch_loop(self) -> None:
        """Measures how late the loop is: whatever holds it up shows here."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOOP_SECONDS
            await asyncio.sleep(LOOP_SECONDS)
            self.metrics.loop_delay.observe(max(0.0, loop.time() - due))

    async def _count(self) -> None:
        """For the status page."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            self._window.note(time.monotonic(), self.metrics.totals())

    async def _summarise(self) -> None:
        """One line for what was done, while anything is."""
        before: Counter[str] = Counter()
        while True:
            await asyncio.sleep(SUMMARY_SECONDS)
            now = self.metrics.totals()["outcomes"]
            done = now - before
            before = now
            if done:
                log.info("service.summary", seconds=SUMMARY_SECONDS, **dict(done))

    # -- Health ---------------------------------------------------------------------------------------

    def healthy(self) -> tuple[bool, dict[str, Any]]:
        """False only when the poll loop no longer turns; waiting for a broker counts as moving."""
        if self._intake is None:
            return True, {"waiting_for": self._waiting.what}
        idle = time.monotonic() - self._intake.last_turn
        moves = self._intake.rebalancing or idle < STUCK_SECONDS
        return moves, {"seconds_since_poll": round(idle, 1), "rebalancing": self._intake.rebalancing}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """True once joined, with or without partitions. The platform's state is a detail, never a reason."""
        room = self._intake
        details = {
            "guarantee": self.settings.guarantee,
            "rules": self.rules.hash,
            "rules_refused": [str(problem) for problem in self._watcher.problems[:MOST_PROBLEMS]]
            if self._watcher
            else [],
            "credentials_kept": self._credentials.kept,
            "joined": room is not None and room.joined,
            "partitions": [f"{tp.topic}-{tp.partition}" for tp in room.partitions] if room else [],
            "paused": room.paused if room else {},
            "halted_accounts": dict(self._flow.halted),
            "unreadable_topics": room.unreadable if room else [],
            "waiting_for": self._waiting.what or (room.trouble if room else None),
        }
        return bool(details["joined"]) and not self._stopping.is_set(), details

    def status(self) -> Status:
        """All that the status page says, as of now; no text of it holds a secret or a whole plate."""
        ready, details = self.ready()
        room, bounds = self._intake, self.settings.intake
        partitions = room.partition_statuses() if room else []
        ledger = replace(room.ledger_status() if room else LedgerStatus(), committed_at=self._committed_at)
        status = Status(
            at=datetime.now(UTC),
            started_at=self._started_at,
            version=__version__,
            python=platform.python_version(),
            host=platform.node(),
            group=self.settings.kafka.group_id,
            guarantee=self.settings.guarantee,
            alive=self.healthy()[0],
            ready=ready,
            stopping=self._stopping.is_set(),
            joined=details["joined"],
            rebalancing=room.rebalancing if room else False,
            waiting_for=details["waiting_for"],
            unreadable_topics=details["unreadable_topics"],
            credentials_kept=details["credentials_kept"],
            counts=self._window.counts(time.monotonic(), self.metrics.totals()),
            accounts=self._account_statuses(),
            limits=self._flow.limits(),
            memory=room.memory() if room else Memory(0, bounds.max_records, 0, bounds.max_bytes),
            partitions=partitions,
            tiers=tiers_of(
                partitions, dict(zip(self.settings.retry_topics, self.settings.retries.delays, strict=True))
            ),
            ledger=ledger,
            rules=self._rules_status(),
            recent=[*reversed(self._recent)],
        )
        return with_texts(status, lambda text: printable(cleaned(text)))

    def _account_statuses(self) -> list[AccountStatus]:
        default = self.settings.gateway.url
        return [
            self._flow.status_of(name, state=account.state, endpoint=(account.url or default).split("?")[0])
            for name, account in self.rules.accounts.items()
        ]

    def _rules_status(self) -> RulesStatus:
        problems = self._watcher.problems if self._watcher else ()
        return RulesStatus(
            hash=self.rules.hash,
            loaded_at=self._rules_at,
            rules=len(self.rules.rules),
            stations=len(self.rules.stations),
            refused_at=self._watcher.refused_at if self._watcher else None,
            problems=[str(problem) for problem in problems[:MOST_PROBLEMS]],
            more_problems=max(0, len(problems) - MOST_PROBLEMS),
        )


def _tracing(settings: Settings, metrics: Metrics, secrets: Mapping[str, str]) -> "Tracing | None":
    """Where traces go; None where nobody asked for any. `secrets` has them as they are now."""
    if settings.tracing.endpoint is None:
        return None
    try:
        from consumer.tracing import Tracing  # noqa: PLC0415  # an extra: who does without does not load it
    except ImportError as error:
        problem = Problem(
            "tracing.endpoint",
            f"traces need a package that is not installed: {error.name}",
            "install charging-coupon-consumer[tracing], or leave this setting out",
        )
        raise ConfigurationError([problem]) from error
    return Tracing(
        endpoint=settings.tracing.endpoint,
        sample=settings.tracing.sample,
        group=settings.kafka.group_id,
        metrics=metrics,
        ca_file=settings.tracing.ca_file,
        headers=lambda: headers_of(secrets[name]) if (name := settings.tracing.headers) is not None else {},
    )


def _signing(rules: RuleBook) -> list[str]:
    """Names of the secrets that sign."""
    return list(dict.fromkeys(account.secret for account in rules.accounts.values()))


@asynccontextmanager
async def _beside(work: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Work that goes on for as long as the block."""
    task = asyncio.create_task(_again_and_again(work))
    try:
        yield
    finally:
        await cancel_until_ended(task)


async def _again_and_again(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """A bug of ours does not end it without a word: nobody else would do it, and nothing else would show that."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("service.beside_failed", work=work.__qualname__)
        await asyncio.sleep(BESIDE_SECONDS)
