"""JSON Schemas of what stands in our files and on our topics. Reads those that are written by hand.

Of rules and settings they are made of the code's models; of events, outcomes and the status they
stand in `schemas/`, which an installed package has beside this module.
"""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

WRITTEN = {"events": "charging-completed.v1", "outcomes": "coupon-outcome.v1", "status": "status.v1"}
"""The files, by what they describe."""

_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def written(name: str) -> str:
    """The text of a schema that is written by hand."""
    file = f"{WRITTEN[name]}.schema.json"
    packaged = resources.files(__package__) / file
    checkout = Path(__file__).parents[2] / "schemas" / file
    return packaged.read_text("utf-8") if packaged.is_file() else checkout.read_text("utf-8")


def text_of(schema: Mapping[str, object], name: str) -> str:
    """A model's schema as `schemas/<name>.schema.json` has it."""
    tidied = _tidied(schema)
    assert isinstance(tidied, dict)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{name}.schema.json",
        "title": name,
    }
    return json.dumps(head | tidied, indent=2, ensure_ascii=False) + "\n"


def _tidied(schema: object) -> object:
    """Without the titles that pydantic makes of the keys' names, with bounds as JSON Schema calls them."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        _BOUNDS.get(key, key) if isinstance(value, int | float) else key: _tidied(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }
