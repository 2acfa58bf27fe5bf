"""Every day: the age of every machine, outdated ones, orphans, and fleets past or near their deadline."""

from __future__ import annotations

from airflow.sdk import DAG

from phoenix_fleet.airflow.audit import inspect
from phoenix_fleet.airflow.image_words import calls_owners, defaults
from phoenix_fleet.airflow.loading import fleets, in_service

with DAG(
    dag_id="audit",
    description="Compares the catalog with an independent listing of each platform.",
    schedule="30 5 * * *",
    catchup=False,
    max_active_runs=1,
    tags=["phoenix", "audit"],
    doc_md=__doc__,
) as dag:
    for fleet in in_service(fleets("audit")):
        inspect.override(task_id=f"inspect.{fleet.name}", **defaults(fleet), **calls_owners(fleet, "audit-findings"))(
            fleet.name
        )
