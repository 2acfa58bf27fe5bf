"""Every hour: terminates what crashes and cancelled rollouts left behind, a few at a time, and deletes dead images.

Old snapshots of data volumes are deleted, too.

What is not understood is never touched: its owners are told instead. `phoenix reap NAME --dry-run` shows the same.
"""

from __future__ import annotations

from airflow.sdk import DAG

from phoenix_fleet.airflow.image_words import calls_owners, defaults
from phoenix_fleet.airflow.loading import families, fleets
from phoenix_fleet.airflow.reap import reap_fleet, reap_images, reap_snapshots, reap_throwaways

with DAG(
    dag_id="reap",
    description="Terminates what was left behind, a few at a time.",
    schedule="45 * * * *",
    catchup=False,
    max_active_runs=1,
    tags=["phoenix", "reap"],
    doc_md=__doc__,
) as dag:
    for fleet in fleets("reap"):
        if fleet.workload:
            continue  # replicas are the affair of the platform that rolls them
        told = {**defaults(fleet), **calls_owners(fleet, "orphan-instances")}
        reap_fleet.override(task_id=f"fleet.{fleet.name}", **told)(fleet.name)
        if fleet.volumes:
            reap_snapshots.override(task_id=f"snapshots.{fleet.name}", **told)(fleet.name)
    for family, _ in families("reap"):
        told = {**defaults(family), **calls_owners(family, "orphan-instances")}
        reap_throwaways.override(task_id=f"throwaways.{family.name}", **told)(family.name)
        reap_images.override(task_id=f"images.{family.name}", **told)(family.name)
