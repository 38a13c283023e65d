"""Every metric, declared once, on an injected registry. Performs no I/O; `web` exposes them.

Prefix `coupon_`. Labels are closed sets or names from the loaded configuration,
capped, then `other`; never a plate, an order or a message.
"""
