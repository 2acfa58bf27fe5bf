"""A program that runs one command inside an instance through testinfra, and fetches one file from there.

It is started by path, reads its request as JSON on stdin and writes its answer as JSON to a file; so it can be
killed when it takes too long, which a thread could not.
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
from typing import Any

_RUN = (
    'out=$(mktemp) || exit 125; rm -f -- "$1"; shift; '
    '"$@" >"$out" 2>&1 </dev/null; code=$?; tail -c 65536 -- "$out"; rm -f -- "$out"; exit $code'
)
"""Removes the old JUnit file, so that a crash cannot leave yesterday's result; output stays bounded."""


def main() -> int:
    """Carry out the request; 0 unless the instance cannot be reached."""
    import testinfra

    request: dict[str, Any] = json.load(sys.stdin)
    answer: dict[str, Any] = {}
    try:
        backend = testinfra.get_host(request["hostspec"], ssh_config=request["ssh_config"]).backend
        probe = backend.run("true")
        if probe.rc:
            answer["unreachable"] = f"exit code {probe.rc}: {probe.stderr_bytes[-500:]!r}"
        else:
            _carry_out(backend, request, answer)
    except Exception as error:
        answer["unreachable"] = f"{type(error).__name__}: {error}"
    with open(request["answer"], "w", encoding="utf-8") as file:
        json.dump(answer, file)
    return 0


def _carry_out(backend: Any, request: dict[str, Any], answer: dict[str, Any]) -> None:
    limit, junit = str(request["timeout"]), request["junit"]
    argv = ["sh", "-c", _RUN, "phoenix", junit, "timeout", "-k", "5", limit, *request["argv"]]
    # Each word goes in by testinfra's own quoting: nothing in it is ever read by a shell.
    ran = backend.run(" ".join(["%s"] * len(argv)), *argv)
    answer["code"], answer["output"] = ran.rc, ran.stdout_bytes.decode(errors="replace")
    fetched = backend.run("head -c %s -- %s | base64", str(request["largest"] + 1), junit)
    try:
        base64.b64decode(fetched.stdout_bytes, validate=False)
    except binascii.Error:
        return
    answer["junit"] = fetched.stdout_bytes.decode("ascii", errors="ignore") if fetched.stdout_bytes.strip() else ""


if __name__ == "__main__":
    raise SystemExit(main())
