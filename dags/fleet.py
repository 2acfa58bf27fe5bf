"""One DAG per fleet: wait for the release → plan → canary → waves → report.

A fleet is a file below `include/fleets/`; adding one adds its DAG here. Each replacement is one task instance and
waits on the previous one; what may happen when is kept by the catalog, so no retry, clear or backfill can break it.
"""

from __future__ import annotations

from airflow.sdk import DAG

from phoenix_fleet.airflow import fleet_words as words
from phoenix_fleet.airflow.image_words import defaults
from phoenix_fleet.airflow.loading import fleets

for fleet in fleets():
    with DAG(
        dag_id=f"fleet.{fleet.name}",
        description=fleet.description,
        schedule=fleet.schedule,
        catchup=False,
        max_active_runs=1,
        default_args=defaults(fleet),
        tags=["phoenix", "fleet", fleet.runs_on.name],
        doc_md=__doc__,
    ) as dag:
        release = words.await_release(fleet)
        plan = words.plan(fleet)
        waves = words.waves(fleet, plan)
        report = words.report(fleet, plan, waves)

        release >> plan >> waves[0]

    dag.params = words.params(fleet)  # after the tasks: Airflow copies a DAG's params into each task made later
