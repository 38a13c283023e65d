"""Settings file, environment and secret files -> Settings. Reads them, and does no other I/O.

A setting `kafka.group_id` stands in the YAML file as `kafka: {group_id: ...}` and in the
environment as `CHARGING_COUPON__KAFKA__GROUP_ID`; the environment wins. All mistakes are
reported at once, each with its line or variable. `model` has every setting.
"""

from consumer.settings.loading import InForce, load_settings, settings_in_force
from consumer.settings.model import Kafka, OAuth, Security, Settings

__all__ = ["InForce", "Kafka", "OAuth", "Security", "Settings", "load_settings", "settings_in_force"]
