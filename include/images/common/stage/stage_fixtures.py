"""What the suites of the staging fleet share. They run from outside, through the fleet's front (its balancer)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

HOME = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def facts() -> dict[str, Any]:
    """What should be found there: ``version``, ``environment``, ``dataset``, ``components`` and ``values``."""
    found: dict[str, Any] = json.loads(Path(os.environ["PHOENIX_FACTS"]).read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="session")
def dataset(facts: dict[str, Any]) -> dict[str, Any]:
    """The versioned dataset as it lies beside these tests: ``name``, ``categories``, ``products``."""
    folder = HOME / "datasets" / Path(facts["dataset"]).name
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    tables = {Path(name).stem: json.loads((folder / name).read_text(encoding="utf-8")) for name in manifest["files"]}
    return {"name": manifest["name"], **tables}


@pytest.fixture
def client(facts: dict[str, Any]) -> Iterator[httpx.Client]:
    """One client with one connection: what it asks in a row goes to one instance as long as the balancer lets it.

    Every answer must come from an instance of the release under test, whatever it says otherwise.
    """

    def check_release(answer: httpx.Response) -> None:
        assert answer.headers.get_list("X-Release") == [facts["version"]], (
            f"{answer.url} was answered by another release"
        )
        assert answer.headers.get("X-Instance"), f"{answer.url} was answered by nobody we know"

    with httpx.Client(
        base_url=os.environ["PHOENIX_ENDPOINT"], timeout=10, trust_env=False, event_hooks={"response": [check_release]}
    ) as ours:
        yield ours
