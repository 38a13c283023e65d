"""An order and the rule that matched it -> the request to the parking platform. Performs no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import orjson

from consumer.core.outcomes import Finding
from consumer.core.values import value

OWN_PARAMETERS = frozenset(
    {
        "app_id",
        "api_store_code",
        "api_type",
        "event_id",
        "plate",
        "subject",
        "metadata",
        "timestamp",
        "sign",
        "app_secret",
    }
)
"""Fields of the request that are ours to fill, or never sent: no static parameter can have their names."""


def is_free_parameter(name: str) -> bool:
    """Whether rules may give each request this field as they like."""
    return bool(name) and name not in OWN_PARAMETERS and not is_metadata(name)


def is_metadata(name: str) -> bool:
    """Whether this field of a request is metadata, or part of it, in any of its forms."""
    return name == "metadata" or name.startswith(("metadata.", "metadata["))


LARGEST_VALUE = 2**31 - 1
"""A metadata value is a 32-bit integer on the wire, and none of ours is negative."""


@value
class CouponRequest:
    """One coupon to ask for, complete but for the signature.

    Attributes:
        account: name of the rules file's account whose secret signs it.
        rule: name of the rule that matched.
        url: where it is posted; None means the settings' gateway URL.
        parameters: the form's fields in the order in which they are sent, `sign`
            (and `timestamp`) not among them, none of them empty.
        metadata: the values the rule computed, by metadata key, as 32-bit integers.
        shadow: everything but the request is wanted (account or rule in state `shadow`).
        timestamped: it tells when it was sent.

    """

    account: str
    rule: str
    url: str | None
    parameters: Mapping[str, str]
    metadata: Mapping[str, int]
    shadow: bool = False
    timestamped: bool = False

    def sent(self, at: datetime) -> Mapping[str, str]:
        """The form's fields as they are sent at that moment (domain: signature, `timestamp`)."""
        if not self.timestamped:
            return self.parameters
        return {**self.parameters, "timestamp": str(round(at.timestamp() * 1000))}


Plan = CouponRequest | Finding
"""What is to be done for an order: ask for a coupon, or end it without a request."""


class State(StrEnum):
    """Whether an account or a rule is in force."""

    ON = "on"
    SHADOW = "shadow"
    HOLD = "hold"


class MetadataFormat(StrEnum):
    """How `metadata` travels in a form; the documents leave it open (domain: signature)."""

    JSON = "json"
    DOTTED = "dotted"
    BRACKETED = "bracketed"


@dataclass(frozen=True, slots=True)
class Account:
    """An identity at the parking platform.

    Attributes:
        app_id: as the platform allotted it.
        secret: NAME of the secret that signs; the settings know the secret.
        api_type: the kind of coupon, as the platform allotted it.
        url: where its requests go; None means the settings' gateway URL.
        parameters: further fields of each of its requests, the same in all.
        rate: calls a second of all members together; None: no bound.
        max_in_flight: calls of all members at once; None: no bound.
        timestamp: each request tells when it was sent.

    """

    name: str
    app_id: str
    secret: str
    api_type: str
    url: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    metadata_format: MetadataFormat = MetadataFormat.JSON
    state: State = State.ON
    rate: float | None = None
    max_in_flight: int | None = None
    timestamp: bool = False


@value
class Datum:
    """One metadata entry: its key, the name shown beside the value, the value."""

    key: str
    name: str
    value: int


def parameters(
    account: Account,
    *,
    api_type: str,
    api_store_code: str,
    event_id: str,
    plate: str,
    subject: str,
    metadata: tuple[Datum, ...],
    static: Mapping[str, str],
) -> dict[str, str]:
    """The form's fields, in the order of the endpoint's document; what is empty stays out (domain: signature)."""
    form = {
        "app_id": account.app_id,
        "api_store_code": api_store_code,
        "api_type": api_type,
        "event_id": event_id,
        "plate": plate,
        "subject": subject,
        **metadata_fields(metadata, account.metadata_format),
        **static,
    }
    return {name: value for name, value in form.items() if value}


def metadata_fields(metadata: tuple[Datum, ...], written: MetadataFormat) -> dict[str, str]:
    """The metadata as form fields. As JSON it is one text, the same for signature and body."""
    if not metadata:
        return {}
    match written:
        case MetadataFormat.JSON:
            entries = {datum.key: {"name": datum.name, "value": datum.value} for datum in metadata}
            return {"metadata": orjson.dumps(entries).decode()}
        case MetadataFormat.DOTTED:
            shape = "metadata.{}.{}"
        case MetadataFormat.BRACKETED:
            shape = "metadata[{}].{}"
    fields: dict[str, str] = {}
    for datum in metadata:
        fields[shape.format(datum.key, "name")] = datum.name
        fields[shape.format(datum.key, "value")] = str(datum.value)
    return fields
