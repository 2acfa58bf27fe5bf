"""Several engines at once, and holders that were stopped for longer than their lease: one set of machines."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import RolloutRecord, RolloutState
from phoenix_fleet.domain.errors import Fenced, Refused, TransientError
from phoenix_fleet.rollout.engine import Engine
from tests.rollout.acts import mutations
from tests.rollout.conftest import Where
from tests.rollout.scene import LEASE, Scene
from tests.rollout.strict import MUTATIONS
from tests.rollout.worlds import QUICK
from tests.sampling import WHOLE

Stage = Callable[..., Scene]
RUNS = int(os.environ.get("PHOENIX_DUPLICATES", "200" if WHOLE else "7"))
"""How many runs with engines that compete for real; each with 2 to 8 of them."""


class Competitor(threading.Thread):
    """An engine of its own with a catalog of its own, as another process has; it draws tickets as often as it can."""

    def __init__(self, scene: Scene, rollout: RolloutRecord, name: str, patience: float, seed: int) -> None:
        super().__init__(name=name)
        self.catalog = Catalog(scene.url, scene.clock)
        deps = scene.deps()
        self.engine = Engine(
            deps.__class__(**{**vars(deps), "catalog": self.catalog}),
            scene.fleet,
            scene.catalog.images.get("base", rollout.version),
            rollout,
        )
        self.scene = scene
        self.give_up = time.monotonic() + patience
        self.draw = random.Random(seed)  # noqa: S311
        self.tries = 0
        self.wrong: BaseException | None = None
        self.fenced = 0

    def run(self) -> None:
        try:
            while not self._replace_next():
                assert time.monotonic() < self.give_up, "it does not end"
        except BaseException as error:
            self.wrong = error
        finally:
            self.catalog.close()

    def _replace_next(self) -> bool:
        """Whether nothing is left to be done."""
        rollout_id = self.engine.rollout.id
        self.tries += 1
        holder = f"{self.name}/try-{self.tries}"
        try:
            waves = sorted({each.wave for each in self.catalog.rollouts.slots(rollout_id) if each.state != "done"})
            if not waves:
                return True
            ticket = self.catalog.rollouts.claim(rollout_id, waves[0], holder, lease=LEASE, max_in_flight=1)
            while ticket is not None:
                progress = self.engine.advance(ticket)
                # Whoever works moves the time on; now and then so far that the others may take its slot away.
                leap = timedelta(seconds=61) if self.draw.random() < 0.1 else timedelta()
                self.scene.clock.advance(progress.check_after + leap)
                if progress.state == "done":
                    break
        except Fenced:
            self.fenced += 1
        except (TransientError, Refused):
            time.sleep(0.01)
        return False


@pytest.mark.slow
def test_engines_that_compete_make_one_set_of_machines(stage: Stage, where: Where) -> None:
    fenced = 0
    for run in range(RUNS):
        scene = stage(url=where(), **QUICK)
        rollout = scene.open()
        competitors = [Competitor(scene, rollout, f"engine-{n}", 300, 100 * run + n) for n in range(2 + run % 7)]
        for each in competitors:
            each.start()
        for each in competitors:
            each.join()
        assert not [each.wrong for each in competitors if each.wrong]
        assert not scene.violations
        assert stale_intents(scene) == []
        assert scene.catalog.rollouts.complete(rollout.id).state is RolloutState.DONE
        scene.check_at_rest()
        launched = {call.subject for call in scene.platform.calls("launch")}
        assert len(launched) == 2 * scene.fleet.size, "a machine too many was launched"
        fenced += sum(each.fenced for each in competitors)
    assert fenced, "nobody was ever overtaken, so nothing was tested"


def stale_intents(scene: Scene) -> list[str]:
    """Every intent that was begun under a token although a newer one had been drawn for its slot, by the chain.

    What is left is the moment between an intent and its call: that one call is covered by its token (launch), or
    names exactly what the next holder takes out, too.
    """
    slot_of: dict[int, str] = {}
    newest: dict[str, int] = {}
    stale = []
    for each in reversed(scene.catalog.events.list_events(limit=1_000_000)):
        if each.kind in ("slot.claimed", "slot.reclaimed", "slot.taken_over"):
            slot_of[each.payload["token"]] = each.subject
            newest[each.subject] = each.payload["token"]
        elif each.kind in ("intent.begun", "intent.repeated"):
            fence = each.payload["fence"]
            if fence != newest[slot_of[fence]]:
                stale.append(f"{each.payload['action']} {each.payload['target']} under {fence}")
    return stale


@pytest.mark.slow
@pytest.mark.parametrize("budget", [{}, {"max_surge": "0", "max_unavailable": "1"}], ids=["surge", "no-surge"])
def test_a_holder_stopped_at_any_call_does_nothing_more_once_it_wakes(stage: Stage, budget: dict[str, str]) -> None:
    """It is stopped right before or after a call, past its lease; another one takes over and goes two looks on."""
    number = woken = 0
    while True:
        scene = stage(size=2, **QUICK, **budget)
        rollout = scene.open()
        engine = scene.engine(rollout)
        ticket = scene.claim(engine, 0, scene.holder())
        assert ticket is not None
        pause = Pause(scene, engine, number)
        scene.on_call = pause.meet
        overtaken = False
        try:
            scene.drive(engine, ticket)
        except Fenced:
            overtaken = True
        if pause.left >= 0:
            break
        assert overtaken, f"it went on after it was stopped at {pause.met}"
        # The one call that it was stopped right before of is on its way already, as if the network had held it.
        on_its_way = pause.met.startswith("before") and pause.met.split()[1] in MUTATIONS
        assert mutations(scene) - pause.before <= on_its_way, pause.met
        assert scene.run(rollout).state is RolloutState.DONE
        scene.check_at_rest()
        assert len({call.subject for call in scene.platform.calls("launch")}) == 4
        woken += 1
        number += STRIDE
    assert woken > 60 // STRIDE


STRIDE = int(os.environ.get("PHOENIX_PAUSE_STRIDE", "1" if WHOLE else "5"))
"""Of so many calls one is where the holder is stopped; the whole is 1."""


class Pause:
    """Stops whoever makes the so-maniest call until its lease has run out and another holder has gone on."""

    def __init__(self, scene: Scene, engine: Engine, number: int) -> None:
        self.scene = scene
        self.engine = engine
        self.left = number
        self.met = ""
        self.before = 0

    def meet(self, position: str, method: str, subject: str) -> None:
        self.left -= 1
        if self.left != -1:
            return
        self.met = f"{position} {method} {subject}"
        self.scene.clock.advance(LEASE + timedelta(seconds=1))
        fresh: Any = self.scene.claim(self.engine, 0, "another")
        for _ in range(2):
            if self.engine.advance(fresh).state == "done":
                break
        # It dies in its turn, so that the rest is the third one's.
        self.before = mutations(self.scene)
