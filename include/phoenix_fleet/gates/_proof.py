"""Files that gates keep as proof: named after what they prove, and never written over one another."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any


def new_file(workdir: str, stem: str, suffix: str) -> Path:
    """A fresh, empty file in the folder: ``stem.suffix``, or ``stem-2.suffix`` if that is taken."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.")[:80] or "proof"
    for number in itertools.count(1):
        path = Path(workdir) / (f"{safe}{suffix}" if number == 1 else f"{safe}-{number}{suffix}")
        try:
            path.touch(mode=0o600, exist_ok=False)
        except FileExistsError:
            continue
        return path
    raise AssertionError("count() has no end")


def write_json(workdir: str, stem: str, data: Any) -> str:
    """Keep JSON-able data; gives the file's path.

    :raises TypeError: the data is not JSON-able.
    """
    text = json.dumps(data, indent=2, sort_keys=True)
    path = new_file(workdir, stem, ".json")
    path.write_text(text + "\n", encoding="utf-8")
    return str(path)
