"""The threats T1 to T16, and where each is tested. A name in `backticks` is a test, or begins the names of several.

T1   SQL by names: installed right or refused, nothing else made                     `test_t1_` in test_names.py
T2   SQL by values: parameters only; each value comes out as it went in             `test_t2_` in test_values.py and tests/sql/test_sources.py
T3   others' sessions and tasks: id, nonce, token, mapping, odd arguments            `test_t3_` in test_rights.py and tests/sql/test_schedules.py
T4   definers: pinned paths, shadows of operators, functions, tables, types          `test_t4_` in test_rights.py and tests/sql/test_schedules.py
T5   roles: a service executes, and nothing else; the owner is no superuser          `test_t5_` in test_rights.py and tests/sql/test_schedules.py
T6   secrets and rows in logs, exceptions, reprs, the CLI and the server's log       `test_t6_` in test_secrets.py
T7   attributes of spans: few, short, chosen by nobody else                          `test_t7_` in test_secrets.py and tests/unit/test_telemetry.py
T8   no pickle, eval, yaml, exec                                                     `test_t8_` in test_package.py
T9   denial: attempts end, poison runs alone, claims are capped, errors are cut      `test_t6_what_a_tasker_says_is_cut` in test_secrets.py,
     (no quota of sessions for a role: services of a mapping trust each other)       tests/chaos/test_poison.py, tests/database/test_share.py
T10  a replay: `already yours`, no effect                                            `test_t14_` in test_values.py, tests/model
T11  a man in the middle: verify-full, a wrong host, a wrong authority, no TLS       `test_t11_` in test_connections.py
T12  a storm of reconnects: pauses that grow and vary                                `test_t12_` in test_connections.py
T13  three packages are needed, no other is imported                                 `test_t13_` in test_package.py, tests/packaging
T14  what stays: token, attempts, failures, sessions; the row's session is cleared   `test_t14_` in test_values.py
T15  a copy of production runs nothing                                               `test_a_` in test_copies.py
T16  no hand for tests in the SQL that is shipped                                    `test_t16_` in test_package.py
"""
