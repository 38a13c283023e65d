"""How the platform behaves over time, as data: latency and failures by phase. Performs no I/O, reads no clock.

A new one is an entry of `SCENARIOS`; `charging-coupon demo` and `charging-coupon sandbox`
offer whatever is in there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf

from consumer.sandbox.answers import Delivery

MOST_WATCHED = 2_000
"""Records up to which they are sent so that one can watch what becomes of them, where nothing else says how fast."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time in which the platform behaves in one way.

    Attributes:
        words: what one would notice of it; they go on after "the platform".
        seconds: how long; the last phase of a scenario goes on for ever.
        latency: mean seconds until a reply, at its beginning and at its end.
        jitter: share of the latency by which it varies (0.5: from half to one and a half).
        failures: rates of answers (`answers.ANSWERS`) drawn by chance, before the plate has its say.
        deliveries: rates of ways in which a reply comes that was decided on as ever.
        capacity: calls that it works on at once; more wait, first come first served. None: any number.
        rate: calls a second that it answers; more are answered 429 with Retry-After. None: any number.

    """

    name: str
    words: str
    seconds: float
    latency: tuple[float, float]
    jitter: float = 0.6
    failures: Mapping[str, float] = field(default_factory=dict)
    deliveries: Mapping[Delivery, float] = field(default_factory=dict)
    capacity: int | None = None
    rate: float | None = None

    @property
    def fails(self) -> bool:
        """Calls fail that would not otherwise."""
        losing = [each for each in self.deliveries if each is Delivery.HALF_OPEN or not each.heard]
        return bool(self.failures or losing) or self.rate is not None


@dataclass(frozen=True, slots=True)
class Moment:
    """A scenario at one point in time.

    Attributes:
        latency: mean seconds until a reply, now.
        left: seconds until the next phase; None in the last one.

    """

    phase: Phase
    latency: float
    left: float | None

    @property
    def troubled(self) -> bool:
        """Calls fail that would not otherwise."""
        return self.phase.fails


@dataclass(frozen=True, slots=True)
class Scenario:
    """A platform's behaviour over time, and the load that shows it.

    Attributes:
        words: for those who choose.
        events: records that the demo produces unless told otherwise.
        call_timeout: seconds that the demo's service waits for a reply; ample where waiting
            too long is not the point, for machines that have more to do.
        latency_of_many: mean seconds until a reply where more than `MOST_WATCHED` records go as fast as they can;
            None: as ever. So that it is not for the platform that the service waits.

    """

    name: str
    words: str
    phases: tuple[Phase, ...]
    events: int
    call_timeout: float = 30.0
    latency_of_many: float | None = None

    @property
    def seconds(self) -> float:
        """All phases together."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def fails(self) -> bool:
        """Some calls fail, so that an order may come to another end than without."""
        return any(phase.fails for phase in self.phases)

    def at(self, seconds: float) -> Moment:
        """So many seconds after its beginning."""
        *passing, last = self.phases
        for phase in passing:
            if seconds < phase.seconds:
                return Moment(phase, _between(phase, seconds), phase.seconds - seconds)
            seconds -= phase.seconds
        return Moment(last, _between(last, seconds), None)

    def rate(self, events: int) -> float:
        """Records a second that so many of them are produced at.

        They fill the scenario, so that each phase is met. Where there is one phase
        only, few records need not take that long, and many show how fast it goes.
        """
        evenly = events / self.seconds
        if len(self.phases) > 1:
            return evenly
        return inf if events > MOST_WATCHED else max(evenly, self.events / self.seconds)

    def with_many(self, events: int) -> "Scenario":
        """As it is where so many are produced."""
        if self.latency_of_many is None or self.rate(events) != inf:
            return self
        both = (self.latency_of_many, self.latency_of_many)
        return replace(self, phases=tuple(replace(phase, latency=both) for phase in self.phases))

    def scaled(self, factor: float) -> "Scenario":
        """The same in so many times the time: phases, latencies and timeout."""
        phases = tuple(
            replace(
                phase,
                seconds=phase.seconds * factor,
                latency=(phase.latency[0] * factor, phase.latency[1] * factor),
                rate=None if phase.rate is None else phase.rate / factor,
            )
            for phase in self.phases
        )
        return replace(self, phases=phases, call_timeout=self.call_timeout * factor)


def _between(phase: Phase, seconds: float) -> float:
    begin, end = phase.latency
    return begin + (end - begin) * min(1.0, seconds / phase.seconds)


_WELL = (0.08, 0.08)

STEADY = Scenario(
    "steady",
    "the platform answers within about a tenth of a second",
    (Phase("well", "answers at once", 20.0, _WELL),),
    events=600,
    latency_of_many=0.02,
)
SLOW = Scenario(
    "slow",
    "the platform takes 1 to 3 seconds for each reply",
    (Phase("slow", "takes 1 to 3 seconds for a reply", 25.0, (2.0, 2.0), jitter=0.5),),
    events=500,
)
BROWN_OUT = Scenario(
    "brown-out",
    "the platform slows down, fails most calls for 8 seconds, and recovers",
    (
        Phase("well", "answers at once", 7.0, _WELL),
        Phase("slowing", "takes longer and longer", 4.0, (0.1, 1.5), failures={"503": 0.1}),
        Phase(
            "brown-out",
            "fails most calls, and some replies to grants are lost",
            8.0,
            (1.5, 2.2),
            failures={"503": 0.35, "500": 0.1, "html": 0.05, "hang": 0.07, "lost": 0.08},
        ),
        Phase(
            "recovering",
            "recovers: fewer calls fail, replies come sooner",
            4.0,
            (2.0, 0.2),
            failures={"503": 0.15},
        ),
        Phase("well again", "answers at once", 9.0, _WELL),
    ),
    events=600,
    call_timeout=2.8,
)

HIDDEN_CAPACITY = Scenario(
    "hidden-capacity",
    "the platform works on so many calls at once, then half, then four times as many; more wait there",
    tuple(
        Phase(
            words,
            f"works on {words} calls at once; more would wait there",
            seconds,
            (0.2, 0.2),
            0.3,
            capacity=capacity,
        )
        for words, capacity, seconds in (("twelve", 12, 10.0), ("six", 6, 10.0), ("twenty-four", 24, 12.0))
    ),
    events=1400,
)
_AWAY: Mapping[str, float] = {"reset": 0.6, "503": 0.4}
OUTAGE = Scenario(
    "outage",
    "the platform is away for 10 seconds, and comes back",
    (
        Phase("well", "answers at once", 7.0, _WELL),
        Phase(
            "away", "is away: it cuts calls off, or says that it is unavailable", 10.0, _WELL, failures=_AWAY
        ),
        Phase("well again", "answers at once", 10.0, _WELL),
    ),
    events=600,
)
FLAPPING = Scenario(
    "flapping",
    "the platform comes and goes, every few seconds",
    (
        *(
            phase
            for _ in range(3)
            for phase in (
                Phase("well", "answers at once", 5.0, _WELL),
                Phase("away", "is away again", 3.0, _WELL, failures=_AWAY),
            )
        ),
        Phase("well again", "answers at once", 6.0, _WELL),
    ),
    events=600,
)
RATE_LIMITED = Scenario(
    "rate-limited",
    "the platform answers 25 calls a second, and all others with 429 and Retry-After",
    (Phase("limited", "answers 25 calls a second, and refuses all others", 24.0, _WELL, rate=25.0),),
    events=600,
)

REDIRECTS = Scenario(
    "redirects",
    "the platform leads to a login page for 3 seconds; the service stops, and tries again after 30",
    (
        Phase("well", "answers at once", 5.0, _WELL),
        Phase("redirecting", "leads to a login page", 3.0, _WELL, failures={"302": 1.0}),
        Phase("well again", "answers at once", 12.0, _WELL),
    ),
    events=300,
)


def _on_the_wire(
    name: str, words: str, *ways: Delivery, failures: Mapping[str, float] | None = None
) -> Scenario:
    """Some of the connections misbehave, all the time."""
    phase = Phase(
        name,
        words,
        20.0,
        _WELL,
        failures=failures or {},
        deliveries=dict.fromkeys(ways, 0.1 / max(1, len(ways))),
    )
    return Scenario(name, f"the platform {words}", (phase,), events=400, call_timeout=3.0)


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        STEADY,
        SLOW,
        HIDDEN_CAPACITY,
        RATE_LIMITED,
        BROWN_OUT,
        OUTAGE,
        FLAPPING,
        REDIRECTS,
        _on_the_wire("half-open", "vanishes from some connections without a word", Delivery.HALF_OPEN),
        _on_the_wire("stale-keep-alive", "closes kept connections when they are used again", Delivery.STALE),
        _on_the_wire(
            "resets",
            "resets some connections before, while or after it replies",
            Delivery.RESET,
            Delivery.RESET_DURING,
            Delivery.RESET_AFTER,
        ),
        _on_the_wire("truncated", "breaks some replies off", Delivery.TRUNCATE),
        _on_the_wire("oversized", "makes some replies a megabyte long", Delivery.OVERSIZED),
        _on_the_wire("trickle", "sends some replies byte by byte", Delivery.TRICKLE),
        _on_the_wire(
            "html-200", "answers some calls with a page, and status 200", failures={"html_200": 0.1}
        ),
        _on_the_wire(
            "wrong-length",
            "says of some replies that they are shorter or longer",
            Delivery.SHORT_LENGTH,
            Delivery.LONG_LENGTH,
        ),
        _on_the_wire("chunked-trailers", "sends some replies in chunks, with a trailer", Delivery.CHUNKED),
        _on_the_wire("interim-1xx", "says 100 and 103 before some replies", Delivery.INTERIM),
    )
}
"""Every scenario by name."""
