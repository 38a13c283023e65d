"""Pure parts of the service: values in, values out. No I/O, clock, environment or randomness; the caller passes now and jitter."""
