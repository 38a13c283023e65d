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
2. `delivery` begins: it reads the record's bytes into orders (`core.envelopes`, `core.formats`, `core.likenesses`,
   `core.sources`, `core.fields`, `core.plates`), finds each order's rule and builds its request (`core.rules`,
   `core.planning`, `core.expressions`, `core.templates`, `core.coupons`). Orders with the same plate or event_id then
   wait for each other. No order has a task while it waits or calls: all that can go on does so together, in a turn of the loop.
3. `flow` says when the order may call the platform (`core.breakers`, `core.rates`, `core.limits`); `gateway` posts
   the form that `core.signing` signed, and brings back what was said, without an opinion on it.
4. `delivery` classifies the reply (`core.replies`): final, again in a moment, or later
   (`core.retries`). What waits for later goes to a retry topic with all that is known of it in its
   headers (`core.headers`), and comes in by 1. when it is due; one order of one record, and no other.
5. `ledger` writes what became of each order (`core.outcomes`) together with the offset that marks
   the record done, in one transaction of `transactions`, fenced by the group's generation. If that
   is cut off anywhere, none of it is visible, and the next owner goes on from where this one was.
   (`guarantee: at_least_once` writes outcomes first and offsets after: `publishing.PlainWriter`.)

What goes from one to the next stands in `core.events` and `core.outcomes`; `core.values` has what these are made of.

Beside the path:

- **Kafka.** `connection` gets everybody there, by TLS and SASL (`certificates`); `waiting` waits for a Kafka that has
  not yet what is needed, and says so. `takeover` finds where each partition of an assignment goes on, once nobody else
  can write there any more. `link` sends a request until its answer is final, `publishing` writes records, `decoding`
  reads them whatever stands in them. `topics` knows which topics and rights there have to be.
- **What a person sets.** `settings` is what a deployment sets; `rulebook` loads the rules file, which says what a coupon
  is granted for (`presets` are sources to build on; `core.documents`, `core.slices`), and compiles its expressions
  (`core.syntax`, `core.direct`, `core.functions`, `core.complaints`). `credentials` follows the files of secrets and
  certificates (`following`), and `rotation` has the connections to Kafka follow them.
- **What a person sees.** `logs` and `metrics`; `web` serves these and `core.status`, which is what the service says of
  itself at one moment (`serving` is HTTP, `page` is how a browser shows it); `tracing`, an extra, tells a collector of
  each order and call (`core.traces`). `schemas` describes what stands on topics and in files.
- **What a person does.** `cli` has the commands. `replay` sends dead letters back to where the path begins, each once
  (`core.letters`); `lookup` finds records, to be explained and compared, and what became of orders (`core.inquiry`);
  `core.probing` has the requests that find out which form the platform takes. `sandbox` has a platform and a Kafka to try all this with.
- **The process.** `service` builds all of it, starts it and stops it. `selfcheck` looks whether the machine can do the
  work, `eventloop` is what it is done on.

A module of the path is called a room. Imports point down, `cli -> service -> intake -> delivery -> core`, and rooms of
one floor do not know each other: `pyproject.toml` lists the floors, and import-linter holds them. Everything in `core`
is pure: values in, values out. Expected results are values; an exception means "cannot continue" (`core.errors`).
"""

__version__ = "0.1.0"
