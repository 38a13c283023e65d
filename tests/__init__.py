"""What is guaranteed, what is not, and which suite proves which line.

**Guaranteed** (`guarantee: exactly_once`, Kafka 2.5 or later):

1. *No record is lost.* Its offset is committed only in the transaction that says what became of it.
   `simulation` (crashes, zombies, lost requests and replies at every await), `broker/test_service`,
   `broker/test_flush_faults` (kill -9 at each point of a flush), `broker/test_broker_restart`,
   `broker/test_network` (latency, slices, resets, half-open connections).
2. *One final outcome for each order*, as a `read_committed` reader sees it, under an `outcome_id` that every
   repetition shares. The same suites; `core/test_outcomes` for the id, `test_schemas` for folding several pushes.
   Where an earlier call whose answer nobody heard may have brought the coupon, it says so (`attempts.ambiguous`):
   `simulation`, `core/test_retries`, `broker/test_service`.
3. *In one member: at most `max_in_flight` calls at once, one for a plate, one for an event_id, and a car's in the order
   of each partition.* `test_delivery`, `test_flow`; `simulation`, which also explains every overlap of two members; the
   gateway's journal in `broker`.
4. *A platform that is slow, failing or away costs no membership, no place and no event.* `broker/test_service`,
   `broker/test_waiting` (Kafka away), `broker/test_memory` (a deep backlog before a hanging platform).
5. *Memory is bounded by settings, whatever the lag.* `test_intake`, `broker/test_memory`.
6. *No secret and no whole plate in logs, metrics, pages and errors.* `core/test_outcomes`, `core/test_replies`,
   `test_logs`, `core/test_status`, `broker/test_service`, `broker/test_status`.
7. *An order that waits for another attempt survives restarts, with its count, and ends at its deadline.*
   `core/test_retries`, `test_delivery`, `broker/test_retries`.
8. *A replay sends no dead letter twice*, wherever it is killed. `test_replay`, `broker/test_replay`.
9. *A service on trial (`state: shadow`) makes no call*, and `diff` lists each order that it would treat differently than
   what it is to replace. `broker/test_shadow`, `test_diff`.
10. *Secrets, certificates and CAs are exchanged while it runs*: no restart, no rebalance, nothing lost or doubled.
   `broker/test_rotation`, `broker/test_rotation_of_kafka`, `test_credentials`, `test_rotation`.

The fakes of `simulation` are held to a real Kafka by `broker/test_kafka_behaviour`: one suite, run against both. Its
`mutations` break the service on purpose, one rule at a time, and each has to be noticed.

`fuzz` throws bytes at whatever reads what others write (records, rules, replies, headers, commits), guided by coverage;
`planted` bugs in there show that it would find one.

**Not guaranteed**, and shown where it can be:

- The HTTP call itself is made at least once: after a crash it can come again, and the platform knows it by its `event_id`.
- Two members can call at the same time for one plate, or for an event pushed twice, where the topic is not partitioned
  by it; for one order of one record only after a crash, a zombie or a drain that ran out of time.
- Where the group's offsets are deleted, expire, or are moved by hand, outcomes repeat under their same ids
  (`broker/test_offsets`).
- `guarantee: at_least_once`: no loss, but after a crash outcomes repeat; readers keep one of each id
  (`broker/test_guarantee`). A replay, likewise.
- Calls that a killed member made for an order that went on elsewhere are missing in its `attempts.count`.

**How it is run.** `pytest` is everything that is quick, real Kafka included. `pytest -m long` is what takes minutes, and
`.ci/run` has both. Broker tests take `KAFKA_BOOTSTRAP_SERVERS`, Docker, or a Kafka of their own, in that order.
"""
