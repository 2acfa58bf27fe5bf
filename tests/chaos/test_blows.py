from __future__ import annotations

from collections import Counter

import pytest

from phoenix_fleet.domain.steps import Step
from tests.chaos.blows import DECK, LONGEST_PAUSE, Act, Blow, Part, draw, tally

LEASE = 30.0
WHOLE_DECK = sum(times for _, times in DECK)


def test_a_seed_draws_the_same_blows_again() -> None:
    assert draw(7, 60, lease=LEASE) == draw(7, 60, lease=LEASE)
    assert draw(7, 60, lease=LEASE) != draw(8, 60, lease=LEASE)


def test_a_longer_campaign_begins_as_the_shorter_one() -> None:
    assert draw(7, 60, lease=LEASE)[:10] == draw(7, 10, lease=LEASE)


@pytest.mark.parametrize("decks", [1, 2, 5])
def test_every_kind_comes_in_its_proportion(decks: int) -> None:
    drawn = Counter(blow.kind for blow in draw(3, decks * WHOLE_DECK, lease=LEASE))
    assert drawn == {kind: times * decks for kind, times in DECK}


def test_the_whole_campaign_has_the_promised_numbers() -> None:
    dealt = tally(draw(1, 170, lease=LEASE))
    assert dealt[Act.KILL] >= 100
    assert dealt[Act.STOP] + dealt[Act.CUT] >= 50


def test_only_stops_last_and_about_half_of_them_outlive_the_lease() -> None:
    blows = draw(5, 40 * WHOLE_DECK, lease=LEASE)
    stops = [blow.seconds for blow in blows if blow.act is Act.STOP]
    assert {blow.seconds for blow in blows if blow.act is not Act.STOP} == {0.0}
    assert all(1 <= seconds <= LEASE + 15 for seconds in stops)
    assert 0.35 < sum(seconds > LEASE for seconds in stops) / len(stops) < 0.65


def test_blows_are_numbered_and_fall_at_any_step_within_the_longest_pause() -> None:
    blows = draw(5, 20 * WHOLE_DECK, lease=LEASE)
    assert [blow.number for blow in blows] == list(range(1, len(blows) + 1))
    assert {blow.step for blow in blows} == {None, *Step}
    assert all(0 < blow.pause <= LONGEST_PAUSE for blow in blows)


def test_sessions_are_cut_and_processes_are_not() -> None:
    sessions = {Part.CATALOG, Part.AIRFLOW, Part.DATABASES}
    assert {part for (act, part), _ in DECK if act is Act.CUT} == sessions
    assert not sessions & {part for (act, part), _ in DECK if act is not Act.CUT}


def test_a_tally_counts_by_act() -> None:
    blows = [Blow(1, Act.KILL, Part.TASK, 1.0, None), Blow(2, Act.CUT, Part.CATALOG, 1.0, None)]
    assert tally(blows) == {Act.KILL: 1, Act.STOP: 0, Act.CUT: 1}


def test_the_sample_has_ten_kinds_of_blows() -> None:
    from tests.chaos.test_chaos import BLOWS, SEED

    assert len({blow.kind for blow in draw(SEED, BLOWS, lease=LEASE)}) == BLOWS
