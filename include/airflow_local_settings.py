"""Loads what tasks need once, in the scheduler: its workers are forks and inherit it (0.56 s a task become 0.16 s).

Airflow imports this module by its name from ``$AIRFLOW_HOME/config`` in every component.
"""

from __future__ import annotations

import contextlib
import importlib
import sys

_HEAVY = (
    "alembic",
    "docker",
    "httpx",
    "pydantic",
    "ruamel.yaml",
    "sqlalchemy.orm",
    "airflow.providers.standard.operators.hitl",
    "phoenix_fleet.catalog.catalog",
    "phoenix_fleet.config",
    "phoenix_fleet.rollout.engine",
)

if any("scheduler" in argument for argument in sys.argv):
    for _name in _HEAVY:
        # A module that does not load here fails in the task that needs it, where its message can be read.
        with contextlib.suppress(Exception):
            importlib.import_module(_name)
