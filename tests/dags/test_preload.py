"""What a task would import is loaded once, in the scheduler that its worker is a fork of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dags.conftest import ROOT

# As the scheduler starts, and then as a task of fleet.web parses its DAG file.
PARSE = """
import os, sys
sys.argv = ["airflow", "scheduler"]
import airflow.settings
airflow.settings.initialize()
before = set(sys.modules)
from airflow.dag_processing.dagbag import DagBag
os.environ["_AIRFLOW_PARSING_CONTEXT_DAG_ID"] = "fleet.web"
bag = DagBag({file!r})
print(sorted(bag.dags), sorted(name for name in set(sys.modules) - before if name.startswith("phoenix_fleet.")))
"""


@pytest.mark.airflow
def test_a_task_that_parses_its_dag_file_loads_nothing_of_ours_anew(tmp_path: Path) -> None:
    own = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "PHOENIX"))}
    env = {**own, "AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "include")}
    code = PARSE.format(file=str(ROOT / "dags" / "fleet.py"))
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "['fleet.web'] []"
