"""Resume, halt, pause, cancel or roll back a fleet's rollout, or revoke a release: by a named person, with a reason.

What goes back or gets away from a release is a run of the fleet's own DAG, which this one starts.
"""

from __future__ import annotations

from airflow.sdk import DAG

from phoenix_fleet.airflow import operate
from phoenix_fleet.airflow.loading import fleet_names

with DAG(
    dag_id="operate",
    description="Resume, halt, pause, cancel, roll back, revoke or unblock, by hand and with a reason.",
    schedule=None,
    params=operate.params(fleet_names()),
    allowed_run_types=["manual"],
    tags=["phoenix", "operate"],
    doc_md=__doc__,
) as dag:
    runs = operate.runs()
    operate.act() >> runs
    operate.start(runs)
