"""Shows configuration mistakes as import errors of this file, so that they cost only the DAGs they belong to.

Airflow marks every DAG of a file stale when that file has an import error. Families and fleets share two files, which
therefore leave out what is broken; here it is told, with file, line, field and remedy.
"""

from __future__ import annotations

from phoenix_fleet.airflow.loading import raise_if_broken

raise_if_broken()
