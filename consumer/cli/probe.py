"""`charging-coupon probe`: a request to the platform as the service would send it, shown first, sent after a yes. Reads files, calls the platform."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli.common import (
    RevealOption,
    SettingsFile,
    SourceOption,
    confirmed,
    events_of,
    keep_logs_quiet,
    source_named,
    source_of,
    wrong,
)
from consumer.core.coupons import MetadataFormat

if TYPE_CHECKING:
    from consumer.core.coupons import Account, CouponRequest, Datum
    from consumer.core.probing import Meaning
    from consumer.core.replies import Reply
    from consumer.core.rules import Rule, RuleBook
    from consumer.settings import Settings

DEPENDS_ON = ("gateway", "rules")
SUBJECT = "【{plate}】充电优惠接口测试"
REFUSED_EXIT = 4


def probe(
    *,
    event: Annotated[
        Path | None,
        typer.Argument(help="File with an event: its request is sent. Else one is made of the options."),
    ] = None,
    settings: SettingsFile = None,
    account: Annotated[
        str | None, typer.Option(help="Who asks; needed where the rules have several.", metavar="NAME")
    ] = None,
    rule: Annotated[
        str | None, typer.Option(help="Whose metadata keys and fields to take.", metavar="NAME")
    ] = None,
    plate: Annotated[str | None, typer.Option(help="For which car.", metavar="PLATE")] = None,
    store: Annotated[
        str | None, typer.Option(help="For which lot: its api_store_code.", metavar="CODE")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="What the coupon is said to be for.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            help="A value of metadata; default: the rule's, each 1. Repeatable.", metavar="KEY=VALUE"
        ),
    ] = None,
    event_id: Annotated[
        str | None, typer.Option(help="Default: the event's, or a new one.", metavar="ID")
    ] = None,
    form: Annotated[
        list[MetadataFormat] | None,
        typer.Option(
            help="Try this form of metadata only. Repeatable. Default: the account's, then the others."
        ),
    ] = None,
    source: SourceOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Send without asking.")] = False,
    reveal: RevealOption = False,
) -> None:
    """Shows a real, signed request, sends it after a yes, and explains the platform's reply.

    The platform's document leaves open in which form `metadata` travels. One form after the other is
    tried, until a reply tells which one it accepts; that one is named with the line for the rules. All
    requests have one event_id, so that one coupon at most is granted: a real one, unless gateway.url
    is a sandbox's. Exits 0 when the form is found, 1 when it is not, 4 when the platform refuses the
    account.
    """
    from consumer import rulebook
    from consumer.core import probing
    from consumer.core.coupons import Datum
    from consumer.rulebook.comparison import masker
    from consumer.settings import load_settings

    chosen = load_settings(settings, needed=DEPENDS_ON)
    compilation, book = rulebook.compiled(chosen.rules)
    if event is not None:
        request, data = _of_event(book, event, source)
    else:
        request, data = _made(book, account, rule, plate, store)
    if metadata:
        names = {each.key: each.name for each in data}
        data = tuple(Datum(key, names.get(key, key), value) for key, value in map(_value, metadata))
    request = _with(request, plate, store, subject, event_id)
    asking = book.accounts[request.account]
    keep_logs_quiet(hide=_secrets(chosen, asking))
    mask = masker(request.parameters["plate"], reveal=reveal)
    forms = _forms(form, asking) if data else [asking.metadata_format]
    requests = [probing.in_form(request, data, each) for each in forms]

    for line in _shown(chosen, asking, forms, requests, mask, reveal=reveal):
        print(line)
    if not (yes or confirmed("probe")):
        print("Nothing was sent.")
        return
    said: list[tuple[MetadataFormat, Meaning]] = []
    for each, ready in zip(forms, requests, strict=True):
        reply = _sent(chosen, book, asking, ready)
        meaning = probing.meaning_of(reply)
        said.append((each, meaning))
        for line in _told(reply, meaning, f"{len(said)} of {len(forms)}, {each}", mask):
            print(line)
        if meaning.ends_it:
            break
    found = probing.form_accepted([(each, meaning.says) for each, meaning in said])
    print()
    print(_conclusion(found, asking, compilation.bundle.place(("accounts", asking.name)), data))
    done = found is not None if data else meaning.says in (probing.Says.ACCEPTED, probing.Says.PASSED)
    if not done:
        refused = reply.then == "stop" and meaning.says is probing.Says.NOTHING
        raise typer.Exit(REFUSED_EXIT if refused else 1)


# -- The request --------------------------------------------------------------------------------------


def _of_event(book: "RuleBook", file: Path, source: str | None) -> "tuple[CouponRequest, tuple[Datum, ...]]":
    """The first that the event leads to."""
    from consumer.core.coupons import CouponRequest, Datum
    from consumer.core.events import Coordinates, Record
    from consumer.rulebook.comparison import planned

    reader = source_named(book, source) if source is not None else source_of(book, None)
    (_, content), *others = events_of(file, "name a file with one event")
    if others:
        remedy = f"give it one: sed -n 1p {file} | charging-coupon probe -"
        raise wrong(str(file), f"holds {len(others) + 1} events, a line each", remedy)
    record = Record(Coordinates(next(iter(reader.topics), "events"), 0, 0), -1, None, content)
    plans = [plan for _, plan in planned(book, record, None, reader)]
    request = next((plan for plan in plans if isinstance(plan, CouponRequest)), None)
    if request is None:
        raise wrong(str(file), "no coupon is asked for it", "`charging-coupon explain` tells why")
    rule = next(each for each in book.rules if each.name == request.rule)
    data = (Datum(each.key, each.name, request.metadata[each.key]) for each in rule.metadata)
    return request, tuple(data)


def _made(
    book: "RuleBook", account: str | None, rule: str | None, plate: str | None, store: str | None
) -> "tuple[CouponRequest, tuple[Datum, ...]]":
    """A minimal one: each value of the rule's metadata is 1."""
    from consumer.core.coupons import CouponRequest, Datum, Form
    from consumer.core.plates import normalise

    of = _rule(book, account, rule)
    asking = of.account if of is not None and of.account is not None else _account(book, account)
    code = store or (of.api_store_code if of is not None else None)
    if not plate or not normalise(plate):
        raise wrong("--plate", "a coupon is for a car", "give its plate, or a file with an event")
    if code is None:
        known = ", ".join(sorted(filter(None, {each.api_store_code for each in book.stations.values()}))[:5])
        raise wrong(
            "--store",
            "a coupon is for a lot",
            f"give its api_store_code{f', such as {known}' if known else ''}",
        )
    data = tuple(Datum(each.key, each.name, 1) for each in of.metadata) if of is not None else ()
    form = Form(
        asking,
        (of.api_type if of is not None else None) or asking.api_type,
        [(each.key, each.name) for each in data],
        of.parameters if of is not None else {},
    )
    plate, values = normalise(plate), tuple([each.value for each in data])
    fields = form.filled(code, _new_id(), plate, SUBJECT.format(plate=plate), values, {})
    name = of.name if of is not None else ""
    return CouponRequest(asking.name, name, asking.url, fields, {}, timestamped=asking.timestamp), data


def _account(book: "RuleBook", name: str | None) -> "Account":
    from consumer.rulebook.bundle import did_you_mean

    if name is None and len(book.accounts) == 1:
        return next(iter(book.accounts.values()))
    names = list(book.accounts)
    if name is None:
        raise wrong(
            "--account", "the rules have not one account", f"name one of {', '.join(names) or 'none'}"
        )
    if name not in book.accounts:
        raise wrong("--account", f"there is no account `{name}`", did_you_mean(name, names))
    return book.accounts[name]


def _rule(book: "RuleBook", account: str | None, name: str | None) -> "Rule | None":
    """The one that is named; else the account's first, if one with metadata is there."""
    from consumer.rulebook.bundle import did_you_mean

    if name is None:
        asking = _account(book, account)
        mine = [rule for rule in book.rules if rule.account == asking]
        return next((rule for rule in mine if rule.metadata), next(iter(mine), None))
    asks = {rule.name: rule for rule in book.rules if rule.account is not None}
    if name not in asks:
        raise wrong("--rule", f"no rule `{name}` asks for coupons", did_you_mean(name, list(asks)))
    if account is not None and asks[name].account != _account(book, account):
        raise wrong("--rule", f"rule `{name}` is of another account", "leave --account out")
    return asks[name]


def _value(text: str) -> tuple[str, int]:
    from consumer.core.coupons import LARGEST_VALUE

    key, equals, value = text.partition("=")
    if not (key and equals and value.isascii() and value.isdecimal() and int(value) <= LARGEST_VALUE):
        raise wrong("--metadata", f"{text!r} is no KEY=VALUE", "write it like minutes=30")
    return key, int(value)


def _with(
    request: "CouponRequest",
    plate: str | None,
    store: str | None,
    subject: str | None,
    event_id: str | None,
) -> "CouponRequest":
    """With what was given instead of the event's own."""
    from msgspec.structs import replace

    from consumer.core.plates import normalise

    fields = dict(request.parameters)
    if plate is not None:
        fields["subject"] = fields["subject"].replace(fields["plate"], normalise(plate))
        fields["plate"] = normalise(plate)
    given = {"api_store_code": store, "subject": subject, "event_id": event_id}
    return replace(request, form=fields | {name: text for name, text in given.items() if text})


def _new_id() -> str:
    """One that no charge has."""
    import secrets

    return f"probe-{datetime.now(UTC):%Y%m%d%H%M%S}-{secrets.token_hex(3)}"


def _secrets(settings: "Settings", account: "Account") -> list[str]:
    from consumer.core.errors import ConfigurationError

    gateway = settings.gateway
    names = [name for name in (account.secret, gateway.key_password, gateway.proxy_credentials) if name]
    if problems := settings.missing_secrets(names):
        raise ConfigurationError(problems)
    return [settings.secret(name) for name in names]


def _forms(given: list[MetadataFormat] | None, account: "Account") -> list[MetadataFormat]:
    return list(dict.fromkeys(given or [account.metadata_format, *MetadataFormat]))


# -- Before it is sent --------------------------------------------------------------------------------


def _shown(
    settings: "Settings",
    account: "Account",
    forms: list[MetadataFormat],
    requests: "list[CouponRequest]",
    mask: Callable[[str], str],
    *,
    reveal: bool,
) -> Iterable[str]:
    from consumer.core.coupons import is_metadata
    from consumer.rulebook.telling import Sender, sending_of

    state = "" if account.state == "on" else f", which is on {account.state}: this is sent all the same"
    sender = Sender(settings.gateway.url, settings.secret)
    yield f"POST     {requests[0].url or sender.url}"
    yield f"account  {account.name}{state}"
    for number, (form, request) in enumerate(zip(forms, requests, strict=True), 1):
        yield ""
        has_metadata = any(map(is_metadata, request.parameters))
        yield f"{number} of {len(forms)}" + (f", metadata as {form}" if has_metadata else "")
        yield from sending_of(request, {account.name: account.secret}, sender, mask).lines()
    yield ""
    if not reveal:
        yield "Plates are masked here, not in what is sent; --reveal shows them."
    many = f"Up to {len(forms)} requests are" if len(forms) > 1 else "One request is"
    yield f"{many} sent, of one event_id: one coupon at most is granted, a real one unless this is a sandbox."


# -- Sending and telling ------------------------------------------------------------------------------


def _sent(settings: "Settings", book: "RuleBook", account: "Account", request: "CouponRequest") -> "Reply":
    """On a connection of its own, so that it is sent once only."""
    import asyncio

    from consumer.core.signing import encode_form
    from consumer.gateway import gateway_of

    async def post() -> "Reply":
        async with gateway_of(settings.gateway, settings.secret) as gateway:
            body = encode_form(request.sent(datetime.now(UTC)), settings.secret(account.secret))
            end = await gateway.post(request.url or settings.gateway.url, body)
            return book.replies.classify(end, datetime.now(UTC))

    return asyncio.run(post())


def _told(reply: "Reply", meaning: "Meaning", which: str, mask: Callable[[str], str]) -> Iterable[str]:
    from consumer.logs import cleaned

    words = reply.words
    said = " ".join(
        filter(None, (words.code or reply.label, words.message, words.hint and f"({words.hint})"))
    )
    yield ""
    yield f"{which}: {cleaned(mask(said))}"
    for name, text in (
        ("HTTP status", words.http_status),
        ("seqno", words.seqno),
        ("grant_serial", words.grant_serial),
    ):
        if text and not (name == "HTTP status" and text == 200):
            yield f"  {name} {text}"
    yield f"  {meaning.text}"
    if meaning.remedy:
        yield f"  = {meaning.remedy}"


def _conclusion(
    found: MetadataFormat | None, account: "Account", place: str, data: "tuple[Datum, ...]"
) -> str:
    if not data:
        return (
            "The request has no metadata, so that its reply says nothing of the form; with --metadata it has."
        )
    if found is None:
        return "Which form of metadata the platform accepts, these replies do not tell."
    if found is account.metadata_format:
        return f"The platform accepts metadata as {found}: account {account.name} has that already ({place})."
    return f"The platform accepts metadata as {found}. Write under account {account.name} ({place}):\n  metadata_format: {found}"
