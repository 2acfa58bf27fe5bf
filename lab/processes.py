"""Processes that outlive the command that started them: started, recognised and stopped, and no other touched.

Each is recorded by pid *and* start time, since a pid alone may be another's tomorrow, and leads a process group.
What its offspring has put into groups of its own (tasks, Packer, Ansible) is found by descent when it is stopped, or
later by ``PHOENIX_LAB_OWNER`` in the environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from phoenix_fleet.domain.errors import Refused, Unavailable

MARK = "PHOENIX_LAB_OWNER"


class Processes:
    """The long-running processes of one lab, by name."""

    def __init__(self, records: Path, logs: Path) -> None:
        self._records = records
        self._logs = logs
        self._mark = f"{MARK}={records}".encode()
        self._forbidden = False

    def start(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        """Start it in its own session unless it runs already; its output goes to ``<logs>/<name>.log``.

        :raises Refused: after ``forbid``.
        """
        if self._forbidden:
            raise Refused(f"{name} is not started: everything is being stopped.")
        if self.running(name):
            return
        with (self._logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**(os.environ if env is None else env), MARK: str(self._records)},
                cwd=cwd,
                start_new_session=True,
            )
        process.returncode = 0  # from here on it is known by its record; no wait is owed to this object
        record = {"pid": process.pid, "started": started_at(process.pid), "argv": list(argv)}
        self._record(name).write_text(json.dumps(record))

    def forbid(self) -> None:
        """Start nothing more: a thread that is still bringing things up fails instead of racing with their end."""
        self._forbidden = True

    def running(self, name: str) -> bool:
        """Whether the process that we started under that name still runs."""
        return self.pid(name) is not None

    def pid(self, name: str) -> int | None:
        """Its pid, or None once it ended."""
        return recorded_pid(self._record(name))

    def names(self) -> list[str]:
        """Every process that was started and not stopped."""
        return sorted(path.stem for path in self._records.glob("*.json"))

    def wait_ready(self, name: str, ready: Callable[[], bool], *, seconds: float = 20) -> None:
        """Return once ``ready()``.

        :raises Unavailable: if the process ends or takes longer, with the last lines of its log.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running(name) or time.monotonic() > deadline:
                what = "ended" if not self.running(name) else f"is not ready after {seconds:.0f} s"
                raise Unavailable(f"{name} {what}. {self.tail(name)}", remedy=f"See {self._logs / name}.log")
            time.sleep(0.1)

    def tail(self, name: str, lines: int = 5) -> str:
        """The last lines of its log."""
        try:
            text = (self._logs / f"{name}.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def stop(self, *names: str, grace: float = 10) -> None:
        """End these and all they started: SIGTERM, at most ``grace`` seconds for all together, then SIGKILL."""
        leaders = [pid for name in names if (pid := self.pid(name))]
        offspring = _descendants(leaders)
        for pid in leaders:
            _signal_group(pid, signal.SIGTERM)
        _wait(lambda: not any(map(_alive, leaders)), grace)
        for pid in leaders:
            _signal_group(pid, signal.SIGKILL)
        _end(offspring)
        for name in names:
            self._record(name).unlink(missing_ok=True)

    def sweep(self) -> int:
        """End every process that still carries our mark; how many there were."""
        strays = _identified(pid for pid in _pids() if pid != os.getpid() and self._is_ours(pid))
        _end(strays)
        return len(strays)

    def _record(self, name: str) -> Path:
        return self._records / f"{name}.json"

    def _is_ours(self, pid: int) -> bool:
        try:
            return self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False


def started_at(pid: int) -> int:
    """When that process started, in the kernel's clock ticks since boot.

    :raises ProcessLookupError: if there is none.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError as error:
        raise ProcessLookupError(f"no process {pid}") from error
    return int(stat.rpartition(")")[2].split()[19])


def recorded_pid(record: Path) -> int | None:
    """The pid in a record, if exactly that process still runs (a zombie does not)."""
    try:
        data = json.loads(record.read_text())
        pid = int(data["pid"])
        same = started_at(pid) == int(data["started"])
    except (OSError, ValueError, KeyError):
        return None
    return pid if same and _alive(pid) else None


def _identified(pids: Iterable[int]) -> dict[int, int]:
    """Pids with their start times; those that are gone by now are left out."""
    found = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            found[pid] = started_at(pid)
    return found


def _descendants(leaders: Sequence[int]) -> dict[int, int]:
    """Children of these, their children and so on, with their start times."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(pid)
    found: list[int] = []
    queue = list(leaders)
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return _identified(found)


def _end(processes: Mapping[int, int]) -> None:
    """SIGTERM, three seconds, SIGKILL for those of these processes that still run."""

    def left() -> list[int]:
        now = _identified(processes)
        return [pid for pid in now if now[pid] == processes[pid] and _alive(pid)]

    for pid in left():
        _signal(pid, signal.SIGTERM)
    _wait(lambda: not left(), 3)
    for pid in left():
        _signal(pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    # Our own ended children stay as zombies until they are waited for.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _pids() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _wait(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.05)
