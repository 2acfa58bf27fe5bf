from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phoenix_fleet.airflow import world
from phoenix_fleet.airflow.image_words import replace
from phoenix_fleet.airflow.replace import ReplaceOperator
from phoenix_fleet.airflow.retries import REPLACE_RETRIES, RETRIES
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.domain.errors import PhoenixError, StepFailed, Unavailable
from tests.unit.catalog.helpers import claim, open_rollout


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Catalog]:
    made = Catalog(f"sqlite:///{tmp_path}/catalog.db")
    made.migrate()
    monkeypatch.setattr(world, "catalog", lambda: Catalog(made._database.url.render_as_string(hide_password=False)))
    yield made
    made.close()


def run(monkeypatch: pytest.MonkeyPatch, rollout_id: int, advance: Callable[[Any], Any]) -> None:
    """One try of the task, over an engine that does what it is told."""
    engine = SimpleNamespace(advance=advance, in_flight_limit=lambda: (1, ""))
    task = ReplaceOperator(
        task_id="replace",
        fleet="web",
        wave=0,
        batch={"rollout": rollout_id, "label": "web-01", "count": 1, "last": True},
    )
    monkeypatch.setattr(task, "_engine", lambda *_: engine)
    monkeypatch.setattr("phoenix_fleet.airflow.replace.die_with_parent", lambda: None)
    task.execute({"ti": SimpleNamespace(run_id="run", task_id="replace", map_index=0, try_number=1)})


@pytest.mark.parametrize("error", [Unavailable("the catalog does not answer"), ValueError("a mistake of ours")])
def test_a_try_that_fails_leaves_its_slot_to_the_next_one_at_once(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    rollout = open_rollout(catalog)

    def advance(_: Any) -> Any:
        raise error

    with pytest.raises(type(error)):
        run(monkeypatch, rollout.id, advance)
    ticket = claim(catalog, rollout, holder="replace/try-2")
    assert ticket is not None
    assert ticket.slot == "web-01", "and not Busy until the lease of a try that is over has run out"


def test_what_a_try_failed_of_is_told_even_if_its_ticket_cannot_be_given_back(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = open_rollout(catalog)

    def advance(_: Any) -> Any:
        raise StepFailed("the step itself")

    def gone(*_: Any) -> None:
        raise Unavailable("the catalog does not answer")

    monkeypatch.setattr("phoenix_fleet.catalog.rollouts.RolloutStore.give_back", gone)
    with pytest.raises(PhoenixError, match="the step itself"):
        run(monkeypatch, rollout.id, advance)


def test_a_replacement_outlives_more_deaths_than_other_tasks() -> None:
    from airflow.sdk import DAG

    fleet = world.project().fleet("web")
    with DAG(dag_id="a", default_args={"retries": RETRIES}):
        mapped = replace(fleet, 0, [{"rollout": 1, "label": "web-01", "count": 1, "last": True}])
    assert mapped.partial_kwargs["retries"] == REPLACE_RETRIES > RETRIES
