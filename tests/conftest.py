"""What every test shares: an Airflow home of this run's own, set before anything imports Airflow."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

_HOME = tempfile.mkdtemp(prefix="phoenix-airflow-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ.update(
    AIRFLOW_HOME=_HOME,
    AIRFLOW__CORE__DAGS_FOLDER=str(Path(__file__).resolve().parents[1] / "dags"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__LOGGING__LOGGING_LEVEL="WARNING",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_HOME}/airflow.db",
)

_ENGINE = ("docker", "e2e", "browser")
"""Marks of the tests that share the Docker engine and the lab's ports."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With two processes (``scripts/test``): what shares the engine goes to one of them, first because it takes
    longest and mostly waits; the other takes the rest, file by file, and all that share one Airflow together."""
    for item in items:
        shared = any(item.get_closest_marker(name) for name in _ENGINE)
        one = "orchestration" if item.get_closest_marker("orchestration") else item.nodeid.split("::")[0]
        item.add_marker(pytest.mark.xdist_group("engine" if shared else one))
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in _ENGINE))
