"""One DAG per image family: build → test → certify → stage → gate → approve → release.

A family is a folder below `include/images/`; adding one adds its DAG here.
"""

from __future__ import annotations

from airflow.sdk import DAG

from phoenix_fleet.airflow import image_words as words
from phoenix_fleet.airflow.loading import families

for family, staging in families():
    with DAG(
        dag_id=f"image.{family.name}",
        description=family.description,
        schedule=family.schedule,
        catchup=False,
        max_active_runs=1,
        default_args=words.defaults(family),
        tags=["phoenix", "image", *family.platforms],
        doc_md=__doc__,
    ) as dag:
        candidate, artefacts = words.build(family)
        tested = words.test(family, candidate)
        certified = words.certify(family, candidate)
        staged = words.stage(family, staging, candidate)
        gate, approve = words.gate(family, candidate, [artefacts, tested, certified, staged])
        released = words.publish(family, candidate, approve)

        artefacts >> tested >> certified >> staged >> gate

    dag.params = words.params()  # after the tasks: Airflow copies a DAG's params into each task made later
