"""`session-lock demo`: runner processes that share a table, what befalls them, and a check from outside.

From the command to its verdict, in the order in which things happen: `command`, `stage` (the schema in which it takes place,
reached by `access`), `cast` and `runner` (the processes that do the work), `director` (what befalls them, by `plan`), `watch`
and `display` (what is seen of it; `through_top` with `--watch`), `verdict` (what came of it).

A scenario is what a demo is about: its table, what is done with the rows, what happens meanwhile, and what must hold at the
end. `scenario` says what it consists of; each is one file in `scenarios`, which reads in this order.
"""
