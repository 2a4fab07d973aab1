"""Half an hour under a steady load: instances that come, go and are killed, a report that holds its snapshot for long, and
PostgreSQL's autovacuum as it is shipped. Nothing may grow: `python -m tests.chaos.soak [MINUTES]`.
"""
