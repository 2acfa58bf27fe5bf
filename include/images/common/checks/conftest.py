"""What the checks expect: facts about the image that the instance should have been born from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    """``family`` and ``version`` of the image, from the file that PHOENIX_FACTS names."""
    found: dict[str, Any] = json.loads(Path(os.environ["PHOENIX_FACTS"]).read_text(encoding="utf-8"))
    return found
