"""An order and the rule that matched it -> the request to the parking platform. Performs no I/O."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import orjson

from consumer.core.signing import LaidOut, Layout, encode_form, with_numbers
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
        form: the fields in the order in which they are sent, `sign` (and `timestamp`) not
            among them, none of them empty; or what makes them.
        metadata: the values the rule computed, by metadata key, as 32-bit integers.
        shadow: everything but the request is wanted (account or rule in state `shadow`).
        timestamped: it tells when it was sent.

    """

    account: str
    rule: str
    url: str | None
    form: Mapping[str, str] | LaidOut
    metadata: Mapping[str, int]
    shadow: bool = False
    timestamped: bool = False

    @property
    def parameters(self) -> Mapping[str, str]:
        """The form's fields."""
        form = self.form
        return form.fields() if isinstance(form, LaidOut) else form

    @property
    def api_store_code(self) -> str | None:
        """The lot."""
        form = self.form
        return form.api_store_code if isinstance(form, LaidOut) else form.get("api_store_code")

    def sent(self, at: datetime) -> Mapping[str, str]:
        """The form's fields as they are sent at that moment; `timestamp` is in milliseconds."""
        if not self.timestamped:
            return self.parameters
        return {**self.parameters, "timestamp": str(round(at.timestamp() * 1000))}

    def encoded(self, at: datetime, app_secret: str) -> bytes:
        """The body to post at that moment, with its signature. Raises UnicodeEncodeError for half a surrogate pair."""
        form = self.form
        if self.timestamped or not isinstance(form, LaidOut):
            return encode_form(self.sent(at), app_secret)
        return form.layout.encode(form, app_secret)


class State(StrEnum):
    """Whether an account or a rule is in force."""

    ON = "on"
    SHADOW = "shadow"
    HOLD = "hold"


class MetadataFormat(StrEnum):
    """How `metadata` travels in a form; the platform's description of the endpoint leaves it open."""

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

    __slots__ = ("_general", "_layout", "_metadata", "_own")

    def __init__(
        self, account: Account, api_type: str, metadata: Sequence[tuple[str, str]], own: Mapping[str, str]
    ) -> None:
        """`metadata` are its keys and the names beside its values, `own` the rule's parameters."""
        self._metadata = MetadataFields(metadata, account.metadata_format)
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
        whole = {**self._general, **own}
        filled = {"api_store_code", "event_id", "plate", "subject", "metadata"}
        self._layout: Layout | None = None
        if self._metadata.texts or not metadata:
            fields = {
                name: None if name in filled else text
                for name, text in whole.items()
                if text or name in filled
            }
            self._layout = Layout(fields, self._metadata.texts)

    def filled(  # noqa: PLR0917  # by position, since names cost time
        self,
        api_store_code: str,
        event_id: str,
        plate: str,
        subject: str,
        values: Collection[int],
        station: Mapping[str, str],
    ) -> Mapping[str, str] | LaidOut:
        """For one order, with its station's parameters over the account's; what is empty stays out."""
        layout = self._layout
        if layout is None or station or not (api_store_code and event_id and plate and subject):
            return self._filled_otherwise(api_store_code, event_id, plate, subject, values, station)
        text = with_numbers(self._metadata.texts, values)
        return LaidOut(layout, api_store_code, event_id, plate, subject, text, values)

    def _filled_otherwise(  # noqa: PLR0917  # as above
        self,
        api_store_code: str,
        event_id: str,
        plate: str,
        subject: str,
        values: Collection[int],
        station: Mapping[str, str],
    ) -> dict[str, str]:
        """With other fields than the layout knows of."""
        form = self._general.copy()
        form["api_store_code"] = api_store_code
        form["event_id"] = event_id
        form["plate"] = plate
        form["subject"] = subject
        self._metadata.fill(form, values)
        form |= station
        form |= self._own
        return form if all(form.values()) else {name: text for name, text in form.items() if text}


class MetadataFields:
    """Metadata as form fields; as JSON it is one text, the same for signature and body.

    Attributes:
        blank: the fields, with gaps for values.
        texts: the one text in parts, with a gap for each value; none where there is no such text.

    """

    __slots__ = ("_values", "blank", "texts")

    def __init__(self, metadata: Sequence[tuple[str, str]], written: MetadataFormat) -> None:
        self.blank: dict[str, str] = {}
        self.texts: list[str] = []
        self._values: list[str] = []
        if metadata and written is MetadataFormat.JSON:
            self.blank["metadata"] = ""
            for key, name in metadata:
                before = "}," if self.texts else "{"
                self.texts += [f'{before}{_json(key)}:{{"name":{_json(name)},"value":', ""]
            self.texts.append("}}")
        elif metadata:
            shape = "metadata.{}.{}" if written is MetadataFormat.DOTTED else "metadata[{}].{}"
            for key, name in metadata:
                self._values.append(shape.format(key, "value"))
                self.blank[shape.format(key, "name")] = name
                self.blank[self._values[-1]] = ""

    def fill(self, form: dict[str, str], values: Iterable[int]) -> None:
        """Each value into its gap."""
        if self.texts:
            form["metadata"] = with_numbers(self.texts, values)
        else:
            form.update(zip(self._values, map(str, values), strict=True))


def _json(text: str) -> str:
    return orjson.dumps(text).decode()


def metadata_fields(metadata: Sequence[Datum], written: MetadataFormat) -> dict[str, str]:
    """The fields that tell of these, and no others."""
    fields = MetadataFields([(datum.key, datum.name) for datum in metadata], written)
    form = fields.blank.copy()
    fields.fill(form, [datum.value for datum in metadata])
    return form
