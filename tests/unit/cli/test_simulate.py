"""phoenix simulate: its figures, its pictures, replays of what the catalog remembers, and one clear error each."""

from __future__ import annotations

import json
import re
import shlex
import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.cli import app
from phoenix_fleet.config import Project
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.planner import PlannedSlot
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.windows import Version, Window
from phoenix_fleet.rollout.history import history_of
from phoenix_fleet.rollout.planning import freeze
from tests.unit.projects import FLEET, make_project

VERSION = Version(Window(2026, 11), 1)
OPENED = datetime(2026, 11, 2, 12, tzinfo=UTC)
EXACT = ("--median", "600", "--p95", "600", "--failure-rate", "0", "--start", "2026-11-02 12:00", "--trials", "20")
CHANCE = ("--size", "30", "--median", "600", "--p95", "1800", "--start", "2026-11-02 12:00", "--trials", "60")
NIGHTS = ("--window", "Mon-Fri 22:00-04:00 Europe/Berlin")
SVG = "{http://www.w3.org/2000/svg}"


def phoenix(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["simulate", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def told(*arguments: str) -> dict[str, Any]:
    result = phoenix(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def texts(picture: Path) -> set[str | None]:
    """What stands in it to be read."""
    return {node.text for node in ET.parse(picture).getroot().iter(f"{SVG}text")}  # noqa: S314 - our own


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    found = make_project(tmp_path)
    monkeypatch.setenv("PHOENIX_INCLUDE", str(found.include))
    monkeypatch.setenv("PHOENIX_CATALOG_URL", f"sqlite:///{tmp_path}/catalog.db")
    return found


@pytest.fixture
def past(project: Project) -> Iterator[Catalog]:
    with remembered(project) as catalog:
        yield catalog


@contextmanager
def remembered(project: Project) -> Iterator[Catalog]:
    """A rollout of four, ten minutes each; the third fails once, and somebody resumes two hours later."""
    clock = ManualClock(OPENED)
    with Catalog.from_environment(clock) as catalog:
        catalog.migrate()
        slots = [PlannedSlot(f"web-0{each}", (0, 1, 2, 2)[each - 1], "outdated", f"old-{each}") for each in range(1, 5)]
        settings = freeze(project.fleet("web"))
        rollout = catalog.rollouts.open(
            "web", "base", VERSION, VERSION.window, "run-1", slots, settings=settings, actor="ann", reason="monthly"
        )
        waves = [0, 1, 2, 2, 2]
        for number, wave in enumerate(waves):
            ticket = catalog.rollouts.claim(rollout.id, wave, f"t{number}", lease=timedelta(hours=1), max_in_flight=1)
            assert ticket is not None
            if number == 2:
                clock.advance(timedelta(minutes=5))
                catalog.rollouts.fail(ticket, Step.VERIFY, "2 checks failed")
                clock.advance(timedelta(hours=2))
                catalog.rollouts.resume("web", actor="ann", reason="looked into it")
                continue
            ticket = catalog.rollouts.enter(ticket, Step.LAUNCH, new_instance=f"new-{number}")
            clock.advance(timedelta(minutes=10))
            catalog.rollouts.finish(ticket)
        catalog.rollouts.complete(rollout.id)
        yield catalog


class TestFigures:
    def test_nothing_left_to_chance_gives_what_can_be_reckoned(self) -> None:
        found = told("--size", "12", *EXACT, "--deadline", "2h", "--max-in-flight", "2")
        # One alone; two beside it in the first wave; nine more, two at once.
        assert set(found["finish_seconds"].values()) == {600 + 600 + 5 * 600}
        assert (found["probability"], found["expected_halts"], found["at_once"]) == (1, 0, 2)
        assert found["deadline"] == "2026-11-02T14:00:00+00:00"
        assert found["burn_down"][-1] == {"left": 0, "p10_seconds": 4200, "p50_seconds": 4200, "p90_seconds": 4200}

    def test_windows_are_read_in_their_own_zones(self) -> None:
        found = told("--size", "1", *EXACT, *NIGHTS)
        assert found["finish_seconds"]["p50"] == 9 * 3600 + 600
        assert found["windows"] == ["mon, tue, wed, thu, fri 22:00-04:00 Europe/Berlin"]

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("22:00-04:00", "every day 22:00-04:00 UTC"),
            ("Fri-Mon 01:00-02:00", "mon, fri, sat, sun 01:00-02:00 UTC"),
            ("sat,sun 00:00-00:00 Asia/Kolkata", "sat, sun 00:00-00:00 Asia/Kolkata"),
        ],
    )
    def test_ways_to_write_a_window(self, text: str, shown: str) -> None:
        assert told("--size", "1", *EXACT, "--window", text)["windows"] == [shown]

    def test_always_is_a_window(self) -> None:
        assert told("--size", "1", *EXACT, "--window", "always")["windows"] == []

    def test_more_of_anything_that_helps_is_likelier(self) -> None:
        given = (*CHANCE, *NIGHTS, "--deadline", "2026-11-03 06:00", "--failure-rate", "0.02", "--repair-hours", "2")
        found = told(*given)
        assert 0 < found["probability"] < 0.9
        low, high = found["probability_bounds"]
        assert low < found["probability"] < high
        assert told(*given, "--max-in-flight", "3")["probability"] > found["probability"]
        assert told(*given, "--window", "always")["probability"] > found["probability"]
        assert told(*given[:-4], "--failure-rate", "0.3")["probability"] < found["probability"]
        raised = {each["change"]: each["probability"] for each in found["levers"]}
        assert raised["one more at once: max_in_flight 2 and max_surge 2"] > found["probability"]
        assert set(raised) > {"half as many failures", "resumed in half the time", "a deadline one day later"}

    def test_the_lever_says_what_asking_for_it_gives(self) -> None:
        given = (*CHANCE, "--deadline", "6h")
        lever = told(*given)["levers"][0]
        assert lever["change"].startswith("one more at once")
        again = told(*given, "--max-in-flight", "2")
        assert (lever["probability"], lever["finish_seconds"]) == (again["probability"], again["finish_seconds"])

    def test_the_same_seed_says_the_same(self) -> None:
        assert told(*CHANCE, "--seed", "5") == told(*CHANCE, "--seed", "5")
        assert told(*CHANCE, "--seed", "5")["finish_seconds"] != told(*CHANCE, "--seed", "6")["finish_seconds"]

    def test_without_a_deadline_there_is_no_probability(self) -> None:
        assert told(*CHANCE)["probability"] is None
        assert "there is no deadline" in phoenix(*CHANCE).stdout

    def test_what_never_ends_is_said(self) -> None:
        never = (
            *EXACT,
            "--size",
            "2",
            "--deadline",
            "9999d",
            "--window",
            "mon 01:00-01:01",
            "--launches-per-hour",
            "1",
        )
        found = told(*never, "--size", "9000")
        assert found["finish_seconds"]["p50"] is None
        assert found["probability"] == 0
        assert "never" in phoenix(*never, "--size", "9000").stdout

    def test_people_get_tables(self) -> None:
        result = phoenix("--size", "12", *EXACT, "--deadline", "1h")
        assert result.stdout.startswith("a fleet: 12 replacements, 20 trials, seed 0\n")
        assert "0.0% of the trials" in result.stdout
        assert "2026-11-02 14:00 UTC (after 2.0 h)" in result.stdout
        assert "what would change that" in result.stdout
        assert "how many are left, and when" in result.stdout
        assert result.stderr == ""


class TestFleets:
    def test_the_file_and_a_guess_until_something_was_measured(self, project: Project) -> None:
        with Catalog.from_environment() as catalog:
            catalog.migrate()
        found = told("web", "--start", "2026-11-20 00:00", "--trials", "20")
        assert (found["fleet"], found["replacements"], found["at_once"]) == ("web", 4, 1)
        assert found["deadline"] == "2026-12-01T00:00:00+00:00"
        assert (found["durations_from"], found["trouble_from"], found["failure_rate"]) == ("guessed", "guessed", 0.01)

    def test_its_history(self, past: Catalog) -> None:
        found = told("web", "--start", "2026-11-20 00:00", "--trials", "20")
        assert (found["durations_from"], found["median_seconds"]) == ("4 measured", 600)
        assert found["trouble_from"] == "1 of 5 attempts failed, 1 halts resumed"
        assert found["failure_rate"] == round(1.5 / 55, 4)
        assert found["repair_hours"] == 2

    def test_what_was_asked_takes_the_place_of_the_file(self, past: Catalog) -> None:
        asked = ("--size", "40", "--max-in-flight", "3", "--max-surge", "2", "--launches-per-hour", "9")
        found = told("web", *EXACT, *NIGHTS, *asked, "--deadline", "3d", "--repair-hours", "1")
        assert (found["replacements"], found["at_once"]) == (40, 2)
        assert found["at_once_because"] == "the budget has room for 2"
        assert (found["durations_from"], found["trouble_from"], found["repair_hours"]) == ("given", "given", 1)
        assert found["deadline"] == "2026-11-05T12:00:00+00:00"
        # From 22:00 in Berlin: of the nine in an hour the first goes alone, so the fortieth begins at 02:20.
        assert found["finish_seconds"]["p50"] == 9 * 3600 + 4 * 3600 + 1800

    def test_its_windows_freezes_quota_and_waivers(self, project: Project) -> None:
        with Catalog.from_environment() as catalog:
            catalog.migrate()
        more = (
            'maintenance: [{opens: "22:00", closes: "04:00"}]\n'
            "freezes: [{begins: 2026-11-02 00:00, ends: 2026-11-04 00:00, reason: stock}]\n"
            "waivers: [{slot: web-02, owner: ann, reason: legacy, until: 2026-12-31}]\n"
            "quota: {launches_per_hour: 1}\ndeadline: 20d\n"
        )
        (project.include / "fleets/web.yaml").write_text(FLEET + more)
        found = told("web", *EXACT)
        assert (found["replacements"], found["freezes"]) == (3, ["stock"])
        assert found["deadline"] == "2026-11-21T00:00:00+00:00"
        assert found["finish_seconds"]["p50"] == 36 * 3600 + 2 * 3600 + 600
        assert [each["change"] for each in found["levers"]] == [
            "quota.launches_per_hour 2",
            "1 h more in each maintenance window",
            "no freeze",
            "a deadline one day later",
        ]


class TestReplays:
    def test_the_same_seconds_at_other_speeds(self, past: Catalog) -> None:
        found = told("--replay", "1")
        assert found["seconds"] == [600, 600, 600, 600]
        rows = {row["how"]: row for row in found["courses"]}
        assert list(rows) == ["really", "again, 1 at once, as its file said", "again, 2 at once"]
        really, again, faster = rows.values()
        assert (really["seconds"], really["at_once"], really["in_time"]) == (4 * 600 + 300 + 7200, 1, True)
        assert really["note"] == "2.1 h with nothing under way; 1 halts, 2.0 h in all; 1 attempts failed"
        assert (again["seconds"], faster["seconds"]) == (2400, 1800)

    def test_slower_than_its_file_allowed(self, project: Project) -> None:
        wide = FLEET.replace("max_surge: 1", "max_surge: 2") + "max_in_flight: 2\n"
        (project.include / "fleets/web.yaml").write_text(wide)
        with remembered(project):
            _, slower, filed = told("--replay", "1")["courses"]
        assert (slower["how"], slower["seconds"]) == ("again, 1 at once", 2400)
        assert (filed["how"], filed["seconds"]) == ("again, 2 at once, as its file said", 1800)

    def test_in_other_windows_with_another_deadline(self, past: Catalog) -> None:
        found = told("web", "--replay", "1", "--window", "12:00-12:11", "--deadline", "2d", "--max-in-flight", "2")
        really, again = found["courses"]
        assert (again["how"], again["at_once"]) == ("again, 1 at once", 1)  # max_surge is 1 in its file
        assert (really["in_time"], again["in_time"]) == (True, True)
        assert again["seconds"] == 86400 + 1200
        wider = told("--replay", "1", "--window", "12:00-12:11", "--max-in-flight", "2", "--max-surge", "2")
        assert wider["courses"][1]["seconds"] == 86400 + 600

    def test_people_get_a_table_and_a_picture(self, past: Catalog, tmp_path: Path) -> None:
        result = phoenix("--replay", "1", "--chart", str(tmp_path / "replay.svg"))
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("rollout 1 of web to 2026.11-1: 4 replacements; begins at any time\n")
        assert "2026-11-02 14:45 UTC (after 2.8 h)" in result.stdout
        assert {"really", "again, 2 at once", "hours from the start", "deadline after 684 hours →"} <= texts(
            tmp_path / "replay.svg"
        )

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (("--replay", "9"), "rollout 9"),
            (("db", "--replay", "1"), "Rollout 1 was of web, not of db."),
            (("--replay", "1", "--size", "9"), "--size: a replay leaves nothing to chance"),
            (("--replay", "1", "--failure-rate", "0"), "--failure-rate: a replay leaves nothing to chance"),
        ],
    )
    def test_mistakes(self, past: Catalog, arguments: tuple[str, ...], error: str) -> None:
        result = phoenix(*arguments)
        assert result.exit_code in (1, 2)
        assert error.lower() in result.stderr.lower()
        assert len(result.stderr.splitlines()) == 1

    def test_history_of_one_rollout_is_not_that_of_one_whose_number_begins_so(self, past: Catalog) -> None:
        past.events.append("slot.failed", "fleets/web/rollouts/17/web-01", "x", {})
        assert history_of(past, "web", 1).failed == 1
        assert history_of(past, "web").failed == 2


class TestPictures:
    def test_the_same_figures_give_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("a.svg", "b.svg", "a.png", "b.png"):
            result = phoenix(*CHANCE, *NIGHTS, "--deadline", "14h", "--chart", str(tmp_path / name))
            assert result.stdout.splitlines()[-1] == f"picture: {tmp_path / name}"
        for kind in ("svg", "png"):
            assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        width, height = struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])
        assert (width, height) == (1080, 816)

    def test_it_says_neither_when_nor_by_what_it_was_drawn(self, tmp_path: Path) -> None:
        phoenix(*CHANCE, "--chart", str(tmp_path / "a.svg"))
        text = (tmp_path / "a.svg").read_text()
        assert "dc:date" not in text
        assert "Matplotlib v" not in text

    def test_it_shows_what_the_table_says(self, tmp_path: Path) -> None:
        given = (*CHANCE, "--deadline", "7h", "--failure-rate", "0")
        found = told(*given, "--chart", str(tmp_path / "a.svg"))
        shown = texts(tmp_path / "a.svg")
        assert f"a fleet: 30 replacements, 1 at once: {found['probability']:.1%} in time" in shown
        assert {"deadline", "p10", "p50", "hours from the start", "replacements left"} <= shown

    def test_a_fleet_that_is_never_done_has_a_picture_too(self, tmp_path: Path) -> None:
        never = ("--size", "9000", *EXACT, "--window", "mon 01:00-01:01")
        assert phoenix(*never, "--chart", str(tmp_path / "a.svg")).exit_code == 0
        assert (tmp_path / "a.svg").stat().st_size > 0


@pytest.mark.slow
def test_the_page_shows_what_its_command_says(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/howto/plan-a-refresh.md").read_text()
    (line,) = re.findall(r"^phoenix simulate (--size .*) --chart simulate.svg$", page, re.MULTILINE)
    found = told(*shlex.split(line))
    assert f"{found['probability']:.1%} of the trials" in page
    assert f"{found['expected_halts']:.1f} expected" in page
    shown = dict(re.findall(r"^(\S.*?)  +([\d.]+%)$", page, re.MULTILINE))
    assert shown == {each["change"]: f"{each['probability']:.1%}" for each in found["levers"]}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "Nothing says what to simulate. Remedy: Name a fleet, or give --size and --median."),
        (("--size", "3"), "Nothing says what to simulate."),
        (("nowhere",), "There is no fleet 'nowhere'"),
        (("--size", "0", "--median", "60"), "--size 0: it must be from 1 to 100000 machines."),
        (("--size", "3", "--median", "nan"), "--median nan: it must be from 1 to"),
        (("--size", "3", "--median", "60", "--p95", "30"), "--p95 30 is less than --median 60."),
        (("--size", "3", "--median", "60", "--failure-rate", "2"), "--failure-rate 2: it must be from 0 to 0.9 of all"),
        (("--size", "3", "--median", "60", "--repair-hours", "-1"), "--repair-hours -1: it must be from 0"),
        (("--size", "3", "--median", "60", "--trials", "1"), "--trials 1: it must be from 10 to 1e+06 trials."),
        (("--size", "3", "--median", "60", "--seed", "-1"), "--seed -1: it must be from 0"),
        (("--size", "3", "--median", "60", "--max-in-flight", "0"), "--max-in-flight 0: it must be from 1"),
        (
            ("--size", "3", "--median", "60", "--window", "nights"),
            "--window 'nights' is no maintenance window: it does",
        ),
        (("--size", "3", "--median", "60", "--window", "mon-foo 01:00-02:00"), "'mon-foo' are no days"),
        (("--size", "3", "--median", "60", "--window", "25:00-02:00"), "'25:00' is not a time of day"),
        (("--size", "3", "--median", "60", "--window", "22:00-02:00 Mars"), "'Mars' is not a time zone"),
        (("--size", "3", "--median", "60", "--deadline", "soon"), "--deadline 'soon' is no moment"),
        (("--size", "3", "--median", "60", "--deadline", "2020-01-01 00:00"), "is not after the start"),
        (("--size", "3", "--median", "60", "--start", "tomorrow"), "--start 'tomorrow' is no moment"),
        (("--size", "3", "--median", "60", "--chart", "a.gif"), "--chart a.gif: a picture is a file that ends in .svg"),
        (("--size", "3", "--median", "60", "--chart", "/nowhere/a.svg"), "there is no folder /nowhere."),
    ],
)
def test_mistakes_are_one_line_each(project: Project, arguments: tuple[str, ...], error: str) -> None:
    result = phoenix(*arguments)
    assert result.exit_code == 2, result.output
    assert error in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
