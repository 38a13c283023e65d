"""An order and the rule that matched it -> the request to the parking platform. Performs no I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import orjson

from consumer.core.outcomes import Finding
from consumer.core.values import Frozen

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


class CouponRequest(Frozen):
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


class Datum(Frozen):
    """One metadata entry: its key, the name shown beside the value, the value."""

    key: str
    name: str
    value: int


class Form:
    """The fields of a rule's requests in the order of the endpoint's document; what is the same in all is filled in."""

    __slots__ = ("_full", "_general", "_metadata", "_own", "_text", "_whole")

    def __init__(
        self, account: Account, api_type: str, metadata: Sequence[tuple[str, str]], own: Mapping[str, str]
    ) -> None:
        """`metadata` are its keys and the names beside its values, `own` the rule's parameters."""
        self._metadata = MetadataFields(metadata, account.metadata_format)
        self._text = self._metadata.text
        self._own = own
        self._general = {
            "app_id": account.app_id,
            "api_store_code": "",
            "api_type": api_type,
            "event_id": "",
            "plate": "",
            "subject": "",
            **self._metadata.blank,
            **account.parameters,
        }
        self._whole = {**self._general, **own}
        self._full = False
        self._full = len(self.filled("-", "-", "-", "-", (0,) * len(metadata), {})) == len(self._whole)

    def filled(  # noqa: PLR0917  # by position, since names cost time
        self,
        api_store_code: str,
        event_id: str,
        plate: str,
        subject: str,
        values: tuple[int, ...],
        station: Mapping[str, str],
    ) -> dict[str, str]:
        """For one order, with its station's parameters over the account's; what is empty stays out (domain: signature)."""
        form = (self._general if station else self._whole).copy()
        form["api_store_code"] = api_store_code
        form["event_id"] = event_id
        form["plate"] = plate
        form["subject"] = subject
        if self._text:
            form["metadata"] = self._text % values
        elif values:
            self._metadata.fill(form, values)
        if station:
            form |= station
            form |= self._own
        elif self._full and api_store_code and event_id and plate and subject:
            return form
        return form if all(form.values()) else {name: text for name, text in form.items() if text}


class MetadataFields:
    """Metadata as form fields; as JSON it is one text, the same for signature and body.

    Attributes:
        blank: the fields, with gaps for values.
        text: the one text, with `%d` for each value; empty where there is none.

    """

    __slots__ = ("_values", "blank", "text")

    def __init__(self, metadata: Sequence[tuple[str, str]], written: MetadataFormat) -> None:
        self.blank: dict[str, str] = {}
        self.text = ""
        self._values: list[str] = []
        if not metadata:
            return
        if written is MetadataFormat.JSON:
            self.blank["metadata"] = ""
            data = [f'{_json(key)}:{{"name":{_json(name)},"value":' for key, name in metadata]
            self.text = "{" + ",".join([datum.replace("%", "%%") + "%d}" for datum in data]) + "}"
            return
        shape = "metadata.{}.{}" if written is MetadataFormat.DOTTED else "metadata[{}].{}"
        for key, name in metadata:
            self._values.append(shape.format(key, "value"))
            self.blank[shape.format(key, "name")] = name
            self.blank[self._values[-1]] = ""

    def fill(self, form: dict[str, str], values: tuple[int, ...]) -> None:
        """Each value into its gap."""
        if self.text:
            form["metadata"] = self.text % values
        else:
            form.update(zip(self._values, map(str, values), strict=True))


def _json(text: str) -> str:
    return orjson.dumps(text).decode()


def metadata_fields(metadata: Sequence[Datum], written: MetadataFormat) -> dict[str, str]:
    """The fields that tell of these, and no others."""
    fields = MetadataFields([(datum.key, datum.name) for datum in metadata], written)
    form = fields.blank.copy()
    if metadata:
        fields.fill(form, tuple([datum.value for datum in metadata]))
    return form
