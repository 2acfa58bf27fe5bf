"""Runs another program to its end: its output line by line, never longer than allowed, and nothing left behind.

The program gets a process group of its own. Whatever ends the run early (its time is up, an exception, Ctrl-C, a
SIGTERM to this process) ends the whole group: SIGTERM first, so that it can clean up, then SIGKILL. If this process
itself is killed outright, the kernel sends the program a SIGTERM (``setpriv --pdeathsig``).
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import IO

from phoenix_fleet.domain.errors import InvalidConfig, TimedOut

_POLL = 0.2
"""Seconds after which a wish to stop is noticed at the latest."""

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


def bare_environment(**extra: str) -> dict[str, str]:
    """The few variables that any program needs, and ``extra``: never the secrets in this process's environment."""
    kept = {*_KEPT, *_PROXIES, *(name.upper() for name in _PROXIES)}
    return {name: value for name, value in os.environ.items() if name in kept} | extra


def run(
    argv: Sequence[str],
    on_line: Callable[[str], None],
    *,
    timeout: timedelta,
    env: Mapping[str, str],
    cwd: Path | None = None,
    grace: timedelta = timedelta(seconds=10),
) -> int:
    """The program's exit code once it has ended (negative: the signal that ended it).

    Each line that it writes, standard output and error alike, goes to ``on_line`` without its line break. ``grace``
    is how long the group may take to clean up between SIGTERM and SIGKILL.

    :raises InvalidConfig: the program is not installed.
    :raises TimedOut: it took longer than ``timeout`` and was stopped.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    with _wish_to_stop() as wanted:
        process = _start(argv, env, cwd)
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        assert process.stdout is not None  # noqa: S101 - for mypy: it was asked for
        reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
        reader.start()
        try:
            for line in _until_ended(process, lines):
                if line is not None:
                    on_line(line)
                if wanted:
                    break
                if time.monotonic() > deadline:
                    raise TimedOut(f"{argv[0]} was stopped: it took longer than {timeout}.")
        finally:
            _end_group(process, grace)
            # Only what has left the group can still hold the output open: the reader does not wait for that.
            reader.join(timeout=1)
    return process.returncode


def _start(argv: Sequence[str], env: Mapping[str, str], cwd: Path | None) -> subprocess.Popen[str]:
    for program in ("setpriv", argv[0]):
        if shutil.which(program, path=env.get("PATH")) is None:
            raise InvalidConfig(
                f"The program '{program}' is not installed.", remedy="packages.txt names the packages that are needed."
            )
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", "--", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=dict(env),
        cwd=cwd,
        start_new_session=True,
    )


def _read(stream: IO[str], lines: queue.SimpleQueue[str | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line.rstrip("\r\n"))
    lines.put(None)


def _until_ended(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> Iterator[str | None]:
    """Each line, and None every now and then, until the program has ended."""
    while True:
        try:
            line = lines.get(timeout=_POLL)
        except queue.Empty:
            # A child that lives on in the background may hold the output open for ever.
            if _has_ended(process):
                return
            yield None
            continue
        if line is None:
            break
        yield line
    while not _has_ended(process):
        yield None
        time.sleep(_POLL / 10)


def _has_ended(process: subprocess.Popen[str]) -> bool:
    """Whether the program has ended, leaving its exit code (and so its process group's number) to be collected."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _end_group(process: subprocess.Popen[str], grace: timedelta) -> None:
    """Collect the program, stopped if it runs still, and kill whatever is left of its group."""
    if not _has_ended(process):
        limit = time.monotonic() + grace.total_seconds()
        _signal_group(process, signal.SIGTERM)
        while not _has_ended(process) and time.monotonic() < limit:
            time.sleep(_POLL / 10)
    # The group's number cannot belong to anybody else before its leader has been collected.
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextmanager
def _wish_to_stop() -> Iterator[list[int]]:
    """A list that a SIGTERM to this process puts its number in; afterwards it is delivered as if nothing had been.

    Python can only do so in the main thread. In others the list stays empty, and whoever owns the main thread
    ends them.
    """
    wanted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield wanted
        return

    def note(number: int, _frame: FrameType | None) -> None:
        wanted.append(number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield wanted
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
        if wanted:
            os.kill(os.getpid(), signal.SIGTERM)
    if wanted:
        # Whoever handled it let us live (Airflow's task runner calls on_kill and goes on): the run is over anyway.
        raise SystemExit(128 + signal.SIGTERM)
