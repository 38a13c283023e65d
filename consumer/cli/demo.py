"""`charging-coupon demo`: the whole service on a Kafka and a platform of its own, and a reconciliation. Does it all.

What it runs is the very same service as `charging-coupon run`, with `demo-rules.yaml`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import asyncio

    from consumer.sandbox.broker import EmbeddedBroker
    from consumer.sandbox.gateway import SandboxGateway
    from consumer.sandbox.reconcile import OutcomeFields, Produced, Report
    from consumer.sandbox.screen import Screen
    from consumer.service import Service

    Tamper = Callable[[list[OutcomeFields]], list[OutcomeFields]]

EVENTS, OUTCOMES, DEAD_LETTERS = "charging-completed", "coupon-outcomes", "coupon-dead-letters"
GROUP = "charging-coupon-demo"
PARTITIONS = 3
LATENCY, JITTER = 0.08, 0.6
PAUSE = 0.002
"""Seconds between two records: so they come in over a moment, and not at once."""

PATIENCE = 60.0
"""Seconds without a further outcome after which it reconciles what there is."""

DRAIN_SECONDS = 15.0
SIGTERM_EXIT = 143


def demo(
    *,
    events: Annotated[int, typer.Option(min=1, max=100_000, help="How many records to produce.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the sample events.")] = 1,
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Stay up after the summary, until Ctrl-C, to look around.")
    ] = False,
) -> None:
    """Shows the whole path: a real Kafka, sample charges, the service, a sandbox platform, every outcome.

    Needs the extra [demo]. The first run fetches Kafka (45 MB) into the cache folder. Exits 1
    if any order is missing, doubled, or ended otherwise than expected.
    """
    import asyncio

    from consumer import logs
    from consumer.sandbox.gateway import DEMO_APP_SECRET
    from consumer.sandbox.screen import Screen

    logs.configure("error", hide=[DEMO_APP_SECRET])
    try:
        with Screen() as screen:
            report = asyncio.run(show(screen, events=events, seed=seed, keep_running=keep_running))
    except asyncio.CancelledError:  # SIGTERM
        raise typer.Exit(SIGTERM_EXIT) from None
    if not report.agrees:
        raise typer.Exit(1)


async def show(
    screen: "Screen",
    *,
    events: int,
    seed: int = 1,
    keep_running: bool = False,
    tamper: "Tamper" = lambda outcomes: outcomes,
) -> "Report":
    """The demo. `tamper` stands between the outcome topic and the summary: tests lose and double outcomes there."""
    from consumer.sandbox.broker import EmbeddedBroker
    from consumer.sandbox.gateway import SandboxGateway
    from consumer.sandbox.reconcile import reconcile
    from consumer.sandbox.traffic import committed_offsets, read_outcomes

    _let_sigterm_cancel()
    async with AsyncExitStack() as stack:
        broker = EmbeddedBroker()
        await broker.start(screen.step)
        stack.push_async_exit(broker)
        gateway = await stack.enter_async_context(SandboxGateway(latency=LATENCY, jitter=JITTER, seed=seed))
        servers = broker.bootstrap_servers
        await _create_topics(servers, screen)
        service = _service(broker, gateway)
        async with _running(service) as running:
            produced = await _produce_and_watch(servers, running, screen, events, seed)
            if not keep_running:
                await _drain(service, running, screen)
            outcomes = tamper(await read_outcomes(servers, OUTCOMES))
            committed = await committed_offsets(servers, GROUP, EVENTS)
            report = reconcile(produced, outcomes, gateway.journal, committed)
            screen.summary(report)
            if keep_running:
                await _until_interrupted(broker, gateway, service, running, screen)
                await _drain(service, running, screen)
        await broker.stop(screen.step)
        _say_where_to_look_next(screen)
    return report


def _let_sigterm_cancel() -> None:
    """What Ctrl-C does: everything is taken down."""
    import asyncio
    import signal

    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):  # else the temporary folder would stay
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


async def _create_topics(servers: str, screen: "Screen") -> None:
    from consumer.topics import TopicSpec, ensure_topics

    report = await ensure_topics(
        servers, {name: TopicSpec(PARTITIONS, 1) for name in (EVENTS, OUTCOMES, DEAD_LETTERS)}
    )
    screen.step(f"Created the topics {', '.join(report.created)}")


def _service(broker: "EmbeddedBroker", gateway: "SandboxGateway") -> "Service":
    from importlib.resources import files
    from pathlib import Path

    from consumer import rulebook
    from consumer.sandbox.gateway import DEMO_APP_SECRET
    from consumer.service import Service
    from consumer.settings import Settings

    rules = Path(str(files("consumer.sandbox") / "demo-rules.yaml"))
    settings = Settings.model_validate(
        {
            "kafka": {
                "bootstrap_servers": [broker.bootstrap_servers],
                "topics": {"events": [EVENTS], "outcomes": OUTCOMES, "dead_letters": DEAD_LETTERS},
                "group_id": GROUP,
            },
            "rules": rules,
            "gateway": {"url": gateway.url},
            "retries": {"base": "200ms", "cap": "1s"},
            "secrets": {"demo_app": DEMO_APP_SECRET, "plate_hash": "the demo's plates are no one's"},
            "drain_timeout": DRAIN_SECONDS,
            "web": {"host": "127.0.0.1", "port": 0},
        }
    )
    return Service(settings, rules=rulebook.load(rules))


@asynccontextmanager
async def _running(service: "Service") -> "AsyncIterator[asyncio.Task[None]]":
    """The service in a task that does not outlive this."""
    import asyncio

    running = asyncio.create_task(service.run())
    try:
        yield running
    finally:
        if not running.done():
            running.cancel()
            await asyncio.wait([running], timeout=5)


async def _produce_and_watch(
    servers: str, running: "asyncio.Task[None]", screen: "Screen", events: int, seed: int
) -> "list[Produced]":
    """Returns when every order has an outcome, or when none has come for too long."""
    import asyncio
    from datetime import UTC, datetime

    from consumer.sandbox.samples import sample_events
    from consumer.sandbox.traffic import produce

    samples = list(sample_events(events, now=datetime.now(UTC), seed=seed))
    orders = sum(len(sample.expected) for sample in samples)
    screen.step(f"Producing {len(samples)} records with {orders} orders; the service runs")
    producing = asyncio.create_task(produce(servers, EVENTS, samples, pause=PAUSE))
    watching = asyncio.create_task(_watch(servers, orders, screen))
    try:
        await asyncio.wait([watching, running], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()  # raises why it ended
            raise RuntimeError("the service ended before it was told to")
        await watching
        return await producing
    finally:
        for task in (producing, watching):
            task.cancel()
        await asyncio.wait([producing, watching])


async def _watch(servers: str, orders: int, screen: "Screen") -> None:
    import asyncio

    from consumer.sandbox.traffic import follow_outcomes

    done = 0
    screen.progress(done, orders)
    async with aclosing(follow_outcomes(servers, OUTCOMES)) as outcomes:
        while done < orders:
            try:
                async with asyncio.timeout(PATIENCE):
                    outcome = await anext(outcomes)
            except TimeoutError:
                screen.step(f"No further outcome for {PATIENCE:.0f} s; reconciling what there is")
                return
            done += 1
            screen.outcome(outcome)
            screen.progress(done, orders)


async def _drain(service: "Service", running: "asyncio.Task[None]", screen: "Screen") -> None:
    """Stopped as by SIGTERM: it drains, flushes and leaves the group."""
    import asyncio

    screen.step("Stopping the service: it drains, commits and leaves the group")
    service.stop()
    async with asyncio.timeout(2 * DRAIN_SECONDS):
        await running


async def _until_interrupted(
    broker: "EmbeddedBroker",
    gateway: "SandboxGateway",
    service: "Service",
    running: "asyncio.Task[None]",
    screen: "Screen",
) -> None:
    import asyncio
    import signal

    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    screen.step(f"The platform's journal: {gateway.base_url}/")
    screen.step(f"The service's state:    http://127.0.0.1:{service.port}/readyz and /metrics")
    screen.step(
        f"Kafka:                  {broker.bootstrap_servers}, topics {EVENTS}, {OUTCOMES}, {DEAD_LETTERS}"
    )
    screen.step("Ctrl-C ends it")
    waiting = asyncio.create_task(interrupted.wait())
    try:
        await asyncio.wait([waiting, running], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        loop.remove_signal_handler(signal.SIGINT)
        _let_sigterm_cancel()


def _say_where_to_look_next(screen: "Screen") -> None:
    from importlib.resources import files

    screen.step(f"The rules that decided: {files('consumer.sandbox') / 'demo-rules.yaml'}")
    screen.step("Look around while it runs: charging-coupon demo --keep-running")
    screen.step("On your own Kafka and platform: charging-coupon run --help")
