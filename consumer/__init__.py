"""Charging-completed events from Kafka become parking coupons, with exactly one outcome an order."""

__version__ = "0.1.0"
