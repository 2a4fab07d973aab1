"""The protocol of leases as a model, of which every state is looked at: no database, no Runner, only the rules.

`protocol.py` has the rules, and says which statement of the SQL each of them stands for; `promises.py` what must be true
of them; `faults.py` the same rules with one of them broken, each to be found; `checker.py` goes through all the states.
"""
