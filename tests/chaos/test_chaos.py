"""A sample of the campaign on real processes: ten blows, and the same judgement, but for the time.

How soon the fleet goes on is measured by the campaign on a quiet machine (docs/reports/chaos.md); here other tests run
beside it, so only what does not go on at all is a failure.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lab.places import REPOSITORY

BLOWS, SEED = 10, 385
"""A seed whose ten blows are of ten kinds."""
FOREVER = 300
"""Seconds after which a fleet that has not gone on is not going to."""

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.timeout(1500)]


def test_a_fleet_is_refreshed_while_its_airflow_is_struck_ten_times(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    argv = [
        "scripts/chaos",
        "--blows",
        str(BLOWS),
        "--seed",
        str(SEED),
        "--limit",
        str(FOREVER),
        "--result",
        str(result),
    ]
    done = subprocess.run(
        argv,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.exists(), done.stdout[-5000:]
    assert json.loads(result.read_text())["broken"] == [], done.stdout[-8000:]
    assert done.returncode == 0
