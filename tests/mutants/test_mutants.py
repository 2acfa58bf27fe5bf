"""The suite has teeth: every mistake that is put into the engine on purpose is noticed by a test."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mutants.declared import MUTANTS, all_tests
from tests.mutants.mutant import Mutant
from tests.mutants.playing import AT_ONCE, PROJECT, Played, play, play_unchanged
from tests.sampling import sample

AT_LEAST = 30
"""So many are played in one run; all of them take a quarter of an hour."""
Result = Callable[[Mutant], Played]


@pytest.fixture(scope="module")
def result(request: pytest.FixtureRequest) -> Iterator[Result]:
    """What came of a mutant; all that were asked for are played at once, as many as there are cores for."""
    chosen: list[Mutant] = [
        item.callspec.params["mutant"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and "mutant" in item.callspec.params
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        playing: dict[str, Future[Played]] = {each.name: pool.submit(play, each) for each in chosen}
        yield lambda mutant: playing[mutant.name].result()


@pytest.mark.slow
@pytest.mark.parametrize("mutant", sample(MUTANTS, AT_LEAST), ids=lambda mutant: mutant.name)
def test_it_is_caught(mutant: Mutant, result: Result) -> None:
    played = result(mutant)
    assert played.verdict == "caught", played.output


@pytest.mark.slow
def test_unchanged_the_same_tests_pass() -> None:
    played = play_unchanged(all_tests(sample(MUTANTS, AT_LEAST)))
    assert played.exit_code == 0, played.output


def test_each_snippet_stands_there_exactly_once(tmp_path: Path) -> None:
    """Otherwise it has to follow the code; and what comes out is still Python."""
    for mutant in MUTANTS:
        there = tmp_path / mutant.path
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / mutant.path, there)
        mutant.apply(tmp_path)
        compile(there.read_text(encoding="utf-8"), str(there), "exec")


def test_a_snippet_that_no_longer_stands_there_is_told(tmp_path: Path) -> None:
    mutant = MUTANTS[0]
    there = tmp_path / mutant.path
    there.parent.mkdir(parents=True)
    for text, found in (("", 0), (mutant.original * 2, 2)):
        there.write_text(text, encoding="utf-8")
        with pytest.raises(LookupError, match=f"{mutant.name}: its snippet stands {found} times"):
            mutant.apply(tmp_path)


def test_there_are_enough_of_them_and_each_has_a_name() -> None:
    assert len(MUTANTS) >= 30
    assert Counter(each.name for each in MUTANTS).most_common(1)[0][1] == 1
    for mutant in MUTANTS:
        assert mutant.tests, mutant.name
        for test in mutant.tests:
            assert (PROJECT / "tests" / test.split("::")[0]).is_file(), test


@pytest.mark.slow
def test_the_copy_is_what_is_tested() -> None:
    """A mistake that keeps the package from being loaded at all is seen, and is not taken for caught."""
    broken = Mutant(
        "cannot-be-loaded",
        "none",
        "domain/verdicts.py",
        "from __future__ import annotations\n",
        "from __future__ import annotations\nraise RuntimeError('from the copy')\n",
        ("unit/domain/test_verdicts.py",),
    )
    played = play(broken)
    assert played.verdict == "broken"
    assert "from the copy" in played.output
