"""`charging-coupon sandbox`: a gateway to try requests on, until Ctrl-C. Serves HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from consumer.cli.common import once_told_to_stop, scenario_option, wrong
from consumer.core.coupons import MetadataFormat
from consumer.sandbox.scenarios import SCENARIOS


def sandbox(
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")
    ] = 8088,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    scenario: Annotated[
        str | None,
        scenario_option(
            "Latency and failures over time, from the first call on, instead of --latency and --jitter."
        ),
    ] = None,
    latency: Annotated[
        float | None, typer.Option(min=0, help="Mean seconds until a reply.", show_default="0.1")
    ] = None,
    jitter: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the latency by which it varies.", show_default="0.5"),
    ] = None,
    failure: Annotated[
        list[str] | None,
        typer.Option(help="An answer by chance, as NAME=RATE: 503=0.02, reset=0.01, 1405=0.05. Repeatable."),
    ] = None,
    script: Annotated[
        Path | None, typer.Option(help="YAML or JSON list of {plate, event_id, nth, answer, latency}.")
    ] = None,
    app: Annotated[
        list[str] | None,
        typer.Option(help="An app it knows, as APP_ID=SECRET. Repeatable. Default: the demo's."),
    ] = None,
    metadata_form: Annotated[
        MetadataFormat | None,
        typer.Option(help="Understand `metadata` in this form only, as some platform might."),
    ] = None,
    journal: Annotated[Path | None, typer.Option(help="File to keep the grants in, over restarts.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of chance.")] = 1,
) -> None:
    """Runs a parking platform that behaves as documented, until Ctrl-C.

    It checks signatures and fields, grants each event_id once, and answers by the last
    four characters of the plate: 1002, 1003, 1405 ... 0400, 0503 that code; 8503 first a 503,
    then the grant.
    """
    import asyncio
    import contextlib

    if scenario and (latency, jitter) != (None, None):
        raise typer.BadParameter("--scenario sets latency and jitter; leave out either these or it")

    from consumer.sandbox.answers import load_script
    from consumer.sandbox.gateway import DEMO_APPS, SandboxGateway

    async def serve() -> None:
        stop = asyncio.Event()
        once_told_to_stop(stop.set)
        gateway = SandboxGateway(
            apps=_apps(app) if app else DEMO_APPS,
            script=load_script(script) if script is not None else None,
            scenario=SCENARIOS[scenario] if scenario else None,
            latency=0.1 if latency is None else latency,
            jitter=0.5 if jitter is None else jitter,
            failures={name: _rate(rate) for name, rate in _pairs("failure", failure or []).items()},
            seed=seed,
            journal_file=journal,
            metadata_form=metadata_form,
        )
        try:
            await gateway.start(host, port)
        except OSError as error:
            if error.filename is not None:
                message = f"{journal} cannot be used: {error.strerror}"
                raise wrong("--journal", message, "name another file") from error
            message = f"cannot listen on {host}, port {port}: {error.strerror}"
            raise wrong("--port", message, "free it, or name another --port or --host") from error
        print(f"Endpoint  {gateway.url}")
        print(f"Journal   {gateway.base_url}/  (JSON: {gateway.base_url}/journal)")
        if not app:
            for app_id, secret in DEMO_APPS.items():
                print(f"App       {app_id}, secret {secret}")
        if gateway.scenario:
            for phase in gateway.scenario.phases:
                print(f"{phase.seconds:5.0f} s   the platform {phase.words}")
        print("Ctrl-C ends it.", flush=True)
        try:
            await stop.wait()
        finally:
            await gateway.stop()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


def _apps(texts: list[str]) -> dict[str, str]:
    """Secrets as the service reads them: without the newline that a file ends with."""
    from consumer.settings.values import without_newline

    return {app_id: without_newline(secret) for app_id, secret in _pairs("app", texts).items()}


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for (name, equals, value), text in zip(pairs, texts, strict=True):
        if not (name and equals and value):
            raise typer.BadParameter(f"--{option} {text!r} is not NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"--failure: {text!r} is not a rate; write it like 0.05") from None
