"""Trials with a real Kafka: the service in processes of its own, a platform of ours, and something that goes wrong.

Each trial is counted three times (`audit.py`): the outcomes as a reader of committed records sees them, the platform's
journal, and every commit of the group that Kafka's own log of offsets holds. Nothing lost, nothing twice: what is
committed as done, in order or beyond, is exactly what has an outcome, one each; no commit goes backwards or beyond the
log's end; no transaction is left open that would hold readers up.

What others' consumers were reported for, and where ours is tried:

    vectordotdev/vector#24543                  a failure that the next success passes over    test_reports
    confluentinc/parallel-consumer#365         finished work done again in each rebalance     test_rebalances
    astubbs/parallel-consumer#121              offsets beyond the end of idle partitions      test_rebalances
    interlay/interbtc-clients#405              a restart overlaps what is under way           test_rebalances
    faust-streaming/faust#94                   a commit while partitions are revoked          test_network
    aio-libs/aiokafka#983, #1037               a consumer that sits there silently            test_network, ../test_intake
    aio-libs/aiokafka#1112, #843, #922         codecs                                         test_records
    ag2ai/faststream#2458, koku#4120           headers of any bytes                           test_records
    apache/kafka#22784, #10167                 partitions that are added                      test_offsets
    confluentinc/librdkafka#1442               offsets that expired or were deleted           test_offsets
    redpanda#22670, spring-kafka#1441          producers that the broker forgot               test_offsets
    evolution-gaming/kafka-flow#850            a dead owner's transaction holds readers up    test_flush_faults
    getsentry/sentry-kafka-schemas#482         a dead letter larger than its original         test_reports
    confluentinc/librdkafka#488                one record too large fails its neighbours      test_ledger, test_transactions
    redpanda-data/connect#414, #415            one event that always fails blocks the rest    test_reports, test_retries
    Aiven-Open/http-connector#204, #34         retries that are exhausted end the task        test_reports
    frain-dev/convoy#1833                      a refusal that is retried for ever             test_service, test_retries
    dbos-transact-py#760, smallrye#1377        memory without bound                           test_memory
    grafana/tempo#7665, vector#24647           the lag of partitions that were given away     test_network
    KongZ/charts#183                           SIGTERM                                        test_service

Beside them: the broker itself killed (`test_broker_restart`, `test_waiting`), a frozen member that wakes as a zombie
(`test_service`), members of one name (`test_membership`), maps of another offset or cluster (`test_offsets`), each
request and reply of a transaction lost (`test_ledger`), at least once instead (`test_guarantee`), secrets and
certificates exchanged under load (`test_rotation`), and the bounds of a fleet of three (`test_fleet`).

The trials are scaled: seconds instead of minutes, thousands of records instead of millions. At full length:

    FULL_LENGTH=1 .venv/bin/pytest -s -m "long or not long" tests/broker
"""
