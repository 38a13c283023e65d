"""Settings file, environment and secret files -> Settings. Reads them, and does no other I/O.

A setting `kafka.group_id` stands in the YAML file as `kafka: {group_id: ...}` and in the
environment as `CHARGING_COUPON__KAFKA__GROUP_ID`; the environment wins. All mistakes are
reported at once, each with its line or variable. `model` has every setting.
"""

from consumer.settings.loading import InForce, Reading, load_settings, read_settings
from consumer.settings.model import Kafka, OAuth, Security, Settings, schema_text
from consumer.settings.words import RULES_PATH, STARTER

__all__ = [
    "RULES_PATH",
    "STARTER",
    "InForce",
    "Kafka",
    "OAuth",
    "Reading",
    "Security",
    "Settings",
    "load_settings",
    "read_settings",
    "schema_text",
]
