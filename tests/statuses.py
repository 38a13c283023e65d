"""Two moments of a service, for the tests of its page, the schema's examples and the README's pictures."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from consumer.core.breakers import State, Why
from consumer.core.status import (
    AccountStatus,
    Counted,
    Counts,
    LedgerStatus,
    Limits,
    Memory,
    PartitionStatus,
    Recent,
    RulesStatus,
    Status,
    Tier,
    tiers_of,
)

AT = datetime(2026, 3, 1, 4, 7, 12, tzinfo=UTC)
TOPIC, RETRIES = "charging-completed", "coupon-retries"


def ago(seconds: float) -> datetime:
    return AT - timedelta(seconds=seconds)


def recent(seconds: float, number: int, plate: str, outcome: str = "granted", **more: object) -> Recent:
    whole = {
        "at": ago(seconds),
        "outcome": outcome,
        "reason": None,
        "code": "1001",
        "waits_for": None,
        "due_at": None,
        "order_id": f"MA5DA00120260301110000{number:05}",
        "plate": plate,
        "account": "main",
        "rule": "two-hours-free",
        "attempts": 1,
        "message": "操作成功",
    }
    return Recent(**(whole | more))  # type: ignore[arg-type]  # as the names say


def partition(number: int, frontier: int, lag: int = 0, held: int = 0, **more: object) -> PartitionStatus:
    whole = {
        "topic": TOPIC,
        "partition": number,
        "waits": False,
        "lag": lag,
        "frontier": frontier,
        "position": frontier + held,
        "under_way": held,
        "map_bytes": 64 if held else 32,
    }
    return PartitionStatus(**(whole | more))  # type: ignore[arg-type]  # as the names say


def waiting(tier: str, frontier: int, lag: int, due_in: float | None) -> PartitionStatus:
    due_at = None if due_in is None else ago(-due_in)
    paused = None if due_in is None else "not_due"
    topic = f"{RETRIES}.{tier}"
    return partition(0, frontier, lag, topic=topic, waits=True, paused=paused, due_at=due_at)


def granting() -> Status:
    """All goes well; one rules file was saved with a mistake in it."""
    return Status(
        at=AT,
        started_at=ago(3 * 86400 + 5 * 3600),
        version="0.1.0",
        python="3.13.1",
        host="coupons-7d9c6b5f4-x2x8k",
        group="charging-coupon",
        guarantee="exactly_once",
        alive=True,
        ready=True,
        stopping=False,
        joined=True,
        rebalancing=False,
        waiting_for=None,
        unreadable_topics=[],
        credentials_kept=[],
        counts=Counts(
            61.2,
            records=[Counted(TOPIC, 297, 941_310)],
            replies=[
                Counted("1001", 212, 668_204),
                Counted("1002", 31, 90_112),
                Counted("1403", 9, 20_481),
                Counted("1003", 6, 17_630),
                Counted("1405", 2, 1_254),
                Counted("503", 0, 861),
                Counted("timeout", 0, 140),
            ],
            outcomes=[
                Counted("granted", 212, 668_204),
                Counted("skipped", 42, 139_870),
                Counted("unmatched", 19, 60_007),
                Counted("not_entered", 5, 31_066),
                Counted("already_granted", 9, 20_481),
                Counted("limited", 6, 17_630),
                Counted("invalid", 0, 212),
                Counted("lot_failed", 0, 97),
            ],
            retries=[
                Counted(f"{RETRIES}.1m", 26, 58_310),
                Counted(f"{RETRIES}.5m", 8, 41_090),
                Counted(f"{RETRIES}.30m", 3, 29_400),
            ],
            dead_letters=[Counted("invalid", 0, 212), Counted("lot_failed", 0, 97)],
            transactions=[Counted("committed", 188, 701_233), Counted("retriable", 0, 14)],
        ),
        accounts=[
            AccountStatus(
                "main",
                "on",
                "https://api.4pyun.com/gate/1.0/parking/mcoupon/event",
                limit=24,
                in_flight=3,
                rate=40.0,
            ),
            AccountStatus("airport", "shadow", "https://parking.example.com/coupon", limit=4),
        ],
        limits=Limits(in_flight=3, max_in_flight=256, share=1 / 3, rate=66.6667, fleet_in_flight=85),
        memory=Memory(6, 2000, 9_412, 64 << 20),
        partitions=[
            partition(0, 311_204),
            partition(1, 309_877, lag=2, held=4),
            partition(2, 320_229, lag=1, held=1),
            waiting("1m", 58_300, 9, 12.0),
            waiting("5m", 41_052, 37, 71.5),
            waiting("30m", 29_312, 86, 403.0),
        ],
        tiers=[
            Tier(f"{RETRIES}.1m", 60, 1, 9, ago(-12.0)),
            Tier(f"{RETRIES}.5m", 300, 1, 37, ago(-71.5)),
            Tier(f"{RETRIES}.30m", 1800, 1, 86, ago(-403.0)),
        ],
        ledger=LedgerStatus(open=True, pending=2, committed_at=ago(0.2)),
        rules=RulesStatus("5f0c9b1a2c3d", ago(86_000), 18, 412),
        recent=[
            recent(0.2, 417, "粤B*****5"),
            recent(0.2, 416, "粤A****K"),
            recent(
                0.4,
                411,
                "川A*****7",
                code="1002",
                outcome=None,  # type: ignore[arg-type]  # it waits
                waits_for="reply",
                due_at=ago(-59.6),
                message="车辆未入场",
            ),
            recent(0.7, 415, "苏E*****3"),
            recent(
                0.9, 414, "粤B*****1", "skipped", code="", reason="below_threshold", attempts=0, message=""
            ),
            recent(1.1, 409, "沪A*****8", "limited", code="1003", message="已达上限"),
            recent(1.3, 413, "粤S****6"),
        ],
    )


def held_up() -> Status:
    """The platform fails; and the rules files are wrong."""
    well = granting()
    main, airport = well.accounts
    partitions = [
        partition(0, 311_204, lag=2_310, held=21, paused="breaker"),
        partition(1, 309_877, lag=1_877, held=25, paused="breaker"),
        partition(2, 320_229, lag=2_041, held=18, paused="breaker"),
        waiting("1m", 58_300, 112, None),
        waiting("5m", 41_052, 61, 71.5),
        waiting("30m", 29_312, 90, 403.0),
    ]
    return replace(
        well,
        limits=replace(well.limits, in_flight=1),
        ledger=replace(well.ledger, pending=0, committed_at=ago(229)),
        memory=replace(well.memory, records=64, bytes=101_377),
        tiers=tiers_of(partitions, {tier.topic: tier.delay_seconds for tier in well.tiers}),
        partitions=partitions,
        counts=replace(
            well.counts,
            records=[Counted(TOPIC, 0, 941_310)],
            replies=[Counted("1001", 0, 668_204), Counted("503", 38, 899), Counted("timeout", 12, 152)],
            outcomes=[replace(each, last_minute=0) for each in well.counts.outcomes],
        ),
        accounts=[
            replace(
                main,
                breaker=State.OPEN,
                breaker_why=Why.FAILURES,
                code="503",
                since=ago(240),
                probe_in_seconds=3.1,
                in_flight=0,
                limit=4,
                waiting=64,
                held_by="breaker",
            ),
            replace(
                airport,
                state="on",
                breaker=State.HALF_OPEN,
                breaker_why=Why.STOP,
                code="401",
                since=ago(50_000),
                in_flight=1,
            ),
        ],
        rules=replace(
            well.rules,
            refused_at=ago(1_900),
            problems=[
                "rules.yaml:12:7: `minute` is no field that a charge can have; did you mean `minutes`?",
                "rules.yaml:31:5: no account is named `airports`; name one of: airport, main",
            ],
        ),
    )
