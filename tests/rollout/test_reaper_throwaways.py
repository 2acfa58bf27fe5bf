"""Throw-away instances that a killed run left go when they are old; a run under way keeps its own for a day."""

from __future__ import annotations

from phoenix_fleet.domain.models import InstanceState
from tests.rollout.reapers import HOUR, terminated, throw, throwaway_reaper
from tests.rollout.scene import NEW, Scene
from tests.rollout.throwaways import image, poll, pool


def test_a_throw_away_instance_of_a_killed_run_goes_when_it_is_old(scene: Scene) -> None:
    left = throw(scene, "image.base/killed")
    taken = []
    for _ in range(6):
        taken += throwaway_reaper(scene).run(actor="airflow", reason="hourly").told
        scene.clock.advance(HOUR)
    assert taken == [left.name]
    assert terminated(scene) == [left.id]
    scene.check_journals()


def test_a_run_that_goes_on_after_the_reaper_gets_a_new_instance(scene: Scene) -> None:
    """Strict platforms give a token's dead machine back, so the reaper's termination must count for the run."""
    first = pool(scene).launch(image(scene), "test-fake", poll=poll(scene))
    for _ in range(6):
        throwaway_reaper(scene).run(actor="airflow", reason="hourly")
        scene.clock.advance(HOUR)
    assert terminated(scene) == [first.id]
    again = pool(scene).launch(image(scene), "test-fake", poll=poll(scene))
    assert again.id != first.id
    assert again.state is InstanceState.RUNNING


def test_a_run_under_way_keeps_its_instances_for_a_day(scene: Scene) -> None:
    candidate = scene.catalog.images.open_candidate("base", NEW.window, "inputs", "ann", run="image.base/now")
    left = throw(scene, candidate.run)
    taken = []
    for hour in range(28):
        told = throwaway_reaper(scene).run(actor="airflow", reason="hourly").told
        taken += [(hour, name) for name in told]
        assert throwaway_reaper(scene, "other").run(actor="airflow", reason="hourly").told == ()
        scene.clock.advance(HOUR)
    assert taken == [(26, left.name)]
