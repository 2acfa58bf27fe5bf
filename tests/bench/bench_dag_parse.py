"""How long the DAG files take to parse for 20 families and 50 fleets, over a bare ``import airflow``.

Run it by itself: ``python tests/bench/bench_dag_parse.py``. It prints the medians of fresh processes and their ratio.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
FAMILIES, FLEETS, RUNS = 20, 50, 5
LIMIT_SECONDS = 0.5

BARE = (
    "import time; start = time.process_time(); import airflow, airflow.sdk"
    "; from airflow.dag_processing.dagbag import DagBag"
)
PARSE = BARE + (
    "; base = time.process_time(); bag = DagBag({dags!r}); end = time.process_time()"
    "; assert not bag.import_errors, bag.import_errors"
    "; print(base - start, end - base, len(bag.dags))"
)


def many(root: Path) -> Path:
    """An include folder with that many families and fleets, made from the project's own files."""
    yaml = YAML()
    source, include = ROOT / "include", root / "include"
    family = yaml.load(source / "images" / "debian-base" / "image.yaml")
    fleet = yaml.load(source / "fleets" / "web.yaml")
    staging = yaml.load(source / "fleets" / "web-staging.yaml")
    (include / "fleets").mkdir(parents=True)
    (include / "images").mkdir()
    (include / "images" / "common").symlink_to(source / "images" / "common")
    for number in range(FAMILIES):
        home = include / "images" / f"family-{number}"
        home.mkdir(parents=True)
        family["family"] = f"family-{number}"
        family["stage"]["fleet"] = f"fleet-{number}"
        yaml.dump(family, home / "image.yaml")
    for number in range(FLEETS):
        entry = staging if number < FAMILIES else fleet
        entry["fleet"], entry["family"] = f"fleet-{number}", f"family-{number % FAMILIES}"
        yaml.dump(entry, include / "fleets" / f"fleet-{number}.yaml")
    return include


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        env = {
            **os.environ,
            "AIRFLOW_HOME": str(root / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            "PHOENIX_INCLUDE": str(many(root)),
            "PYTHONPATH": str(ROOT / "include"),
        }
        code = PARSE.format(dags=str(ROOT / "dags"))
        figures = []
        for _ in range(RUNS):
            out = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
            figures.append([float(part) for part in out.stdout.split()[-3:]])
    bare, parse = (statistics.median(column) for column in list(zip(*figures, strict=True))[:2])
    print(f"import airflow         {bare:6.2f} s CPU")
    print(f"parse {int(figures[0][2])} DAGs          {parse:6.2f} s CPU  ({parse / bare:.2f} of the import)")
    print(f"limit                  {LIMIT_SECONDS:6.2f} s       ({parse / LIMIT_SECONDS:.2f} of the limit)")


if __name__ == "__main__":
    main()
