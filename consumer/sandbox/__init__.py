"""What stands in for the outside world: a gateway that behaves as documented, a real Kafka, sample events."""
