from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.config import Access, Driver, Fleet, Project
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain import errors
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Artefact, Backend
from phoenix_fleet.domain.waves import Budget
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.rollout.deps import deps_for, load_gates, probe_for, public_key
from phoenix_fleet.rollout.engine import engine_for
from phoenix_fleet.rollout.planning import draw_plan, freeze, frozen_fleet, observe, shape_of, target_of
from tests.dags.fakeworld_project import write_project
from tests.rollout.scene import NEW, OLD, Scene

Stage = Callable[..., Scene]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGxBGxvUNQJ1W2mGvZ1Hk5mF5hJmCjQ7m8uJk2m5D1aB me"


def fleet(**changes: Any) -> Fleet:
    return Fleet.model_validate(
        {"fleet": "web", "family": "base", "owners": {"team": "t"}, "size": 10, "platform": "fake", **changes}
    )


@pytest.mark.parametrize(
    ("changes", "canary", "waves", "budget"),
    [
        ({}, 1, (3, 10), Budget(1, 0)),
        ({"canary": "15%", "waves": ["25%", "33%", "100%"]}, 2, (3, 4, 10), Budget(1, 0)),
        ({"canary": "0"}, 1, (3, 10), Budget(1, 0)),
        ({"max_surge": "11%", "max_unavailable": "19%"}, 1, (3, 10), Budget(2, 1)),
        ({"max_surge": "0", "max_unavailable": "5%"}, 1, (3, 10), Budget(0, 1)),
        ({"max_surge": "0", "max_unavailable": "35%"}, 1, (3, 10), Budget(0, 3)),
    ],
)
def test_portions_become_counts(changes: Any, canary: int, waves: tuple[int, ...], budget: Budget) -> None:
    shape = shape_of(fleet(**changes))
    assert (shape.canary, shape.waves, shape.budget) == (canary, waves, budget)
    assert (shape.size, shape.slots[0], shape.slots[-1]) == (10, "web-01", "web-10")


def test_a_plan_touches_nothing_and_writes_nothing(stage: Stage) -> None:
    scene = stage(size=4, waves=["50%", "100%"])
    events = len(scene.catalog.events.list_events(limit=1000))
    drawn = draw_plan(scene.deps(), scene.fleet, scene.catalog.images.get("base", NEW))
    assert [(each.slot, each.wave) for each in drawn.slots] == [
        ("web-01", 0),
        ("web-02", 1),
        ("web-03", 2),
        ("web-04", 2),
    ]
    assert len(scene.catalog.events.list_events(limit=1000)) == events
    asked = {
        call.method
        for call in (*scene.platform.calls(), *scene.balancer.calls())
        if call.at >= scene.platform.world.now()
    }
    assert asked <= {"list_instances", "state"}


def test_an_error_is_never_an_empty_fleet(stage: Stage) -> None:
    for driver, method in (("platform", "list_instances"), ("balancer", "state")):
        scene = stage()
        getattr(scene, driver).fail_next(method, errors.Unavailable("page 2 did not come"))
        with pytest.raises(errors.Unavailable, match="page 2"):
            draw_plan(scene.deps(), scene.fleet, scene.catalog.images.get("base", NEW))


def test_somebody_elses_server_of_the_same_name_is_not_health(stage: Stage) -> None:
    scene = stage()
    name = scene.serving()[0]
    scene.balancer.forget_all()
    scene.balancer.add_foreign(name, "203.0.113.9")
    seen = observe(scene.platform, scene.balancer, "web")
    assert {status.state for status in seen.backends.values()} == {Backend.ABSENT}


def test_only_what_the_fleet_may_take(stage: Stage) -> None:
    scene = stage()
    image = scene.catalog.images.move("base", NEW, Rung.REVOKED, actor="carol", reason="bad")
    with pytest.raises(errors.Refused, match="is revoked, and web takes only released images"):
        draw_plan(scene.deps(), scene.fleet, image)
    target = target_of(scene.catalog, scene.fleet, scene.catalog.images.get("base", OLD))
    assert list(target.acceptable) == [OLD], "the revoked one may not stay"


def test_a_staging_fleet_takes_what_is_certified_or_above(stage: Stage) -> None:
    scene = stage()
    staging = scene.fleet.model_copy(update={"requires": "certified"})
    released = scene.catalog.images.get("base", NEW)
    assert target_of(scene.catalog, staging, released).version == NEW
    young = scene.release(Version.parse("2026.12-1"), upto=Rung.TESTED)
    with pytest.raises(errors.Refused, match="is tested"):
        target_of(scene.catalog, staging, young)
    certified = scene.catalog.images.move("base", young.version, Rung.CERTIFIED, actor="builder")
    assert target_of(scene.catalog, staging, certified).version == young.version
    with pytest.raises(errors.Refused, match="is certified"):
        target_of(scene.catalog, scene.fleet, certified)


def test_the_file_of_the_fleet_is_frozen_with_its_rollout(stage: Stage) -> None:
    scene = stage(verify=[{"fake": {"verdict": "passed"}}, "fake"], drain={"limit": "90s", "policy": "later"})
    rollout = scene.open()
    changed = scene.fleet.model_copy(update={"max_surge": "100%", "size": 1})
    assert frozen_fleet(rollout, changed).model_dump() == scene.fleet.model_dump()
    assert frozen_fleet(rollout, changed).home == changed.home
    assert freeze(frozen_fleet(rollout, changed)) == dict(rollout.settings)


def test_a_file_that_was_kept_and_cannot_be_read_is_told(stage: Stage) -> None:
    scene = stage()
    rollout = replace(scene.open(), settings={"fleet": "web"})
    with pytest.raises(errors.InvalidConfig, match=r"rollout 1 of web was opened with cannot be read.*at family"):
        frozen_fleet(rollout, scene.fleet)


def connections(folder: Path, key: str = KEY) -> Callable[[str], Connection]:
    (folder / "key").write_text("private")
    (folder / "key.pub").write_text(f"{key}\n")
    return lambda conn_id: Connection(conn_id, extra={"key_file": str(folder / "key")})


def test_the_public_key_lies_beside_the_private_one(tmp_path: Path) -> None:
    assert public_key(Access(), connections(tmp_path)) == KEY


@pytest.mark.parametrize("content", ["", "two\nlines here", "junk"])
def test_what_is_no_public_key_is_told(tmp_path: Path, content: str) -> None:
    with pytest.raises(errors.InvalidConfig, match="does not hold one public SSH key"):
        public_key(Access(), connections(tmp_path, content))


def test_a_missing_key_is_told_with_its_connection(tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidConfig, match=r"'phoenix_ssh'.*cannot be read"):
        public_key(Access(), lambda conn_id: Connection(conn_id, extra={"key_file": str(tmp_path / "nothing")}))


def test_gates_have_names_of_their_own(tmp_path: Path) -> None:
    declared = [Driver(name="fake"), Driver(name="fake", settings={"verdict": "failed"}), Driver(name="fake")]
    named = load_gates(declared, connections(tmp_path), tmp_path)
    assert [each.name for each in named] == ["fake", "fake (2)", "fake (3)"]


def test_a_machine_of_the_fake_platform_answers_with_what_it_reports(stage: Stage) -> None:
    scene = stage()
    instance = scene.platform.get_instance(next(iter(scene.living())))
    assert probe_for(scene.platform)(instance) == instance.host_keys != ()


def test_the_engine_of_a_project_on_files(folder: Path, tmp_path: Path) -> None:
    """From YAML files to a finished rollout, with the drivers that the files name."""
    include = write_project(tmp_path / "project", size=2, access={"connection": "phoenix_ssh"})
    project, connect, story = Project(include), connections(tmp_path), list[str]()
    catalog = Catalog(f"sqlite:///{folder}/catalog.db")
    catalog.migrate()
    image = catalog.images.open_candidate("mini", NEW.window, "x", "builder", run="mini-1")
    artefact = Artefact("fake", "registry/mini@sha256:x", "sha256:x")
    catalog.images.add_artefact("mini", image.version, artefact)
    for rung in (Rung.TESTED, Rung.CERTIFIED, Rung.STAGED, Rung.RELEASED):
        image = catalog.images.move("mini", image.version, rung, actor="builder")
    shop = project.fleet("shop")
    deps = deps_for(project, shop, catalog, connect, log=story.append, workdir=tmp_path / "proof")
    deps.platform.add_image(artefact, "mini", str(image.version))  # type: ignore[attr-defined]
    drawn = draw_plan(deps, shop, image)
    assert {each.reason for each in drawn.slots} == {"empty slot"}
    rollout = catalog.rollouts.open(
        "shop", "mini", image.version, image.window, "run", drawn.slots, settings=freeze(shop), actor="a", reason="r"
    )
    engine = engine_for(project, catalog, connect, rollout_id=rollout.id, log=story.append, workdir=tmp_path / "proof")
    assert engine.fleet.model_dump() == shop.model_dump()
    for wave in (0, 1, 2):
        while ticket := catalog.rollouts.claim(
            rollout.id, wave, "me", lease=timedelta(minutes=1), max_in_flight=engine.in_flight_limit()[0]
        ):
            for _ in range(40):
                progress = engine.advance(ticket)
                if progress.state == "done":
                    break
            assert progress.state == "done", progress
    assert catalog.rollouts.complete(rollout.id).state == "done"
    seen = observe(deps.platform, deps.balancer, "shop")
    assert sorted(each.slot for each in seen.serving) == ["shop-01", "shop-02"]
    assert {each.digest for each in seen.serving} == {artefact.digest}
    catalog.close()


def test_the_engine_goes_by_the_file_as_it_was_kept(folder: Path, tmp_path: Path) -> None:
    """The file says two machines now, and said seven when the rollout opened."""
    include = write_project(tmp_path / "project", size=2, access={"connection": "phoenix_ssh"})
    project, connect = Project(include), connections(tmp_path)
    catalog = Catalog(f"sqlite:///{folder}/catalog.db")
    catalog.migrate()
    image = catalog.images.open_candidate("mini", NEW.window, "x", "builder", run="mini-1")
    kept = {**freeze(project.fleet("shop")), "size": 7}
    rollout = catalog.rollouts.open(
        "shop", "mini", image.version, image.window, "run", (), settings=kept, actor="a", reason="r"
    )
    engine = engine_for(project, catalog, connect, rollout_id=rollout.id, log=print, workdir=tmp_path / "proof")
    assert (engine.fleet.size, project.fleet("shop").size) == (7, 2)
    catalog.close()
