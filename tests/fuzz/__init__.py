"""Coverage-guided fuzzing of what others write: events, rules files, replies, headers, commits and HTTP.

Where there is no wheel of atheris (it has some for Linux on x86-64 and Python 3.11 to 3.13) it says so.

    python -m tests.fuzz records --seconds 60    one target; without a name all of them, the time divided
    python -m tests.fuzz records --replay IzE=   one input again, with its traceback; needs no atheris

| Target     | Bytes are                                      | What must hold                                         |
|------------|------------------------------------------------|--------------------------------------------------------|
| `records`  | a record, for one of all presets and shapes    | orders or findings, planned and written; no plate in a |
|            |                                                | message; numbers as JSON has them                      |
| `rules`    | a rules file, and a CSV of stations            | a rule book that reads, plans and explains, or         |
|            |                                                | ConfigurationError, each problem with its place        |
| `replies`  | status, Retry-After and body                   | a row, a next step, an outcome; no plate in the words  |
| `metadata` | a commit's metadata, a record's own headers    | a map or a reason, which a tracker can live with;      |
|            |                                                | what is read is written and read again as it was       |
| `wire`     | what a call is answered with                   | the call ends, and in the same way wherever the bytes  |
|            |                                                | are cut in two                                         |

Each starts from the tests' and presets' examples. Most mutations change the JSON or YAML
tree (`trees`), the others are libFuzzer's own, since plain bytes seldom get past the first brace. `targets` has the checks,
`fuzzer` runs libFuzzer in a process of its own, `planted` has bugs that it must find (`test_fuzz`).
"""
