"""Charging-completed events from Kafka become parking coupons, with exactly one outcome an order.

The path of one record::

    events topic -+-> intake -> delivery -> flow -> gateway -> (reply) -> delivery -> ledger -> outcome topic
    retry topics -+   poll      read        stop    POST                  classify    one       retry topics
                      track     match       line                          again,      Kafka     dead-letter topic
                      pause     build       permit                        later, or   trans-    source offsets
                      rebalance sign                                      the end     action    with their map

1. `intake` polls, notes the offset in the partition's tracker (`core.offsets`) and begins records, some
   at a time, as long as there are not enough orders that wait for leave to call, or ended records that
   wait for their transaction. It pauses partitions instead of falling behind or out of the group, and
   lives through rebalances: fence, then read, then seek.
2. `delivery` begins: it reads the record's bytes into orders (`core.envelopes`, `core.formats`,
   `core.sources`, `core.fields`), finds each order's rule and builds its request (`core.rules`,
   `core.planning`, `core.expressions`, `core.coupons`). Orders with the same plate or event_id then
   wait for each other. No order has a task while it waits or calls: all that can go on does so together, in a turn of the loop.
3. `flow` says when the order may call the platform; `gateway` posts the form that `core.signing`
   signed, and brings back what was said, without an opinion on it.
4. `delivery` classifies the reply (`core.replies`): final, again in a moment, or later
   (`core.retries`). What waits for later goes to a retry topic with all that is known of it in its
   headers (`core.headers`), and comes in by 1. when it is due; one order of one record, and no other.
5. `ledger` writes what became of each order (`core.outcomes`) together with the offset that marks
   the record done, in one transaction of `transactions`, fenced by the group's generation. If that
   is cut off anywhere, none of it is visible, and the next owner goes on from where this one was.
   (`guarantee: at_least_once` writes outcomes first and offsets after: `publishing.PlainWriter`.)

Beside the path: `takeover` finds where each partition of an assignment goes on, once nobody else
can write there any more; `credentials` follows the files of secrets and certificates (`following`), and
`rotation` has the connections to Kafka follow them; `waiting` gets the service to a Kafka that is not there
yet (`connection`, `certificates`: TLS and SASL), `link` speaks to Kafka's coordinators, `selfcheck` looks at
the machine first, `topics` at what Kafka must offer. `core.status` is what the service says of itself at one
moment, `web` serves it (`serving`), `page` is how a browser shows it; `tracing`, an extra, tells a collector of each order and call (`core.traces`).
`replay` sends dead letters back to where the path begins, each once (`core.letters`). `lookup`
finds records, to be explained and compared, and what became of orders (`core.inquiry`).

A module of the path is called a room. Imports point down: `cli -> service -> intake -> delivery -> core`;
`gateway`, `ledger`, `flow`, `metrics`, `web` and `rulebook` are siblings that `service` builds and passes
in. Everything in `core` is pure: values in, values out. Expected results are values; an exception means
"cannot continue" (`core.errors`).

What a deployment sets is in `settings`; what a coupon is granted for is in the rules file
(`rulebook` loads it). Whoever speaks to Kafka gets there by `connection`; `link` sends what is asked
until its answer is final, `waiting` waits for a Kafka that is not ready, and says so. `selfcheck`
looks whether the machine can do the work, and `eventloop` is what it is done on. `sandbox` has a platform and a Kafka to try all this with.
"""

__version__ = "0.1.0"
