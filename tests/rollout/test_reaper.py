"""The reaper on fakes: what a crash left goes, slowly and exactly; whatever is not understood stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.domain import reaping
from phoenix_fleet.domain.errors import Blind, PhoenixError, Throttled, TransientError, Unavailable
from phoenix_fleet.domain.models import Artefact, Backend, Instance, InstanceState, LaunchIntent
from phoenix_fleet.rollout.progress import Progress
from phoenix_fleet.rollout.reaping import Reaped, Reaper
from phoenix_fleet.rollout.throwaway import FLEET as THROWAWAY
from tests.rollout.scene import NEW, Scene, digest_of

Stage = Callable[..., Scene]
HOUR = timedelta(hours=1)
QUICK = {"watch_time": "1s", "platform": {"boot_seconds": 1, "stop_seconds": 0, "stop_reads": 0, "boot_reads": 0}}


class Crash(BaseException):
    """The process died here."""


@pytest.fixture
def scene(stage: Stage) -> Scene:
    return stage(**QUICK)


def reaper(scene: Scene, **changes: Any) -> Reaper:
    given = {"slots": scene.fleet.slots, "balancer": scene.front, "log": scene.story.append, "clock": scene.clock}
    return Reaper(scene.platform, scene.catalog, scene.fleet.name, **{**given, **changes})


def leave(scene: Scene, slot: str = "web-01", *, run: str = "run-0", admit: bool = False) -> str:
    """What a rollout that was cancelled right after its launch leaves behind; its id comes back."""
    rollout = scene.open(run)
    engine = scene.engine(rollout)
    while True:
        ticket = scene.claim(engine, min(each.wave for each in unfinished(scene, rollout.id)), scene.holder())
        assert ticket is not None
        if ticket.slot == slot:
            break
        scene.drive(engine, ticket)
    after = "watch" if admit else "ready"
    scene.drive(engine, ticket, until=lambda progress: gone_as_far_as(progress, after))
    scene.catalog.rollouts.cancel("web", actor="ann", reason="the release is bad")
    (left,) = [each for each in scene.living().values() if each["slot"] == slot and each["version"] == str(NEW)]
    return str(left["id"])


def gone_as_far_as(progress: Progress, step: str) -> bool:
    return progress.state == "moved" and progress.step == {"ready": "launch", "watch": "admit"}[step]


def unfinished(scene: Scene, rollout: int) -> list[Any]:
    return [each for each in scene.catalog.rollouts.slots(rollout) if each.state != "done"]


def hourly(scene: Scene, times: int, **changes: Any) -> list[Reaped]:
    """So many runs, an hour apart, each by a reaper that knows nothing of the others."""
    found = []
    for number in range(times):
        if number:
            scene.clock.advance(HOUR)
        found.append(reaper(scene, **changes).run(actor="airflow", reason="hourly"))
    return found


def terminated(scene: Scene) -> list[str]:
    return [call.subject for call in scene.platform.calls("terminate")]


def mutations(scene: Scene) -> int:
    calls = [*scene.platform.calls(), *scene.balancer.calls()]
    return sum(call.method in ("launch", "terminate", "admit", "drain", "remove") for call in calls)


def test_what_a_cancelled_rollout_left_goes_at_the_third_look(scene: Scene) -> None:
    orphan = leave(scene)
    first, second, third = hourly(scene, 3)
    assert [len(each.found.orphans) for each in (first, second, third)] == [1, 1, 1]
    assert (first.told, second.told) == ((), ())
    assert third.told == (scene.platform.machines()[orphan]["name"],)
    assert terminated(scene) == [orphan]
    assert scene.catalog.reaping.pending("web") == [], "the outcome is written down at once"
    assert len(scene.living()) == len(scene.serving()) == 3
    (last,) = hourly(scene, 1)
    assert last.found == reaping.Reaping()
    scene.check_journals()
    scene.catalog.events.verify()


def test_one_that_the_balancer_knows_is_taken_out_there_first(scene: Scene) -> None:
    orphan = leave(scene, admit=True)
    name = scene.platform.machines()[orphan]["name"]
    assert scene.balancer.servers()[name] is Backend.HEALTHY
    assert hourly(scene, 4)[-1].found.orphans == ()
    scene.balancer.set_health(name, False)
    scene.balancer.set_connections(name, 2)
    *_, third = hourly(scene, 3)
    assert third.spared == ((name, "2 connections are open on it"),)
    assert terminated(scene) == []
    scene.balancer.set_connections(name, 0)
    scene.clock.advance(HOUR)
    assert hourly(scene, 1)[0].told == (name,)
    assert name not in scene.balancer.servers()
    scene.check_journals()


def test_a_dry_run_writes_and_touches_nothing(scene: Scene) -> None:
    leave(scene)
    hourly(scene, 2)
    scene.clock.advance(HOUR)
    before, calls = scene.catalog.events.head(), mutations(scene)
    found = reaper(scene).look()
    assert [each.instance.slot for each in found.found.due] == ["web-01"]
    assert any("due since" in line for line in found.lines())
    assert scene.catalog.events.head() == before
    assert mutations(scene) == calls


def test_one_born_between_the_two_listings_is_no_orphan(scene: Scene) -> None:
    """The race that breaks collectors which read the inventory first."""
    rollout = scene.open()
    engine = scene.engine(rollout)
    born: list[str] = []

    def launch_meanwhile(position: str, method: str, subject: str) -> None:
        if (position, method) == ("before", "list_instances") and not born:
            born.append("")
            ticket = scene.claim(engine, 0, scene.holder())
            assert ticket is not None
            scene.drive(engine, ticket, until=lambda progress: gone_as_far_as(progress, "ready"))

    scene.on_call = launch_meanwhile
    found = reaper(scene, rules=reaping.Rules(grace=timedelta())).run(actor="airflow", reason="hourly")
    assert born
    assert found.found == reaping.Reaping()
    assert len(scene.living()) == 4


def test_a_rollout_that_opens_after_the_look_keeps_the_reaper_out(scene: Scene) -> None:
    orphan = leave(scene)
    hourly(scene, 2)
    scene.clock.advance(HOUR)

    def open_meanwhile(position: str, method: str, subject: str) -> None:
        if (position, method, subject) == ("before", "get_instance", orphan):
            scene.on_call = lambda position, method, subject: None
            scene.open("run-2")

    scene.on_call = open_meanwhile
    (found,) = hourly(scene, 1)
    assert found.told == ()
    assert "what stands there is its own" in found.spared[0][1]
    assert terminated(scene) == []


@pytest.mark.parametrize("budget", [("1", "0"), ("0", "1")], ids=["surge", "no surge"])
def test_beside_a_running_rollout_at_every_step(stage: Stage, budget: tuple[str, str]) -> None:
    """A reaper without any patience, before and after every call of a whole rollout: it finds nothing to do."""
    scene = stage(**QUICK, max_surge=budget[0], max_unavailable=budget[1])
    rules = reaping.Rules(grace=timedelta())
    looks = 0

    def reap(position: str, method: str, subject: str) -> None:
        nonlocal looks
        if method not in ("launch", "terminate", "admit", "drain", "remove"):
            return
        scene.on_call = lambda position, method, subject: None
        looks += 1
        found = reaper(scene, rules=rules).run(actor="airflow", reason="hourly")
        assert (found.found.orphans, found.told) == ((), ())
        scene.on_call = reap

    scene.on_call = reap
    scene.run(scene.open())
    assert looks >= 24
    scene.check_at_rest()


def test_a_halted_rollouts_machine_is_its_own(scene: Scene) -> None:
    rollout = scene.open()
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    scene.drive(engine, ticket, until=lambda progress: gone_as_far_as(progress, "ready"))
    scene.catalog.rollouts.halt("web", actor="ann", reason="looking")
    assert {each.found for each in hourly(scene, 6)} == {reaping.Reaping()}
    assert terminated(scene) == []


def test_two_hundred_foreign_machines_are_never_called(scene: Scene) -> None:
    """Look-alike names, our marks with another owner, ids of the past: nothing is asked about any of them."""
    orphan = leave(scene)
    token = scene.platform.machines()[orphan]["token"]
    foreign = []
    for number in range(200):
        slot = f"web-{number % 4:02d}"
        marks = {"fleet": "web", "slot": slot, "token": token if number % 2 else "t", "version": str(NEW)}
        owner = {"owner": ("", "Phoenix-Fleet", "phoenix-fleet-2", "someone")[number % 4]}
        foreign.append(scene.platform.add_foreign(f"{slot}-{number:08x}", **marks, **owner))
    hourly(scene, 8)
    assert terminated(scene) == [orphan]
    asked = {call.subject for call in (*scene.platform.calls(), *scene.balancer.calls())}
    names = {scene.platform.machines()[each]["name"] for each in foreign}
    assert not asked & {*foreign, *names}


def test_machines_with_all_our_marks_and_no_intent_stop_it(scene: Scene) -> None:
    leave(scene)
    for number in range(3):
        slot = f"web-0{number + 1}"
        marks = {"owner": "phoenix-fleet", "fleet": "web", "slot": slot, "token": f"t-{number}", "fingerprint": "f"}
        scene.platform.add_foreign(f"{slot}-stray", **marks)
    first, *rest = hourly(scene, 5)
    assert terminated(scene) == []
    assert len(first.news) == 3
    assert all("are believed" in each.alarm for each in (first, *rest))
    assert {each.news for each in rest} == {()}


def test_a_lost_catalog_reaps_nothing(scene: Scene) -> None:
    leave(scene)
    hourly(scene, 3 - 1)
    with Catalog(f"sqlite:///{scene.folder}/fresh.db", scene.clock) as fresh:
        fresh.migrate()
        lost, scene.catalog = scene.catalog, fresh
        found = hourly(scene, 6)
        scene.catalog = lost
    assert terminated(scene) == []
    assert found[0].news
    assert found[-1].found.orphans == ()


@pytest.mark.parametrize(
    "error",
    [Unavailable("page 2 of 3 did not come"), Throttled("slow down"), Blind("no view")],
    ids=lambda e: type(e).__name__,
)
def test_a_listing_that_fails_touches_and_forgets_nothing(scene: Scene, error: PhoenixError) -> None:
    leave(scene)
    hourly(scene, 2)
    scene.clock.advance(HOUR)
    head, calls = scene.catalog.events.head(), mutations(scene)
    scene.platform.fail_next("list_instances", error)
    with pytest.raises(Blind):
        reaper(scene).run(actor="airflow", reason="hourly")
    assert (scene.catalog.events.head(), mutations(scene)) == (head, calls)
    assert len(hourly(scene, 1)[0].told) == 1


def test_a_balancer_that_does_not_answer_touches_nothing(scene: Scene) -> None:
    leave(scene)
    hourly(scene, 2)
    scene.clock.advance(HOUR)
    scene.balancer.fail_next("state", Unavailable("no answer"))
    with pytest.raises(Blind):
        reaper(scene).run(actor="airflow", reason="hourly")
    assert terminated(scene) == []


@pytest.mark.parametrize("answer", ["nothing", "everything", "twice"])
def test_an_answer_that_cannot_be_true_touches_nothing(
    scene: Scene, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.run(scene.open("run-before"))
    honest = scene.platform.list_instances
    other = replace(honest("web")[0], id="i-other", fleet="shop")
    said = {"nothing": lambda true: [], "everything": lambda true: [*true, other], "twice": lambda true: [*true, *true]}
    monkeypatch.setattr(scene.platform, "list_instances", lambda fleet: said[answer](honest(fleet)))
    calls = mutations(scene)
    with pytest.raises(Blind):
        reaper(scene, rules=reaping.Rules(grace=timedelta())).run(actor="airflow", reason="hourly")
    assert mutations(scene) == calls


@pytest.mark.parametrize("lag", [30, 300])
def test_reads_that_lag_never_cost_a_machine_that_serves(scene: Scene, lag: float) -> None:
    orphan = leave(scene)
    scene.platform.lag(lag)
    scene.balancer.lag(lag)
    hourly(scene, 5)
    assert terminated(scene) == [orphan]
    assert len(scene.serving()) == 3


def swap_identity(scene: Scene, orphan: str) -> None:
    with scene.platform.world.transaction() as data:
        data["machines"][orphan]["token"] = "another"


def put_into_service(scene: Scene, orphan: str) -> None:
    scene.balancer.admit(scene.platform.get_instance(orphan))
    scene.clock.advance(timedelta(minutes=1))


def lose_the_witness(scene: Scene, orphan: str) -> None:
    slot = scene.platform.machines()[orphan]["slot"]
    (witness,) = [key for key, each in scene.living().items() if each["slot"] == slot and key != orphan]
    scene.platform.set_state(witness, InstanceState.FAILED)


def sicken_the_witness(scene: Scene, orphan: str) -> None:
    slot = scene.platform.machines()[orphan]["slot"]
    (name,) = [each["name"] for key, each in scene.living().items() if each["slot"] == slot and key != orphan]
    scene.balancer.set_health(name, False)


def end_it(scene: Scene, orphan: str) -> None:
    scene.platform.set_state(orphan, InstanceState.GONE)


@pytest.mark.parametrize("happens", [swap_identity, put_into_service, lose_the_witness, sicken_the_witness, end_it])
def test_what_changes_between_the_look_and_the_call_is_seen(
    scene: Scene, happens: Callable[[Scene, str], None]
) -> None:
    orphan = leave(scene)
    hourly(scene, 2)
    scene.clock.advance(HOUR)

    def meanwhile(position: str, method: str, subject: str) -> None:
        if (position, method, subject) == ("before", "get_instance", orphan):
            scene.on_call = lambda position, method, subject: None
            happens(scene, orphan)

    scene.on_call = meanwhile
    (found,) = hourly(scene, 1)
    assert len(found.spared) == 1
    assert terminated(scene) == []


@pytest.mark.parametrize("known", [False, True], ids=["absent", "at the balancer"])
def test_dying_before_or_after_any_call_is_harmless(stage: Stage, known: bool) -> None:
    """Every call of the decisive run, before and after; the runs after it end the work and settle every intent."""
    scene = stage(**QUICK)
    orphan = leave(scene, admit=known)
    if known:
        scene.balancer.set_health(scene.platform.machines()[orphan]["name"], False)
    hourly(scene, 2)
    scene.clock.advance(HOUR)
    ready, points = scene.snapshot(), count_points(scene)
    assert points >= 10
    for number in range(points):
        scene.restore(ready)
        die_at(scene, number)
        with pytest.raises(Crash):
            reaper(scene).run(actor="airflow", reason="hourly")
        scene.on_call = lambda position, method, subject: None
        for _ in range(3):
            scene.clock.advance(HOUR)
            reaper(scene).run(actor="airflow", reason="hourly")
        assert set(terminated(scene)) == {orphan}, number
        assert len(scene.living()) == len(scene.serving()) == len(scene.balancer.servers()) == 3, number
        scene.check_journals()
        assert scene.catalog.reaping.pending("web") == [], number


def count_points(scene: Scene) -> int:
    points = 0

    def count(*_: str) -> None:
        nonlocal points
        points += 1

    scene.on_call = count
    reaper(scene).run(actor="airflow", reason="hourly")
    return points


def die_at(scene: Scene, number: int) -> None:
    left = number

    def die(*_: str) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise Crash

    scene.on_call = die


def test_a_lost_reply_is_settled_by_the_next_run(scene: Scene) -> None:
    orphan = leave(scene)
    hourly(scene, 2)
    scene.clock.advance(HOUR)
    scene.platform.lose_reply("terminate")
    (found,) = hourly(scene, 1)
    assert "the connection broke" in found.trouble
    assert found.alarm == found.trouble
    assert [each.outcome for each in scene.catalog.reaping.pending("web")] == ["unknown"]
    scene.clock.advance(HOUR)
    hourly(scene, 2)
    assert scene.catalog.reaping.pending("web") == []
    assert terminated(scene) == [orphan]


def test_two_reapers_at_once_take_each_one_once(scene: Scene) -> None:
    orphan = leave(scene)
    hourly(scene, 2)
    scene.clock.advance(HOUR)
    others: list[Reaped] = []

    def second(position: str, method: str, subject: str) -> None:
        if (position, method) == ("before", "terminate"):
            scene.on_call = lambda position, method, subject: None
            others.append(reaper(scene).run(actor="ann", reason="impatient"))

    scene.on_call = second
    found = reaper(scene).run(actor="airflow", reason="hourly")
    assert len(others) == 1
    assert set(terminated(scene)) == {orphan}
    assert [*found.told, *(name for name, _ in found.spared)]
    assert len(scene.living()) == len(scene.serving()) == 3
    scene.check_journals()


def test_so_many_an_hour_whoever_asks(stage: Stage) -> None:
    scene = stage(max_surge="2", **QUICK)
    for slot in ("web-01", "web-02"):
        throw(scene, "rollout-90", fleet="web", slot=slot)
    rules = reaping.Rules(per_hour=1)
    *_, third = hourly(scene, 3, rules=rules)
    assert (len(third.told), len(third.spared)) == (1, 1)
    assert "enough for now" in third.spared[0][1]
    again = reaper(scene, rules=rules).run(actor="ann", reason="impatient")
    assert again.told == ()
    scene.clock.advance(HOUR + timedelta(seconds=1))
    assert len(hourly(scene, 1, rules=rules)[0].told) == 1


# Adoption: what a crash in the launch left is found again by its token


@pytest.mark.parametrize("where", ["not sent", "done, reply lost", "reply seen, not stored"])
def test_a_launch_that_died_is_adopted_and_never_made_twice(scene: Scene, where: str) -> None:
    rollout = scene.open()
    engine = scene.engine(rollout)
    position = {"not sent": "before", "done, reply lost": "", "reply seen, not stored": "after"}[where]

    def die(at: str, method: str, subject: str) -> None:
        if (at, method) == (position, "launch"):
            scene.on_call = lambda position, method, subject: None
            raise Crash

    scene.on_call = die
    if not position:
        scene.platform.lose_reply("launch")
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    with pytest.raises((Crash, AssertionError)) if position else pytest.raises(TransientError):
        if position:
            scene.drive(engine, ticket)
        else:
            raise_when_lost(scene, engine, ticket)
    scene.on_call = lambda position, method, subject: None
    scene.clock.advance(timedelta(minutes=2))
    assert scene.run(rollout).state == "done"
    scene.check_at_rest()
    launched = [each for each in scene.platform.machines().values() if each["version"] == str(NEW)]
    assert len(launched) == 3


def raise_when_lost(scene: Scene, engine: Any, ticket: Any) -> None:
    """Drive until the lost reply shows, and die right there."""
    scene.drive(engine, ticket, until=lambda progress: "broke before the reply" in progress.message)
    raise TransientError("the process died here")


# Throw-away instances


def throw(scene: Scene, run: str, *, fleet: str = THROWAWAY, slot: str = "test-fake") -> Instance:
    """A throw-away instance as a test launches it, and as a killed one leaves it."""
    digest = digest_of(NEW)
    artefact = Artefact("fake", f"registry/base@{digest}", digest)
    intent = LaunchIntent(fleet, slot, run, 1, family="base", version=str(NEW), artefact=artefact)
    params = {"fleet": fleet, "slot": intent.slot, "family": "base", "name": intent.name}
    begun = scene.catalog.intents.begin("launch", intent.slot, params, ticket=None, purpose=run, token=intent.token)
    scene.by_hand.add(intent.name)
    born = scene.platform.launch(intent)
    scene.catalog.intents.outcome(begun.id, "done", {"instance": born.id})
    return born


def throwaway_reaper(scene: Scene, family: str = "base") -> Reaper:
    return Reaper(
        scene.platform,
        scene.catalog,
        THROWAWAY,
        family=family,
        place="fake",
        log=scene.story.append,
        clock=scene.clock,
        rules=reaping.THROWAWAYS,
    )


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
    from tests.rollout.test_throwaway import image, poll, pool

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


def test_the_server_of_what_a_cancelled_rollout_had_told_to_terminate_is_forgotten(scene: Scene) -> None:
    before = {each.id: each for each in scene.platform.list_instances("web")}
    rollout = scene.open()
    engine = scene.engine(rollout)
    ticket = scene.claim(engine, 0, scene.holder())
    assert ticket is not None
    scene.drive(engine, ticket, until=lambda progress: "told to terminate" in progress.message)
    scene.catalog.rollouts.cancel("web", actor="ann", reason="it hangs")
    (told,) = terminated(scene)
    scene.balancer.admit(before[told])  # as if the balancer had not heard, or had been restored from a backup
    hourly(scene, 3)
    assert told not in scene.balancer.servers()
    so_far = mutations(scene)
    hourly(scene, 2)
    assert mutations(scene) == so_far
