"""What goes wrong in one simulated run: drawn from its seed, done at its time, counted by kind and place. No I/O."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.simulation.kafka import AnswerError, Drop, FakeKafka, Fault, Late, LoseReply, Slow, Unreachable
from tests.simulation.member import Crew
from tests.simulation.platform import NOBODY, Platform
from tests.simulation.virtual import Process, VirtualLoop
from tests.simulation.world import EVENTS, OUTCOMES

RETRIABLE: Mapping[str, tuple[int, ...]] = {
    "InitProducerId": (14, 15, 16, 51),
    "AddOffsetsToTxn": (14, 15, 16, 51),
    "TxnOffsetCommit": (14, 15, 16),
    "AddPartitionsToTxn": (14, 15, 16, 51),
    "Produce": (5, 6, 7, 19, 20),
    "EndTxn": (14, 15, 16, 51),
    "OffsetFetch": (14, 16),
    "Heartbeat": (14, 15, 16),
}
"""Answers that each request can get from a broker in trouble."""

APPLIED = frozenset({7, 15, 20})
"""Of them those that a broker can give though it has done what was asked."""

NAMES = (
    *RETRIABLE,
    "FindCoordinator",
    "Metadata",
    "ListOffsets",
    "JoinGroup",
    "SyncGroup",
    "LeaveGroup",
    "Fetch",
)
ANY = ("unreachable", "lost request", "lost reply", "late", "answered", "slow")
CALL = "call"
"""To the platform."""

FLUSH = ("AddOffsetsToTxn", "TxnOffsetCommit", "AddPartitionsToTxn", "Produce", "EndTxn")


@dataclass(frozen=True, slots=True)
class Weather:
    """Requests that go wrong by chance, for a while.

    Attributes:
        whose: of every third member only, this one first; None: of all.
    """

    begin: float
    end: float
    rate: float
    names: frozenset[str]
    kinds: tuple[str, ...]
    whose: int | None = None

    def meets(self, process: Process, name: str, now: float) -> bool:
        mine = self.whose is None or int(process.name.rpartition("-")[2]) % 3 == self.whose
        return mine and name in self.names and self.begin <= now < self.end


@dataclass(eq=False, slots=True)
class Strike:
    """A process stops or dies: at a request of this name, or, without a name, at any callback.

    Attributes:
        pass_by: so many requests or callbacks go by before.
        seconds: how long it stops; None: it dies.
        arrives: the request that it makes then still arrives.
        woken: the stop ends when another process has read its offsets.
    """

    begin: float
    name: str | None
    pass_by: int
    seconds: float | None
    arrives: bool = True
    woken: bool = False


class Faults:
    """One run's.

    Attributes:
        counts: by (kind, place).
        themes: what this run's trouble is about.
        over: nothing goes wrong any more.
        met_at: when the last of them met a process.
    """

    def __init__(
        self, rng: Random, loop: VirtualLoop, crew: Crew, kafka: FakeKafka, platform: Platform
    ) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.over = False
        self.met_at: dict[Process, float] = {}
        self._sleepers: dict[Process, float] = {}
        self._rng = rng
        self._loop = loop
        self._crew = crew
        self._kafka = kafka
        self._platform = platform
        self._until = crew.world.trouble_until
        self._weather: list[Weather] = []
        self._strikes: list[Strike] = []
        self._strikes_at_steps: list[Strike] = []
        wanted = rng.choices(range(5), (3, 30, 32, 22, 13))[0]
        themes, weights = list(THEMES), [_OFTEN.get(theme, 1) for theme in THEMES]
        self.themes = list(dict.fromkeys(rng.choices(themes, weights, k=wanted)))
        for theme in self.themes:
            THEMES[theme](self)

    def count(self, kind: str, place: str) -> None:
        self.counts[kind, place] += 1

    # -- Asked by the loop and by Kafka -------------------------------------------------------------

    def at_step(self, process: Process) -> None:
        """Before each callback of a process."""
        if not self._strikes_at_steps or self.over:
            return
        for strike in list(self._strikes_at_steps):
            if strike.begin <= self._loop.time():
                strike.pass_by -= 1
                if strike.pass_by < 0:
                    self._strikes_at_steps.remove(strike)
                    self._strike(strike, process, self._crew.stands_at(process))

    def at_request(self, process: Process, name: str, request: Any) -> Fault | None:
        """For each request that is sent."""
        if self.over:
            return None
        now = self._loop.time()
        if name == "EndTxn":
            self._wake(process)
        if name == "InitProducerId" and self._ends_a_sleepers(request):
            self.count("slow", "ending a sleeper's transaction")
            return Slow(self._rng.uniform(0.8, 1.8))
        for strike in self._strikes:
            if strike.name == name and strike.begin <= now:
                strike.pass_by -= 1
                if strike.pass_by < 0:
                    self._strikes.remove(strike)
                    self._strike(strike, process, name if strike.arrives else f"before {name}")
                    return (
                        None
                        if strike.arrives and strike.seconds is not None
                        else LoseReply()
                        if strike.arrives
                        else Drop()
                    )
        for weather in self._weather:
            if weather.meets(process, name, now) and self._rng.random() < weather.rate:
                kind = self._rng.choice(weather.kinds)
                fault = _KINDS[kind](self._rng, name)
                if fault is not None:
                    self.count(kind, name)
                    self.met_at[process] = now
                    return fault
        return None

    def _wake(self, opened: Process) -> None:
        """`opened` has read its offsets: who was to wake then does so in a moment."""
        for sleeper, since in list(self._sleepers.items()):
            if sleeper is not opened and since + self._crew.world.timing.session < self._loop.time():
                del self._sleepers[sleeper]
                self._loop.call_later(self._rng.uniform(0.0, 0.2), sleeper.resume, context=NOBODY)

    def _ends_a_sleepers(self, request: Any) -> bool:
        return any(request.transactional_id in self._crew.of(each).own_ids for each in self._sleepers)

    def _strike_at(self, strike: Strike, process: Process, name: str) -> None:
        """Before the request is sent, or as soon as it is."""
        if strike.arrives:
            self._loop.call_soon(self._strike, strike, process, f"{name} sent", context=NOBODY)
        else:
            self._strike(strike, process, name)

    def _strike(self, strike: Strike, process: Process, place: str) -> None:
        if strike.seconds is None:
            self.count("crash", place)
            back_after = self._rng.choice((0.05, 1.0, self._rng.uniform(2, 8), None))
            self._crew.kill(process, back_after)
        else:
            longer = strike.seconds > self._crew.world.timing.session
            self.count("pause beyond the session" if longer else "pause", place)
            self._crew.pause(process, strike.seconds)
            if strike.woken:
                self._sleepers[process] = self._loop.time()
            self.met_at[process] = self._loop.time() + strike.seconds

    # -- Themes -------------------------------------------------------------------------------------

    def _at(self, when: float, kind: str, place: str, act: Callable[[], object]) -> None:
        def now() -> None:
            if not self.over:
                self.count(kind, place)
                act()

        self._loop.call_at(when, now)

    def _when(self) -> float:
        return self._rng.uniform(0.3, self._until - 1)

    def _bad_weather(self) -> None:
        """Any requests, any faults."""
        rate, kinds = self._rng.choice((0.02, 0.08, 0.25)), ANY
        self._weather.append(self._spell(rate, frozenset(NAMES), kinds))

    def _one_request_ails(self) -> None:
        name = self._rng.choice(NAMES)
        kinds = tuple(self._rng.sample(ANY, self._rng.randint(1, 3)))
        self._weather.append(self._spell(self._rng.choice((0.1, 0.3, 0.6)), frozenset({name}), kinds))

    def _late_copies(self) -> None:
        names = frozenset(self._rng.sample(NAMES, self._rng.randint(1, 3)))
        self._weather.append(self._spell(self._rng.choice((0.1, 0.3)), names, ("late",)))

    def _applied_and_denied(self) -> None:
        names = frozenset(self._rng.sample(FLUSH, 2))
        self._weather.append(self._spell(self._rng.choice((0.1, 0.3)), names, ("answered", "lost reply")))

    def _spell(self, rate: float, names: frozenset[str], kinds: tuple[str, ...]) -> Weather:
        begin = self._rng.choice((0.0, self._when()))
        return Weather(begin, begin + self._rng.choice((0.5, 3.0, self._until)), rate, names, kinds)

    def _deaths(self) -> None:
        for _ in range(self._rng.randint(1, 3)):
            self._strikes_at_steps.append(Strike(self._when(), None, self._rng.randrange(150), None))

    def _deaths_at_requests(self) -> None:
        for _ in range(self._rng.randint(1, 4)):
            name = self._rng.choice(FLUSH + NAMES)
            arrives = self._rng.random() < 0.6
            self._strikes.append(Strike(self._when(), name, self._rng.randrange(6), None, arrives))

    def _pauses(self) -> None:
        for _ in range(self._rng.randint(1, 3)):
            self._strikes_at_steps.append(Strike(self._when(), None, self._rng.randrange(150), self._pause()))

    def _pauses_at_requests(self) -> None:
        for _ in range(self._rng.randint(1, 4)):
            name = self._rng.choice(FLUSH + NAMES)
            self._strikes.append(Strike(self._when(), name, self._rng.randrange(6), self._pause()))

    def _pause(self) -> float:
        session = self._crew.world.timing.session
        return self._rng.choice((self._rng.uniform(0.05, 1.0), self._rng.uniform(1.05, 2.5) * session))

    def _takeover(self) -> None:
        """One stands still in mid-flush, and wakes when some of the others have taken over, and some have not."""
        name = self._rng.choice((*FLUSH[:3], CALL, CALL, CALL))
        pause = 4 * self._crew.world.timing.session
        self._strikes.append(Strike(self._when() * 0.6, name, self._rng.randrange(4), pause, woken=True))

    def _overtaking(self) -> None:
        """A copy that comes late meets the next transaction, which takes its time."""
        name = self._rng.choice(("EndTxn", "TxnOffsetCommit", "InitProducerId"))
        length = "second" if name == "InitProducerId" else "moment"
        slow = (
            {"EndTxn"} if name == "InitProducerId" else {"Produce", "AddPartitionsToTxn", "EndTxn"} - {name}
        )
        for rate, names, what in (
            (self._rng.choice((0.2, 0.5)), {name}, f"late by a {length}"),
            (self._rng.choice((0.0, 0.4)), {"EndTxn"}, "done and denied"),
            (0.6, slow, f"slow by a {length}"),
        ):
            self._weather.append(Weather(0.3, self._until, rate, frozenset(names), (what,)))

    def _successor_dies_too(self) -> None:
        """One dies in mid-flush, and who takes over dies before it has ended that transaction; others wait for both."""
        at, session = self._rng.uniform(0.3, self._until * 0.5), self._crew.world.timing.session
        self._strikes.append(Strike(at, self._rng.choice(FLUSH[2:]), self._rng.randrange(3), None))
        arrives = self._rng.random() < 0.3
        again = Strike(at + session * 0.8, "InitProducerId", self._rng.randrange(3), None, arrives)
        self._strikes.append(again)

    def _unheard(self) -> None:
        """One goes on with its work while its heartbeats get lost; the others are slow to take over."""
        session = self._crew.world.timing.session
        at = self._when() * 0.7
        whose = self._rng.randrange(3)
        beats, begins = frozenset({"Heartbeat"}), frozenset({"InitProducerId"})
        self._weather.append(Weather(at, at + 1.5 * session, 1.0, beats, ("lost request",), whose))
        self._weather.append(Weather(at + session, at + 3 * session, 0.5, begins, ("slow",)))

    def _markers_slow(self) -> None:
        """What is decided becomes visible late, and not everywhere at once."""
        rate, most = self._rng.choice((0.2, 0.6)), self._rng.choice((0.3, 1.5))

        def slow() -> float:
            late = not self.over and self._rng.random() < rate
            if late:
                self.count("slow", "markers")
            return self._rng.uniform(0.01, most) if late else self._rng.uniform(0.001, 0.004)

        setattr(self._kafka, "marker_delay", slow)  # noqa: B010  # mypy knows that a method is no variable

    def _rebalance_storm(self) -> None:
        at, pace = self._when(), self._rng.choice((0.1, 0.5, 1.5))
        for _ in range(self._rng.randint(2, 8)):
            self._at(at, "rebalance", "asked for", lambda: self._crew.rejoin(self._rng))
            at += self._rng.uniform(0.2, 1.8) * pace

    def _members_come_and_go(self) -> None:
        for _ in range(self._rng.randint(1, 4)):
            self._at(self._when(), "rebalance", "a member more", self._crew.add)
            self._at(self._when(), "stop", "SIGTERM", lambda: self._crew.stop_one(self._rng))

    def _coordinators_move(self) -> None:
        for _ in range(self._rng.randint(1, 5)):
            self._at(self._when(), "move", "group coordinator", lambda: self._kafka.move_group(self._rng))
            self._at(
                self._when(),
                "move",
                "transaction coordinator",
                lambda: self._kafka.move_transactions(self._rng),
            )
            self._at(self._when(), "move", "leader", lambda: self._kafka.move_leader(self._rng))

    def _slow_broker(self) -> None:
        names = frozenset(NAMES) if self._rng.random() < 0.5 else frozenset(self._rng.sample(NAMES, 3))
        self._weather.append(self._spell(self._rng.choice((0.1, 0.5)), names, ("slow",)))

    def _topics_grow(self) -> None:
        topic = self._rng.choice((EVENTS, OUTCOMES, self._crew.world.retry_topics[0]))
        self._at(self._when(), "more partitions", topic, lambda: self._kafka.add_partitions(topic, 1))

    def _ids_expire(self) -> None:
        """As if nobody had written for a week: the coordinator knows none of them any more."""
        for _ in range(self._rng.randint(1, 3)):
            self._at(self._when(), "forgotten", "transactional ids", self._kafka.expire_ids)

    def _platform_hangs(self) -> None:
        at = self._when()
        ends = at + self._rng.uniform(1.0, 6.0)
        self._at(at, "platform", "hangs", lambda: setattr(self._platform, "hangs_until", ends))

    def _platform_fails(self) -> None:
        at = self._when()
        moody = self._rng.choice((0.2, 0.6))
        self._at(at, "platform", "fails and loses replies", lambda: setattr(self._platform, "moody", moody))
        if self._rng.random() < 0.4:
            ends = at + self._rng.uniform(1.0, 5.0)
            self._at(at, "platform", "is down", lambda: setattr(self._platform, "down_until", ends))

    def _platform_slow(self) -> None:
        slow = self._rng.choice((0.2, 0.6))
        self._at(self._when() / 2, "platform", "is slow", lambda: setattr(self._platform, "slowness", slow))

    def _account_refused(self) -> None:
        at, account = self._when(), self._rng.choice(("main", "other"))
        ends = at + self._rng.uniform(1.0, 5.0)
        self._at(at, "platform", "refuses an account", lambda: self._platform.refuses.update({account: ends}))


THEMES: Mapping[str, Callable[[Faults], None]] = {
    theme.__name__.strip("_"): theme
    for theme in (
        Faults._bad_weather,
        Faults._one_request_ails,
        Faults._late_copies,
        Faults._applied_and_denied,
        Faults._deaths,
        Faults._deaths_at_requests,
        Faults._pauses,
        Faults._pauses_at_requests,
        Faults._takeover,
        Faults._overtaking,
        Faults._successor_dies_too,
        Faults._unheard,
        Faults._markers_slow,
        Faults._rebalance_storm,
        Faults._members_come_and_go,
        Faults._coordinators_move,
        Faults._slow_broker,
        Faults._topics_grow,
        Faults._ids_expire,
        Faults._platform_hangs,
        Faults._platform_fails,
        Faults._platform_slow,
        Faults._account_refused,
    )
}


_OFTEN: Mapping[str, int] = {
    "late_copies": 2,
    "applied_and_denied": 2,
    "deaths_at_requests": 3,
    "pauses_at_requests": 2,
    "takeover": 8,
    "overtaking": 8,
    "unheard": 2,
    "successor_dies_too": 3,
    "markers_slow": 2,
    "rebalance_storm": 3,
    "members_come_and_go": 2,
}
"""What finds most is drawn more often."""


def _late(rng: Random, _: str) -> Fault:
    return Late(rng.choice((rng.uniform(0.001, 0.05), rng.uniform(0.05, 0.5), rng.uniform(0.5, 4.0))))


def _answered(rng: Random, name: str) -> Fault | None:
    codes = RETRIABLE.get(name)
    if codes is None:
        return None
    code = rng.choice(codes)
    return AnswerError(code, applied=code in APPLIED and rng.random() < 0.6)


_KINDS: Mapping[str, Callable[[Random, str], Fault | None]] = {
    "unreachable": lambda _, __: Unreachable(),
    "lost request": lambda _, __: Drop(),
    "lost reply": lambda _, __: LoseReply(),
    "late": _late,
    "answered": _answered,
    "late by a moment": lambda rng, _: Late(rng.uniform(0.03, 0.4)),
    "late by a second": lambda rng, _: Late(rng.uniform(0.1, 2.5)),
    "slow by a moment": lambda rng, _: Slow(rng.uniform(0.01, 0.2)),
    "slow by a second": lambda rng, _: Slow(rng.uniform(0.3, 1.6)),
    "done and denied": lambda _, __: AnswerError(15, applied=True),
    "slow": lambda rng, _: Slow(rng.choice((rng.uniform(0.01, 0.2), rng.uniform(0.2, 2.0)))),
}
