"""Speaks with HAProxy's runtime socket for the playbook: ``runtime.py SOCKET COMMAND …``.

``runtime.py SOCKET --sessions BACKEND SERVER`` prints how many requests that server has in hand.
"""

from __future__ import annotations

import csv
import socket
import sys

GOOD = ("", "New server registered.", "Server deleted.")


def ask(path: str, command: str) -> str:
    """HAProxy's answer."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as runtime:
        runtime.settimeout(5)
        runtime.connect(path)
        runtime.sendall(f"{command}\n".encode())
        while chunk := runtime.recv(65536):
            answer += chunk
    return answer.decode().strip()


def sessions(path: str, backend: str, server: str) -> int:
    """Requests that it works on or has waiting."""
    for row in csv.DictReader(ask(path, f"show stat {backend} 4 -1").removeprefix("# ").splitlines()):
        if row["svname"] == server:
            return int(row["scur"]) + int(row["qcur"] or 0)
    raise SystemExit(f"HAProxy knows no {backend}/{server}")


def main(path: str, *said: str) -> None:
    """Print what was asked for; anything but success ends in an error."""
    if said[0] == "--sessions":
        print(sessions(path, *said[1:]))
        return
    for command in said:
        if (answer := ask(path, command)) not in GOOD:
            raise SystemExit(f"{command}: {answer}")


if __name__ == "__main__":
    main(*sys.argv[1:])
