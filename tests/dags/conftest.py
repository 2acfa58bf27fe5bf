"""DAGs drawn from a project on fakes, and an Airflow database for ``dag.test()``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.dags.fakeworld_project import write_project

ROOT = Path(__file__).resolve().parents[2]


def load_dags(folder: Path = ROOT / "dags") -> Any:
    """A fresh DagBag of the project's DAG files."""
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(folder))


@pytest.fixture(scope="session")
def shape_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project on fakes that no test changes."""
    return write_project(tmp_path_factory.mktemp("shape"))


@pytest.fixture(scope="session")
def bag(shape_project: Path) -> Any:
    """The DAGs of that project."""
    # Only while they are drawn: left for the session, every later test, the real Airflow among them, would see
    # this project instead of its own.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PHOENIX_INCLUDE", str(shape_project))
        return load_dags()
