"""An order and the rule that matched it -> the request to the parking platform. Performs no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass

from consumer.core.outcomes import Finding


@dataclass(frozen=True, slots=True)
class CouponRequest:
    """One coupon to ask for, complete but for the signature.

    Attributes:
        account: name of the rules file's account whose secret signs it.
        rule: name of the rule that matched.
        url: where it is posted; None means the settings' gateway URL.
        parameters: the form's fields in the order in which they are sent, `sign`
            not among them, none of them empty.
        metadata: the values the rule computed, by metadata key, as 32-bit integers.
        shadow: everything but the request is wanted (account or rule in state `shadow`).

    """

    account: str
    rule: str
    url: str | None
    parameters: Mapping[str, str]
    metadata: Mapping[str, int]
    shadow: bool = False


Plan = CouponRequest | Finding
"""What is to be done for an order: ask for a coupon, or end it without a request."""
