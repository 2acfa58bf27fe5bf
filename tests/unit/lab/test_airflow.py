"""How the lab's Airflow is set up, without starting it."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from sqlalchemy import create_engine, text

from lab.airflow import Airflow
from lab.places import Places
from lab.processes import Processes
from lab.settings import Overrides

SQLITE_GIVES_UP_AFTER = 5.0


def test_a_command_waits_for_its_database_while_another_component_writes(tmp_path: Path) -> None:
    places = Places(home=tmp_path / "home", run=tmp_path / "run", cache=tmp_path / "cache")
    places.make()
    places.airflow_home.mkdir(exist_ok=True)
    (places.airflow_home / "secrets.env").touch()
    airflow = Airflow(places, Processes(places.pids, places.logs), Overrides(places.environment_file))
    url = airflow.environment()["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    engine = create_engine(url)
    assert engine.url.database
    other = sqlite3.connect(engine.url.database, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE dag_run (id INTEGER)")
    other.execute("BEGIN IMMEDIATE")
    done = threading.Timer(SQLITE_GIVES_UP_AFTER + 2, other.execute, ["COMMIT"])
    done.start()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO dag_run VALUES (1)"))
    done.join()
    other.close()
    engine.dispose()
