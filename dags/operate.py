"""Resume, halt or cancel a fleet's rollout: an explicit act of a named person, recorded with the reason."""

from __future__ import annotations

from airflow.sdk import DAG

from phoenix_fleet.airflow import operate
from phoenix_fleet.airflow.loading import fleet_names

with DAG(
    dag_id="operate",
    description="Resume, halt or cancel a rollout, by hand and with a reason.",
    schedule=None,
    params=operate.params(fleet_names()),
    allowed_run_types=["manual"],
    tags=["phoenix", "operate"],
    doc_md=__doc__,
) as dag:
    operate.act()
