"""What became of an order, and how it is written to Kafka. Performs no I/O.

An outcome's fields are described in `schemas/coupon-outcome.v1.schema.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from consumer.core.events import Record, Value


class Outcome(StrEnum):
    """The final word on an order. The platform's answers first, then our own words."""

    GRANTED = "granted"
    ALREADY_GRANTED = "already_granted"
    NOT_ENTERED = "not_entered"
    LIMITED = "limited"
    NOT_CONFIGURED = "not_configured"
    LOT_FAILED = "lot_failed"
    PLATFORM_FAILED = "platform_failed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"

    UNMATCHED = "unmatched"
    SKIPPED = "skipped"
    INVALID = "invalid"
    SUSPECT = "suspect"
    EXPIRED = "expired"
    SHADOW = "shadow"


class Reason(StrEnum):
    """Why an order got an outcome of ours. A closed set: it is also a metric label."""

    PLATE_MISSING = "plate_missing"
    ID_MISSING = "id_missing"
    FIELD_MISSING = "field_missing"
    ZONE_MISSING = "zone_missing"
    BELOW_THRESHOLD = "below_threshold"
    NOT_A_CHARGE = "not_a_charge"
    NOT_FINISHED = "not_finished"
    REVERSAL = "reversal"
    DELETE = "delete"
    TOMBSTONE = "tombstone"
    STOP_REASON = "stop_reason"
    POLICY = "policy"
    NO_RULE = "no_rule"
    NOT_JSON = "not_json"
    NOT_FINITE = "not_finite"
    ENCRYPTED = "encrypted"
    NOT_TEXT = "not_text"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    SCHEMA = "schema"
    RULE_ERROR = "rule_error"
    OVERFLOW = "overflow"
    PLATE_DOUBTFUL = "plate_doubtful"
    END_BEFORE_START = "end_before_start"
    IN_FUTURE = "in_future"
    BEFORE_2000 = "before_2000"
    TOO_MUCH_ENERGY = "too_much_energy"
    DURATIONS_DISAGREE = "durations_disagree"
    DEADLINE = "deadline"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Finding:
    """An order, or a whole record, that ends without a request: what reading or the rules found.

    Attributes:
        index: the order's place in the record; 0 where the record holds none.
        outcome: one of ours (`unmatched` and after).
        detail: one sentence for the person who looks into it; never a plate or a secret.
        dead_letter: the original goes to the dead-letter topic too.
        values: what could be read all the same (order_id, plate, station_id, ...).
        reverses: the order that a reversal takes back.
        rule: the rule that decided, where one did.

    """

    index: int
    outcome: Outcome
    reason: Reason
    detail: str = ""
    dead_letter: bool = False
    values: Mapping[str, Value] | None = None
    reverses: str | None = None
    rule: str | None = None
    account: str | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Attempts:
    """What an order's delivery went through.

    Attributes:
        count: HTTP calls made.
        first_at, last_at: wall clock of the first call's start and the last call's end.
        seconds: duration of the last call.
        ambiguous: an earlier call may have granted the coupon (timeout, reset, crash);
            said of `already_granted`, whose grant may be ours.

    """

    count: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    seconds: float | None = None
    ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class GatewayWords:
    """What the platform said last, as it said it (domain: replies). None where it did not say."""

    code: str | None = None
    http_status: int | None = None
    message: str | None = None
    hint: str | None = None
    seqno: str | None = None
    data_node: str | None = None
    time_cost_ms: int | None = None
    grant_serial: str | None = None
    enter_time: str | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """One order's end: an outcome, with a dead letter where asked for. The ledger writes it.

    Attributes:
        record: the record that held the order.
        index: the order's place in it.
        parameters: the request's fields as sent, without `sign`; None if none was built.
        metadata: the values computed by the rule, by metadata key.
        decided_at: when this was decided, aware.

    """

    record: Record
    index: int
    outcome: Outcome
    decided_at: datetime
    reason: Reason | None = None
    detail: str = ""
    dead_letter: bool = False
    source: str | None = None
    rule: str | None = None
    account: str | None = None
    rules_hash: str = ""
    values: Mapping[str, Value] | None = None
    suspicions: tuple[str, ...] = ()
    reverses: str | None = None
    parameters: Mapping[str, str] | None = None
    metadata: Mapping[str, int] | None = None
    attempts: Attempts = Attempts()
    words: GatewayWords = GatewayWords()


class PlateMode(StrEnum):
    """What of a plate the outcome topic holds."""

    CLEAR = "clear"
    HASH = "hash"
    BOTH = "both"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Privacy:
    """How plates appear in outcomes.

    Attributes:
        plates: the mode; it governs the record key, `subject` and free text too.
        hash_key: the key of the plates' HMAC-SHA256; needed for `hash` and `both`.

    """

    plates: PlateMode = PlateMode.CLEAR
    hash_key: bytes = field(default=b"", repr=False)

    @property
    def clear(self) -> bool:
        """Plates may be read in the outcome topic."""
        return self.plates in (PlateMode.CLEAR, PlateMode.BOTH)

    @property
    def hashed(self) -> bool:
        """Plates can be compared in the outcome topic, by whoever has the key."""
        return self.plates in (PlateMode.HASH, PlateMode.BOTH)
