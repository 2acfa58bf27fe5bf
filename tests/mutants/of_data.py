"""Mistakes in what moves data from one instance to the next, and in what the others are asked meanwhile."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_DATA = "rollout/test_stateful.py::"

MUTANTS = (
    Mutant(
        "taken-without-a-snapshot",
        "data: no volume is detached without a snapshot",
        "rollout/moving.py",
        "if waiting := _snapshot(work, driver, machine, volume):",
        "if waiting := None:",
        (f"{_DATA}test_without_a_snapshot_nothing_is_detached",),
    ),
    Mutant(
        "taken-from-what-runs",
        "data: a volume leaves an instance that is down",
        "rollout/moving.py",
        "if instance.state is not InstanceState.FAILED:",
        "if instance.state is InstanceState.STARTING:",
        (f"{_DATA}test_the_data_moves_to_the_new_instance_after_a_snapshot",),
    ),
    Mutant(
        "half-a-snapshot-is-enough",
        "data: a snapshot counts once it is taken",
        "rollout/moving.py",
        "if any(each.taken for each in found):",
        "if found:",
        (f"{_DATA}test_without_a_snapshot_nothing_is_detached",),
    ),
    Mutant(
        "blank-one-in-its-place",
        "data: what is not to be seen is not gone",
        "rollout/moving.py",
        "for known in work.deps.catalog.intents.volumes_known(intent.label):",
        "for known in work.deps.catalog.intents.volumes_known(intent.label)[:0]:",
        (f"{_DATA}test_no_blank_one_takes_the_place_of_one_that_is_not_to_be_seen",),
    ),
    Mutant(
        "either-of-two-is-taken",
        "data: nobody guesses which volume is the right one",
        "rollout/moving.py",
        "if len(found) > 1:",
        "if len(found) > 2:",
        (f"{_DATA}test_of_two_that_claim_one_place_none_is_taken",),
    ),
    Mutant(
        "data-ends-with-its-instance",
        "data: whatever is taken out gives its volumes back before",
        "rollout/retiring.py",
        "if waiting := moving.release(work, machine, instance, lambda: _refused(allowed)):",
        "if waiting := None:",
        (f"{_DATA}test_a_new_instance_that_fails_gives_the_data_to_the_next_one",),
    ),
    Mutant(
        "serves-without-its-data",
        "data: an instance without its data is out of service",
        "rollout/planning.py",
        "return withhold(seen, deps.volumes.list_volumes(fleet.name), [each.name for each in fleet.volumes])",
        "return withhold(seen, deps.volumes.list_volumes(fleet.name), ())",
        (f"{_DATA}test_what_a_cancelled_rollout_left_without_its_data_is_replaced",),
    ),
    Mutant(
        "launched-far-from-its-data",
        "data: the new instance stands where its volumes are",
        "rollout/replacement.py",
        'zone=self.facts.get("volume_zone") or self.domain[0],',
        "zone=self.domain[0],",
        (f"{_DATA}test_the_new_instance_stands_where_its_data_is",),
    ),
    Mutant(
        "reaped-with-its-data",
        "data: the reaper leaves alone what has a volume",
        "rollout/reaping.py",
        "if each.attached_to == instance.id:",
        'if each.attached_to == "":',
        (f"{_DATA}test_the_reaper_leaves_alone_what_has_data",),
    ),
    Mutant(
        "begun-without-a-quorum",
        "quorum: nothing begins while it does not hold",
        "rollout/quorum.py",
        "if not (lost := _lost(work, observed)):",
        "if (lost := _lost(work, observed)) or True:",
        (f"{_DATA}test_nothing_begins_while_the_quorum_does_not_hold",),
    ),
    Mutant(
        "quorum-only-at-the-beginning",
        "quorum: it is asked for again right before the end",
        "rollout/going_away.py",
        "quorum.check_still(work, old)",
        "pass",
        (f"{_DATA}test_one_that_was_drained_comes_back_if_the_quorum_is_lost_meanwhile",),
    ),
    Mutant(
        "the-new-one-goes-for-the-quorum",
        "quorum: what took the place of the old one stays",
        "rollout/engine.py",
        " or quorum.remembered(work) is not None",
        "",
        (f"{_DATA}test_a_quorum_that_does_not_come_back_halts_and_the_new_one_stays",),
    ),
)
