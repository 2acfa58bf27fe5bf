from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from phoenix_fleet.airflow import process
from phoenix_fleet.airflow.replace import ReplaceOperator
from phoenix_fleet.domain.errors import InvalidConfig

ROOT = Path(__file__).resolve().parents[3]

# As Airflow does it: a handler of SIGTERM that calls on_kill and returns, in a child of a supervisor.
ORPHAN = """
import os, signal, sys, time
from phoenix_fleet.airflow import process
from phoenix_fleet.airflow.replace import ReplaceOperator
if os.fork():
    signal.pause()
signal.signal(signal.SIGTERM, lambda number, frame: process.end_now())
process.die_with_parent()
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_the_lease_is_half_a_minute_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHOENIX_LEASE_SECONDS", raising=False)
    assert process.lease() == timedelta(seconds=30)
    monkeypatch.setenv("PHOENIX_LEASE_SECONDS", "7.5")
    assert process.lease() == timedelta(seconds=7.5)


@pytest.mark.parametrize("said", ["4.9", "3601", "-60", "nan", "a minute"])
def test_a_lease_that_nobody_can_keep_is_refused(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("PHOENIX_LEASE_SECONDS", said)
    with pytest.raises(InvalidConfig, match="PHOENIX_LEASE_SECONDS"):
        process.lease()


def test_ending_now_is_no_error_that_a_step_could_swallow() -> None:
    with pytest.raises(SystemExit) as ended:
        process.end_now()
    assert ended.value.code == 128 + signal.SIGTERM


def test_a_task_ends_with_its_supervisor() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "include")}
    supervisor = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, env=env, text=True)
    try:
        assert supervisor.stdout is not None
        task = int(supervisor.stdout.readline())
        supervisor.kill()
        give_up = time.monotonic() + 30
        while _runs(task):
            assert time.monotonic() < give_up, "the orphan works on"
            time.sleep(0.05)
    finally:
        supervisor.kill()
        supervisor.wait()
        supervisor.stdout.close()  # type: ignore[union-attr]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_replacement_that_airflow_ends_does_end() -> None:
    operator = ReplaceOperator(task_id="replace", fleet="web", wave=0, batch={})
    with pytest.raises(SystemExit):
        operator.on_kill()
