from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.airflow import questions
from phoenix_fleet.airflow.triggers import CatalogTrigger, PauseTrigger
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.domain.ladder import CLIMB
from phoenix_fleet.domain.models import Artefact
from phoenix_fleet.domain.windows import Version, Window


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    monkeypatch.setenv("PHOENIX_CATALOG_URL", f"sqlite:///{tmp_path}/catalog.db")
    found = Catalog.from_environment()
    found.migrate()
    return found


def release(catalog: Catalog, window: str) -> Version:
    image = catalog.images.open_candidate("mini", Window.parse(window), "inputs", actor="test", run=f"run-{window}")
    catalog.images.add_artefact("mini", image.version, Artefact("fake", "ref@sha256:1", "sha256:1"))
    for rung in CLIMB[1:]:
        catalog.images.move("mini", image.version, rung, actor="test")
    return image.version


async def first_event(trigger: Any) -> dict[str, Any]:
    async for event in trigger.run():
        return dict(event.payload)
    raise AssertionError("the trigger ended without an event")


@pytest.mark.parametrize(
    "trigger", [CatalogTrigger("release_of_window", {"family": "mini", "window": "2026-11"}), PauseTrigger(1.5)]
)
def test_a_trigger_comes_back_from_its_serialized_form(trigger: Any) -> None:
    path, arguments = trigger.serialize()
    module, name = path.rsplit(".", 1)
    again = getattr(importlib.import_module(module), name)(**arguments)
    assert again.serialize() == (path, arguments)


def test_the_catalog_trigger_fires_once_the_answer_is_yes(catalog: Catalog) -> None:
    trigger = CatalogTrigger("release_of_window", {"family": "mini", "window": "2026-11"}, poll_seconds=0.01)

    async def release_meanwhile() -> dict[str, Any]:
        waiting = asyncio.create_task(first_event(trigger))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await asyncio.to_thread(release, catalog, "2026-11")
        return await asyncio.wait_for(waiting, 10)

    event = asyncio.run(release_meanwhile())
    assert event["answered"]
    assert "2026.11-1 is released" in event["message"]


def test_the_catalog_trigger_wakes_the_task_after_its_limit(catalog: Catalog) -> None:
    trigger = CatalogTrigger(
        "release_of_window", {"family": "mini", "window": "2026-11"}, poll_seconds=0.01, limit_seconds=0.05
    )
    assert asyncio.run(first_event(trigger)) == {
        "answered": False,
        "message": "no release of mini for 2026-11 yet",
    }


def test_the_catalog_being_away_is_only_a_reason_to_wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PHOENIX_CATALOG_URL", f"sqlite:///{tmp_path}/never-migrated.db")
    trigger = CatalogTrigger("family_is_free", {"family": "mini", "run": "r"}, poll_seconds=0.01, limit_seconds=0.05)
    event = asyncio.run(first_event(trigger))
    assert not event["answered"]
    assert "cannot ask the catalog" in event["message"]


@pytest.mark.parametrize(("window", "answered"), [("2026-10", True), ("2026-11", True), ("2026-12", False)])
def test_a_newer_release_serves_an_older_window(catalog: Catalog, window: str, answered: bool) -> None:
    release(catalog, "2026-11")
    assert questions.release_of_window(catalog, family="mini", window=window)[0] is answered


def test_a_family_is_free_for_the_run_that_holds_it(catalog: Catalog) -> None:
    catalog.images.open_candidate("mini", Window.parse("2026-11"), "inputs", actor="test", run="mine")
    assert questions.family_is_free(catalog, family="mini", run="mine")[0]
    free, why = questions.family_is_free(catalog, family="mini", run="other")
    assert not free
    assert "by mine" in why
