"""What a whole rollout costs in simulation, machine by machine, beside bare SQLite transactions of the same number.

Run it by itself: ``PYTHONPATH=include:. python tests/bench/bench_simulation.py [SIZE …]``; no trouble, the real engine,
the real SQL, virtual time. Seconds are of the processor, so a busy machine changes them little.
"""

from __future__ import annotations

import sqlite3
import sys
import time

from tests.simulator.play import Play

SIZES = (10, 50)
SEED = 7


def bare(transactions: int) -> float:
    """Seconds that so many transactions of one row take in a SQLite database in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
    began = time.process_time()
    for number in range(transactions):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t (text) VALUES (?)", (f"row {number}",))
        connection.execute("COMMIT")
    connection.close()
    return time.process_time() - began


def measure(size: int) -> dict[str, float]:
    """One fleet of that size, replaced."""
    stage = Play(SEED, (), size)
    transactions = 0

    def count(statement: str) -> None:
        nonlocal transactions
        transactions += statement.startswith("COMMIT")

    stage.database.raw.set_trace_callback(count)
    began = time.process_time()
    outcome = stage.run()
    seconds = time.process_time() - began
    stage.database.raw.set_trace_callback(None)
    if outcome.violation or outcome.ending != "at rest":
        raise SystemExit(f"the rollout of {size} went wrong: {outcome.violation}")
    return {
        "seconds": seconds,
        "each": seconds / size * 1000,
        "steps": outcome.counts["steps"] / size,
        "transactions": transactions / size,
        "ratio": seconds / max(bare(transactions), 1e-9),
    }


def main() -> None:
    """A line per size."""
    measure(2)  # what is compiled and cached on first use is no part of it
    for size in [int(each) for each in sys.argv[1:]] or SIZES:
        found = measure(size)
        print(
            f"{size:>6} machines: {found['seconds']:.1f} s, {found['each']:.0f} ms, {found['steps']:.0f} steps and "
            f"{found['transactions']:.0f} transactions each; {found['ratio']:.0f} times as many bare transactions' time"
        )


if __name__ == "__main__":
    main()
