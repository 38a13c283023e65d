"""The end of one HTTP call -> what the platform said and what follows from it. Performs no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from consumer.core.outcomes import GatewayWords, Outcome


@dataclass(frozen=True, slots=True)
class Answered:
    """The whole reply arrived.

    Attributes:
        status: HTTP status.
        body: the reply's bytes, bounded by the settings.
        retry_after: the header as it came, or None.

    """

    status: int
    body: bytes
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class NotSent:
    """The request certainly did not reach the platform (refused, no such name, connect timeout)."""

    error: str


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """The request may have been carried out: timeout, reset, or a truncated reply after sending began."""

    error: str


AttemptEnd = Answered | NotSent | NoAnswer
"""How one call ended: a closed set."""


class Then(StrEnum):
    """What follows a reply (`../README.md`, replies)."""

    FINAL = "final"
    NOW = "now"
    LATER = "later"
    NOW_THEN_LATER = "now_then_later"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Reply:
    """A classified attempt end.

    Attributes:
        label: the metric's label: the code where the table has it, `other` where not,
            `timeout`, `reset` ... where there is none.
        outcome: what the order becomes if this reply is the last word.
        then: whether and when to try again.
        dead_letter: the original goes to the dead-letter topic if this is the last word.
        words: what the platform said.
        ambiguous: the call may have granted the coupon.
        retry_after: seconds the platform asks us to wait, not yet capped; None if it does not.

    """

    label: str
    outcome: Outcome
    then: Then
    dead_letter: bool
    words: GatewayWords
    ambiguous: bool = False
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class ReplyRow:
    """One row of the reply table.

    Attributes:
        outcome: what the order becomes if this reply is the last word.
        then: whether and when to try again.
        dead_letter: the original goes to the dead-letter topic if this is the last word.
        messages: messages under which this code really means another code (1500
            "no parking record matched" means 1002), by the message's text.
        deadline_seconds: how long after the end of charging a later try still makes
            sense; None is the service's own deadline.

    """

    outcome: Outcome
    then: Then
    dead_letter: bool = False
    messages: Mapping[str, str] | None = None
    deadline_seconds: float | None = None
