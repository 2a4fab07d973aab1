"""A mapping, brought into a database: validated, installed, tuned, compared, looked at and pruned.

Everything here takes a connection that is open already (of asyncpg, or alike) and a `TaskTable`, and works as the role
that the connection belongs to. What is refused is refused before anything changes, as a `SchemaError` of one sentence.
"""

from session_lock.migrations.adoption import adopt
from session_lock.migrations.comparison import check
from session_lock.migrations.difference import Difference
from session_lock.migrations.installation import install, takes_no_transaction
from session_lock.migrations.pruning import prune
from session_lock.migrations.reading import Pending, peek, pending_summary
from session_lock.migrations.removal import remove
from session_lock.migrations.requests import cancel, parked, retry
from session_lock.migrations.tuning import tune
from session_lock.migrations.validation import validate

__all__ = [
    "Difference",
    "Pending",
    "adopt",
    "cancel",
    "check",
    "install",
    "parked",
    "peek",
    "pending_summary",
    "prune",
    "remove",
    "retry",
    "takes_no_transaction",
    "tune",
    "validate",
]
