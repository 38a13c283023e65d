"""The targets by name."""

from collections.abc import Mapping

from tests.fuzz import metadata, records, replies, rules, wire
from tests.fuzz.target import Target

TARGETS: Mapping[str, Target] = {
    "records": records.TARGET,
    "rules": rules.TARGET,
    "replies": replies.TARGET,
    "metadata": metadata.TARGET,
    "wire": wire.TARGET,
}
