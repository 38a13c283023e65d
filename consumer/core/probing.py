"""Which form of `metadata` the platform accepts: the requests to try, and what replies say of the form. Performs no I/O.

The endpoint's document leaves the form open. All requests have one `event_id`, by which the platform grants
one coupon at most.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from msgspec.structs import replace

from consumer.core.coupons import CouponRequest, Datum, MetadataFormat, is_metadata, metadata_fields
from consumer.core.replies import SIGNATURE_REFUSED, Reply, Then


class Says(StrEnum):
    """What a reply says of the form."""

    ACCEPTED = "accepted"
    """The platform acted upon the request."""

    PASSED = "passed"
    """It found nothing wrong with the request; perhaps it never looked at the metadata."""

    UNCLEAR = "unclear"
    """It may have been the form; nothing was granted."""

    REFUSED = "refused"
    """It found fault with the form; nothing was granted."""

    NOTHING = "nothing"
    """Nothing, and other forms would be answered alike, or may not be sent after this."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """A reply, for whoever tries the platform out.

    Attributes:
        text: what it means.
        remedy: what to do about it; empty where nothing is to be done.

    """

    says: Says
    text: str
    remedy: str = ""

    @property
    def ends_it(self) -> bool:
        """No other form is to be tried after it."""
        return self.says in (Says.ACCEPTED, Says.NOTHING)


def in_form(request: CouponRequest, metadata: Sequence[Datum], form: MetadataFormat) -> CouponRequest:
    """The same request with its metadata in this form."""
    parameters: dict[str, str] = {}
    for name, text in request.parameters.items():
        if not is_metadata(name):
            parameters[name] = text
        if name == "subject":
            parameters |= metadata_fields(metadata, form)
    return replace(request, form=parameters)


_FIELD = re.compile(r"`([^`]+)`")

_ANOTHER_PLATE = "try the plate of a car that is in the lot"

_MEANINGS = {
    "1001": Meaning(
        Says.ACCEPTED,
        "A coupon was granted, a real one unless this is a sandbox.",
        "see in the lot's system that it is worth what `metadata` says: where all coupons are alike, nobody may look at it",
    ),
    "1002": Meaning(
        Says.PASSED,
        "The platform knows of no such car in the lot. It found nothing wrong with the request; nothing was granted.",
        _ANOTHER_PLATE,
    ),
    "1003": Meaning(
        Says.NOTHING,
        "The car has had all the coupons that it may have. Nothing was granted.",
        "try another plate",
    ),
    "1401": Meaning(
        Says.UNCLEAR,
        "No coupon is set up for this app, api_type, lot and metadata: or the platform did not find the metadata.",
        "if no form is answered better, tell who owns the platform's set-up which lot and which metadata key it is",
    ),
    "1403": Meaning(
        Says.PASSED,
        "This event_id was granted before, so that no further coupon was.",
        "leave --event-id out for a new one",
    ),
    "1405": Meaning(
        Says.ACCEPTED,
        "The platform read the request and asked the lot, which could not issue the coupon.",
        "tell the lot's operator",
    ),
    "1500": Meaning(
        Says.UNCLEAR,
        "An error inside the platform; a form that it cannot read may cause it.",
        "if it is so with every form, try later, and give the platform's people the seqno",
    ),
    "401": Meaning(
        Says.NOTHING,
        "The platform refuses the account: unknown, blocked, or without the right to this address.",
        "compare app_id, api_type and the address with what the platform allotted",
    ),
    "403": Meaning(
        Says.NOTHING,
        "The platform blocks the account, or this machine's address.",
        "ask the platform's people",
    ),
    "3xx": Meaning(
        Says.NOTHING, "The platform is elsewhere, and redirects are not followed.", "correct gateway.url"
    ),
    "429": Meaning(Says.NOTHING, "The platform takes no more calls for now.", "try again in some minutes"),
    "connect": Meaning(
        Says.NOTHING,
        "Nothing was sent: the platform was not reached.",
        "see to gateway.url and the way there",
    ),
}
_SIGNATURE = Meaning(
    Says.UNCLEAR,
    "The platform computes another signature: the secret is another one, or it reads the metadata in another form.",
    "if it is so with every form, the secret is not the one that the platform allotted",
)
_NO_WORD = Meaning(
    Says.NOTHING,
    "Nobody knows whether the coupon was granted: no reply came, or none that can be read.",
    "ask again with the same --event-id: it is granted once at most",
)
_TROUBLE = Meaning(Says.NOTHING, "The platform is in trouble.", "try again later with the same --event-id")
_UNKNOWN = Meaning(
    Says.NOTHING, "A code that the platform's document does not have.", "give the platform's people the seqno"
)
_FORM = Meaning(Says.REFUSED, "The platform finds fault with the form. Nothing was granted.")


def meaning_of(reply: Reply) -> Meaning:
    """What it says, and what to do about it."""
    said = f"{reply.words.message or ''} {reply.words.hint or ''}"
    if reply.ambiguous:
        return _NO_WORD
    if reply.then is Then.STOP and SIGNATURE_REFUSED in said:
        return _SIGNATURE
    if reply.label == "400":
        other = next((name for name in _FIELD.findall(said) if not is_metadata(name)), None)
        return _FORM if other is None or "metadata" in said else _other_field(other)
    if reply.label in _MEANINGS:
        return _MEANINGS[reply.label]
    if reply.then is Then.STOP:
        return _MEANINGS["401"]
    return _TROUBLE if reply.in_trouble else _UNKNOWN


def _other_field(name: str) -> Meaning:
    return Meaning(
        Says.NOTHING,
        f"The platform finds fault with `{name}`. Nothing was granted.",
        f"correct it; a field that is not ours to fill stands under the account's parameters: {{{name}: ...}}",
    )


def form_accepted(said: Sequence[tuple[MetadataFormat, Says]]) -> MetadataFormat | None:
    """The form that the platform accepts, by what its replies to all tried say; None where they do not tell."""
    accepted = [form for form, says in said if says is Says.ACCEPTED]
    if accepted:
        return accepted[0]
    # A platform that refuses every form but one has looked at that one.
    passed = [form for form, says in said if says is Says.PASSED]
    refused = [form for form, says in said if says is Says.REFUSED]
    return passed[0] if len(passed) == 1 and refused and len(refused) == len(said) - 1 else None
