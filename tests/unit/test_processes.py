from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from phoenix_fleet import processes
from phoenix_fleet.domain.errors import InvalidConfig, TimedOut

MINUTE = timedelta(minutes=1)


def run(
    script: str, on_line: object = None, *, timeout: timedelta = MINUTE, grace: timedelta = MINUTE
) -> tuple[int, list[str]]:
    lines: list[str] = []
    code = processes.run(
        ["sh", "-c", script],
        on_line if callable(on_line) else lines.append,
        timeout=timeout,
        env=processes.bare_environment(),
        grace=grace,
    )
    return code, lines


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition: object, seconds: float = 10) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_every_line_of_both_streams_arrives_in_order_with_the_exit_code() -> None:
    code, lines = run("echo one; echo two >&2; printf 'no line break'; exit 3")
    assert (code, lines) == (3, ["one", "two", "no line break"])


def test_a_signal_that_ends_it_is_its_exit_code() -> None:
    assert run("kill -9 $$")[0] == -signal.SIGKILL


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert run(r"printf '\377\n'")[1] == ["\N{REPLACEMENT CHARACTER}"]


def test_lines_come_while_it_runs(tmp_path: Path) -> None:
    seen = tmp_path / "seen"

    def note(line: str) -> None:
        seen.write_text(line)

    # It goes on only once somebody has read its first line.
    code, _ = run(f"echo first; while [ ! -e {seen} ]; do sleep 0.05; done", note, timeout=timedelta(seconds=20))
    assert code == 0


def test_a_program_that_has_closed_its_output_is_waited_for(tmp_path: Path) -> None:
    code, _ = run(f"exec >&- 2>&-; sleep 0.5; echo done >{tmp_path}/done; exit 4")
    assert (code, (tmp_path / "done").exists()) == (4, True)


def test_a_program_that_leaves_a_child_behind_is_not_waited_for_and_the_child_is_ended() -> None:
    start = time.monotonic()
    code, lines = run("sleep 60 & echo $!")
    assert code == 0
    assert time.monotonic() - start < 10
    assert wait_for(lambda: not is_alive(int(lines[0])))


def test_too_long_is_stopped_with_time_to_clean_up(tmp_path: Path) -> None:
    with pytest.raises(TimedOut, match="longer than 0:00:00"):
        run(f"trap 'echo clean >{tmp_path}/clean; exit' TERM; sleep 60 & wait", timeout=timedelta(seconds=0.5))
    assert (tmp_path / "clean").exists()


def test_what_does_not_listen_is_killed_with_all_its_children() -> None:
    lines: list[str] = []
    script = "trap '' TERM; (trap '' TERM; sleep 60) & echo $!; echo $$; while :; do sleep 1; done"
    with pytest.raises(TimedOut):
        run(script, lines.append, timeout=timedelta(seconds=0.5), grace=timedelta(seconds=0.5))
    assert len(lines) == 2
    assert wait_for(lambda: not any(is_alive(int(pid)) for pid in lines))


def test_an_exception_in_the_log_ends_it() -> None:
    pids: list[int] = []

    def fail(line: str) -> None:
        pids.append(int(line))
        raise RuntimeError("the log is full")

    with pytest.raises(RuntimeError, match="the log is full"):
        run("echo $$; exec sleep 60", fail)
    assert wait_for(lambda: not is_alive(pids[0]))


def test_ctrl_c_ends_it_and_goes_on() -> None:
    pids: list[int] = []

    def press(line: str) -> None:
        pids.append(int(line))
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run("echo $$; exec sleep 60", press)
    assert wait_for(lambda: not is_alive(pids[0]))


def test_a_sigterm_ends_it_and_reaches_whoever_listened_before() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        start = time.monotonic()
        # Whoever listened let us live: the run ends all the same.
        with pytest.raises(SystemExit) as ended:
            run("exec sleep 60")
        assert time.monotonic() - start < 10
        assert ended.value.code == 128 + signal.SIGTERM
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_handlers_are_as_they_were_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run("true")
    assert signal.getsignal(signal.SIGTERM) is before


def test_it_works_in_another_thread() -> None:
    found: list[tuple[int, list[str]]] = []
    thread = threading.Thread(target=lambda: found.append(run("echo here")))
    thread.start()
    thread.join()
    assert found == [(0, ["here"])]


CALLER = """
import sys
from datetime import timedelta
from phoenix_fleet import processes
script = "trap 'echo clean >>$0; exit' TERM; echo $$ >>$0; sleep 60 & wait"
processes.run(["sh", "-c", script, sys.argv[1]], print, timeout=timedelta(minutes=5), env=processes.bare_environment())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_program_ends_cleanly_with_whoever_started_it(tmp_path: Path, number: signal.Signals) -> None:
    notes = tmp_path / "notes"
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(notes)],
        env={**os.environ, "PYTHONPATH": str(Path(processes.__file__).parents[1])},
    )
    assert wait_for(lambda: notes.exists() and notes.read_text().count("\n") == 1, 20)
    caller.send_signal(number)
    assert caller.wait(timeout=20) == -number
    assert wait_for(lambda: "clean" in notes.read_text())
    assert wait_for(lambda: not is_alive(int(notes.read_text().split()[0])))


def test_a_program_that_is_not_installed_is_named() -> None:
    with pytest.raises(InvalidConfig, match="'no-such-program' is not installed"):
        processes.run(["no-such-program"], print, timeout=MINUTE, env=processes.bare_environment())


def test_secrets_of_the_environment_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_REGISTRY", "http://somebody:secret@registry")
    monkeypatch.setenv("https_proxy", "http://proxy")
    env = processes.bare_environment(EXTRA="1")
    assert "AIRFLOW_CONN_REGISTRY" not in env
    assert (env["EXTRA"], env["https_proxy"], env["PATH"]) == ("1", "http://proxy", os.environ["PATH"])
