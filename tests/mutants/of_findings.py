"""Mistakes in what seeds of the simulator and campaigns have found and what was mended since."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_SEEDS = "rollout/test_found_by_seeds.py::"

MUTANTS = (
    Mutant(
        "what-lies-beside-the-last-keeps-its-room",
        "I16: what came to no end makes room, also where the one beside it must stay",
        "domain/planner.py",
        'refused=f"{reason}, but {refused}", surplus=surplus)',
        'refused=f"{reason}, but {refused}")',
        (f"{_SEEDS}test_what_the_last_of_its_zone_shares_its_slot_with_makes_room",),
    ),
    Mutant(
        "the-drains-limit-runs-before-its-call",
        "I25: what is connected has its time",
        "rollout/going_away.py",
        'work.note(drain_asked=True, **seen_since("drained", work.now, work.now))',
        "work.note(drain_asked=True)",
        (f"{_SEEDS}test_the_limit_of_a_drain_runs_from_when_it_was_told",),
    ),
    Mutant(
        "healthy-before-it-is-admitted",
        "I3: what counts as in service was told to serve",
        "rollout/coming_up.py",
        "if told and status.state is Backend.HEALTHY:",
        "if status.state is Backend.HEALTHY:",
        (f"{_SEEDS}test_what_is_adopted_is_admitted_whatever_the_balancer_says_of_it",),
    ),
    Mutant(
        "what-drains-goes-whatever-the-floor",
        "I3: what was told to drain could serve again",
        "rollout/checking.py",
        "if not drains or work.facts",
        "if drains or work.facts",
        (f"{_SEEDS}test_what_drains_is_not_taken_away_while_the_floor_is_broken",),
    ),
    Mutant(
        "forgotten-in-a-meltdown",
        "I26: nothing is touched in a meltdown",
        "rollout/retiring.py",
        "work.observe()  # nothing",
        "pass  # nothing",
        (f"{_SEEDS}test_what_is_gone_stays_at_the_balancer_while_too_much_is_out_of_service",),
    ),
    Mutant(
        "forgotten-at-the-first-look",
        "I10: what is not to be seen is not gone",
        "rollout/forgetting.py",
        "if look.gone:",
        "if look.gone or look.missing_since:",
        ("rollout/test_reaper_forgets.py::test_what_died_by_itself_is_forgotten",),
    ),
    Mutant(
        "left-overs-keep-their-room",
        "I16: what came to no end makes room for the launch that waits for it",
        "rollout/coming_up.py",
        "found = _find_left_over(work, observed) or _idle_old(work, observed)\n    if found is None:",
        "found = _idle_old(work, observed)\n    if found is None:",
        (f"{_SEEDS}test_a_left_over_that_turns_up_later_makes_room_too",),
    ),
    Mutant(
        "idle-old-one-keeps-its-room",
        "I16: an old one out of service for long makes room for its successor",
        "rollout/coming_up.py",
        'return old if work.lasting("old idle") >= IDLE_FOR else None',
        "return None",
        (f"{_SEEDS}test_what_is_out_of_service_for_long_goes_before_its_successor_where_nothing_else_makes_room",),
    ),
    Mutant(
        "another-fleets-is-ours",
        "I8: what somebody gave to another fleet is not ours any more",
        "rollout/replacement.py",
        "if self.fleet and self.fleet != now.fleet:",
        "if False:",
        (f"{_SEEDS}test_what_somebody_gave_to_another_fleet_is_not_touched_any_more",),
    ),
    Mutant(
        "healthy-is-believed-after-a-drain",
        "I3: what was told to drain is admitted again, whatever reads that lag say",
        "rollout/undoing.py",
        'told_to_drain = work.facts.get("drain_asked") and not work.facts.get("readmitted")',
        "told_to_drain = False",
        (f"{_SEEDS}test_what_was_told_to_drain_serves_again_even_if_the_balancers_answer_is_old",),
    ),
    Mutant(
        "unseen-is-not-there",
        "I2, I10: what was launched a moment ago counts although no listing shows it",
        "rollout/coming_up.py",
        "planner.check_surge(work.shape, observed, _unseen(work, observed))",
        "planner.check_surge(work.shape, observed)",
        (f"{_SEEDS}test_a_launch_that_no_listing_shows_yet_takes_its_room",),
    ),
    Mutant(
        "dark-slots-wait-their-turn",
        "I16: where nothing serves goes before what the floor holds",
        "rollout/giving_way.py",
        "if not dark:",
        "if dark or not dark:",
        ("rollout/test_giving_way.py::test_what_died_behind_the_first_goes_before_it",),
    ),
    Mutant(
        "old-one-that-drains-does-not-count",
        "I3: what an earlier attempt told to drain may be all that is missing",
        "rollout/going_away.py",
        "status.state in (Backend.HEALTHY, Backend.DRAINING)",
        "status.state is Backend.HEALTHY",
        (f"{_SEEDS}test_an_old_one_that_an_earlier_attempt_told_to_drain_stays_while_the_floor_is_broken",),
    ),
    Mutant(
        "in-hand-is-meant-to-be-dark",
        "I26: what died by itself counts, also in a slot that is in hand",
        "rollout/replacement.py",
        "if _taken_out(each)}",
        "if each.step not in (None, Step.CHECK)}",
        (f"{_SEEDS}test_an_old_one_that_died_by_itself_counts_in_a_meltdown_although_its_slot_is_in_hand",),
    ),
)
