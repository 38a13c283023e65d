"""The exceptions of this package, one small tree. Performs no I/O.

Expected results (a refused coupon, an unreadable event) are values; an exception
means "cannot continue" and carries what the person who reads it has to do.
"""

from dataclasses import dataclass


class CouponConsumerError(Exception):
    """Base of every exception that this package raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a file or setting.

    Attributes:
        place: where it stands: `rules.yaml:12:7`, `CHARGING_COUPON__GATEWAY__URL`.
        message: what is wrong.
        remedy: what to do about it.

    """

    place: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}; {self.remedy}"


class ConfigurationError(CouponConsumerError):
    """Settings or rules that cannot be used. Holds all their problems at once."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class BrokerUnavailableError(CouponConsumerError):
    """Kafka cannot be reached, or does not have what is needed."""


class RefusedError(CouponConsumerError):
    """Kafka or the platform refuses us (credentials, rights, a feature that it lacks)."""


class GuaranteeError(RefusedError):
    """Kafka cannot give the guarantee that the settings ask for, or does not allow it to us."""
