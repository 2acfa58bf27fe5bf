"""Processes: started, recognised, stopped with all they started; no other is ever touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.processes import Processes, recorded_pid, started_at
from phoenix_fleet.domain.errors import Refused, Unavailable

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)",
]
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time, pathlib\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True, env={})\n"
    "pathlib.Path(sys.argv[1]).write_text(str(child.pid))\n"
    "time.sleep(float(sys.argv[2]))",
]


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    (tmp_path / "pids").mkdir()
    (tmp_path / "log").mkdir()
    made = Processes(tmp_path / "pids", tmp_path / "log")
    yield made
    made.stop(*made.names(), grace=0)
    made.sweep()


def eventually(check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not check() and time.monotonic() < deadline:
        time.sleep(0.02)
    return check()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_starting_twice_gives_one_process(processes: Processes) -> None:
    processes.start("sleeper", SLEEP)
    first = processes.pid("sleeper")
    processes.start("sleeper", SLEEP)
    assert processes.pid("sleeper") == first
    assert processes.names() == ["sleeper"]


def test_stopping_ends_it_and_forgets_it(processes: Processes) -> None:
    processes.start("sleeper", SLEEP)
    pid = processes.pid("sleeper")
    assert pid
    processes.stop("sleeper")
    assert not alive(pid)
    assert processes.names() == []


def test_what_ignores_sigterm_is_killed_after_the_grace(processes: Processes) -> None:
    processes.start("deaf", STUBBORN)
    processes.wait_ready("deaf", lambda: "deaf" in processes.tail("deaf"))
    pid = processes.pid("deaf")
    assert pid
    began = time.monotonic()
    processes.stop("deaf", grace=0.5)
    assert eventually(lambda: not alive(pid))
    assert time.monotonic() - began < 5


def test_offspring_in_a_session_of_its_own_goes_too(processes: Processes, tmp_path: Path) -> None:
    processes.start("parent", [*PARENT, str(tmp_path / "child"), "60"])
    assert eventually(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text() != "")
    child = int((tmp_path / "child").read_text())
    assert alive(child)
    processes.stop("parent")
    assert eventually(lambda: not alive(child))


def test_a_record_of_another_process_with_the_same_pid_is_not_believed(processes: Processes, tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEP)
    try:
        record = tmp_path / "pids" / "ours.json"
        record.write_text(json.dumps({"pid": stranger.pid, "started": started_at(stranger.pid) - 1, "argv": []}))
        assert not processes.running("ours")
        processes.stop("ours")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("text", ["", "{}", "[", '{"pid": "x", "started": 1}', '{"pid": 999999999, "started": 1}'])
def test_a_broken_record_is_no_process(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    assert recorded_pid(tmp_path / "r.json") is None


def test_sweeping_finds_marked_orphans_and_leaves_strangers(processes: Processes, tmp_path: Path) -> None:
    orphan = subprocess.Popen(SLEEP, env={**os.environ, "PHOENIX_LAB_OWNER": str(tmp_path / "pids")})
    stranger = subprocess.Popen(SLEEP, env={**os.environ, "PHOENIX_LAB_OWNER": str(tmp_path / "another")})
    try:
        assert processes.sweep() == 1
        assert not alive(orphan.pid)
        assert stranger.poll() is None
    finally:
        for process in (orphan, stranger):
            process.kill()
            process.wait()


def test_waiting_for_one_that_dies_says_what_it_said(processes: Processes) -> None:
    processes.start("dying", [sys.executable, "-c", "print('no such port'); raise SystemExit(3)"])
    with pytest.raises(Unavailable, match=r"(?s)dying ended.*no such port"):
        processes.wait_ready("dying", lambda: False)


def test_once_forbidden_nothing_more_is_started(processes: Processes) -> None:
    processes.forbid()
    with pytest.raises(Refused, match="being stopped"):
        processes.start("late", SLEEP)
    assert processes.names() == []
