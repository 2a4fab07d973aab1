"""The task queues for Python and PostgreSQL that the benchmarks drive beside ours, each in an environment of its own.

    python -m tests.benchmarks.peers [--quick]         # all of them, on a durable server, as a table
    python -m tests.benchmarks.peers.sweep PEER        # what its settings were chosen by

`PEERS` are those there are; `driver` has what may be asked of one, `adapters` the scripts that ask the peers, `environments` where they
are installed. Tasks are no-ops, so what is measured is what the peers themselves cost.
"""

from __future__ import annotations

from tests.benchmarks.peers.driver import Peer

# Chosen by sweeps of three rounds, with two cores for the server and the peer, that other programs kept busy too: where the ranges
# overlapped, the better median, and with it the lower CPU of the client. Only what the peers document, and what keeps all that is
# finished through a crash: so not PgQueuer's tables that are not logged, nor Chancy without its recovery.
PEERS = (
    Peer(
        "pgqueuer",
        requirements=("pgqueuer[asyncpg]", "uvloop"),
        tasks=50_000,
        settings={"uvloop": True, "managers": 2, "batch_size": 200, "enqueue_batch": 1000},
        when_idle={"managers": 1},
        swept={
            "uvloop": (False, True),
            "managers": (1, 2, 5),
            "batch_size": (10, 50, 100, 200, 500, 1000),
            "enqueue_batch": (100, 1000, 10_000),
        },
    ),
    Peer(
        "procrastinate",
        requirements=("procrastinate", "psycopg[binary]", "uvloop"),
        tasks=4000,
        settings={
            "uvloop": False,
            "concurrency": 100,
            "pool": 4,
            "delete_jobs": "never",
            "enqueue_batch": 1000,
        },
        swept={
            "uvloop": (False, True),
            "concurrency": (10, 30, 100, 300),
            "pool": (4, 10, 30),
            "delete_jobs": ("never", "successful"),
            "enqueue_batch": (100, 1000, 4000),
        },
    ),
    Peer(
        "chancy",
        requirements=("chancy", "psycopg[binary]", "uvloop"),
        tasks=20_000,
        settings={
            "uvloop": True,
            "concurrency": 3000,
            "send_outgoing_interval": 0.1,
            "plugins": "safe",
            "enqueue_batch": 1000,
        },
        swept={
            "uvloop": (False, True),
            "concurrency": (100, 300, 1000, 3000),
            "send_outgoing_interval": (0.01, 0.1, 1),
            "plugins": ("all", "safe"),
            "enqueue_batch": (100, 1000, 10_000),
        },
    ),
    Peer(
        "oban",
        requirements=("oban", "uvloop"),
        python=(3, 12),
        tasks=20_000,
        settings={"uvloop": True, "limit": 200, "pool": 3, "enqueue_batch": 1000},
        swept={
            "uvloop": (False, True),
            "limit": (20, 50, 100, 200, 500, 1000),
            "pool": (3, 10, 30),
            "enqueue_batch": (100, 1000, 10_000),
        },
    ),
)
