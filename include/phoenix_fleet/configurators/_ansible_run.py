"""The program that carries out one Ansible run, beside the task that asked for it.

It reads a request (one JSON line on stdin) and prints one JSON object per line: ``line`` (output), ``failed`` or
``unreachable`` (task and message), ``changed`` (a count) and at last ``status`` and ``code``. Its stdin stays open
as long as the asker lives: at its end, whatever ended it, the run is cancelled, every process of it killed and its
folder removed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phoenix_fleet import ssh
from phoenix_fleet.configurators import _reap


def main() -> int:
    """Carry out the request; 0 if Ansible could be run at all, whatever came of it."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    os.environ.pop("PYTHONPATH", None)
    request: dict[str, Any] = json.loads(sys.stdin.readline())
    orphaned = threading.Event()
    threading.Thread(target=_watch, args=(orphaned,), daemon=True).start()

    import ansible_runner

    def say(**answer: Any) -> None:
        if not orphaned.is_set():
            channel.write(json.dumps(answer, default=str) + "\n")
            channel.flush()

    def on_event(event: Mapping[str, Any]) -> bool:
        for line in str(event.get("stdout") or "").splitlines():
            say(line=line)
        for answer in _news(event):
            say(**answer)
        return False  # nothing to keep on disk

    run = ansible_runner.run(
        private_data_dir=request["folder"],
        playbook="play.json",
        inventory=request["inventory"],
        event_handler=on_event,
        cancel_callback=orphaned.is_set,
        settings={"pexpect_timeout": 1},
        timeout=request["timeout"],
        quiet=True,
    )
    if orphaned.is_set():
        _reap.reap(os.environ[_reap.MARK])
        ssh.hang_up(Path(request["folder"]) / "ssh_config")
        shutil.rmtree(request["folder"], ignore_errors=True)  # it holds the values of the roles
        return 1
    say(status=run.status, code=run.rc)
    return 0


def _watch(orphaned: threading.Event) -> None:
    sys.stdin.read()
    orphaned.set()


def _news(event: Mapping[str, Any]) -> list[dict[str, Any]]:
    data = event.get("event_data") or {}
    kind = event.get("event")
    if kind == "runner_on_unreachable" or (kind == "runner_on_failed" and not data.get("ignore_errors")):
        news = {"task": data.get("task", ""), "role": data.get("role", ""), "message": _message(data.get("res"))}
        return [{"failed" if kind == "runner_on_failed" else "unreachable": news}]
    if kind == "playbook_on_stats":
        return [{"changed": sum(data.get("changed", {}).values())}]
    return []


def _message(result: Any) -> str:
    if not isinstance(result, Mapping):
        return str(result)
    parts = [str(result.get(key) or "").strip() for key in ("msg", "stderr", "module_stderr", "stdout", "censored")]
    return " | ".join(dict.fromkeys(part for part in parts if part))


if __name__ == "__main__":
    raise SystemExit(main())
