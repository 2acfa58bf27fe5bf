"""Runs a program to which folders of its own stand in the place of the system's.

``unshare --mount --propagation private python -I within.py FOLDER=PLACE … -- PROGRAM …``: nobody else sees that.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    """Mount each folder over its place, then become the program."""
    at = argv.index("--")
    for pair in argv[:at]:
        folder, _, place = pair.partition("=")
        subprocess.run(["mount", "--bind", folder, place], check=True)
    program = argv[at + 1 :]
    os.execvp(program[0], list(program))  # noqa: S606 - that is its purpose; no shell


if __name__ == "__main__":
    main(sys.argv[1:])
