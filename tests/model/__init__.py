"""The protocol of leases as a model, of which every state is looked at: no database, no Runner, only the rules.

`states.py` says what there is; `rules.py` what is asked before something is done; `database.py` and `protocol.py` what can
happen next, and which statement of the SQL each of it stands for; `promises.py` what must be true of it all; `faults.py`
has the same rules with one of them broken, each to be found; `checker.py` goes through the states, and `symmetry.py` spares
it those that are the same but for names.
"""
