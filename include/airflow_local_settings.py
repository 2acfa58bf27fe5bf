"""Loads what tasks need once, in the scheduler: its workers are forks and inherit it (0.56 s a task become 0.16 s).

A task parses its DAG file again; with all of this loaded that takes 5 ms of CPU time, and 120 ms without.

Airflow imports this module by its name from ``$AIRFLOW_HOME/config`` in every component.
"""

from __future__ import annotations

import contextlib
import importlib
import sys

_HEAVY = (
    "airflow.dag_processing.bundles.local",
    "airflow.sdk.execution_time.cache",
    "airflow.sdk.execution_time.supervisor",
    "alembic",
    "docker",
    "httpx",
    "jinja2.ext",
    "pydantic",
    "ruamel.yaml",
    "sqlalchemy.orm",
    "airflow.providers.standard.operators.hitl",
    "airflow.sdk.bases.sensor",
    "airflow.version",
    "airflow.providers.standard.operators.empty",
    "packaging.requirements",
    "phoenix_fleet.airflow.fleet_words",
    "phoenix_fleet.airflow.image_words",
    "phoenix_fleet.airflow.loading",
    "phoenix_fleet.catalog.catalog",
    "phoenix_fleet.config",
    "phoenix_fleet.rollout.engine",
)

if any("scheduler" in argument for argument in sys.argv):
    for _name in _HEAVY:
        # A module that does not load here fails in the task that needs it, where its message can be read.
        with contextlib.suppress(Exception):
            importlib.import_module(_name)
    # What each task would set up for itself: the catalog's tables, and in each worker the certificates that Airflow's
    # own client trusts (60 ms, even where its API is plain HTTP).
    with contextlib.suppress(Exception):
        importlib.import_module("phoenix_fleet.catalog.schema").Base.registry.configure()
    with contextlib.suppress(Exception):
        _client = importlib.import_module("airflow.sdk.api.client")
        _client.Client._get_ssl_context_cached(_client.API_SSL_CA_FILE_PATH, _client.API_SSL_CERT_PATH)
    # The drivers that the project's files name: to check a file loads them.
    with contextlib.suppress(Exception):
        importlib.import_module("phoenix_fleet.config").Project.find().broken()
