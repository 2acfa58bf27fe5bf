"""The report of a rollout, drawn from a real catalog, in all three forms; hostile texts stay texts."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import RolloutKind
from phoenix_fleet.domain.clock import ManualClock
from phoenix_fleet.domain.errors import InvalidConfig, NotFound
from phoenix_fleet.domain.ladder import CLIMB
from phoenix_fleet.domain.models import Artefact
from phoenix_fleet.domain.planner import PlannedSlot
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.verdicts import Measurement, Verdict
from phoenix_fleet.domain.windows import Version, Window
from phoenix_fleet.evidence import pages, report

DIGEST = "sha256:" + "ab" * 32
WINDOW = Window(2026, 11)
VERSION = Version(WINDOW, 1)
HOSTILE = "</td><script>alert(1)</script> | [x](javascript:alert(1)) `` \u202e **b**\nnext line <img src=x onerror=y>"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 2, 4, 0, tzinfo=UTC))


@pytest.fixture
def catalog(tmp_path: Path, clock: ManualClock) -> Iterator[Catalog]:
    with Catalog(f"sqlite:///{tmp_path}/catalog.db", clock) as found:
        found.migrate()
        found.images.open_candidate("base", WINDOW, "inputs", "builder", run="r1")
        found.images.add_artefact("base", VERSION, Artefact("docker", f"registry/base@{DIGEST}", DIGEST))
        found.measurements.record(
            "base",
            VERSION,
            "test",
            "testinfra",
            "docker",
            Measurement("17 checks, 0 failed", True, {}, ("/x/junit.xml",)),
        )
        found.measurements.record("base", VERSION, "test", "hygiene", "docker", Measurement("", None, error=HOSTILE))
        found.measurements.certify("base", VERSION, "docker", DIGEST, "shop-api", "1.4", Verdict.PASSED, [])
        found.measurements.approve(
            "base",
            VERSION,
            digest_set={"docker": DIGEST},
            responder="ann",
            approved=True,
            reason="looks good",
            at=clock.now(),
        )
        for rung in CLIMB[1:]:
            found.images.move("base", VERSION, rung, actor="chain")
        yield found


def open_rollout(catalog: Catalog, *, reason: str = "monthly") -> int:
    slots = [PlannedSlot("web-01", 0, "outdated: 2026.10-1", "old-1"), PlannedSlot("web-02", 1, "empty slot")]
    return catalog.rollouts.open(
        "web", "base", VERSION, WINDOW, "run-1", slots, settings={}, actor="ann", reason=reason
    ).id


def replace(catalog: Catalog, clock: ManualClock, rollout: int, wave: int, seconds: float) -> None:
    ticket = catalog.rollouts.claim(rollout, wave, "worker", lease=timedelta(minutes=5), max_in_flight=1)
    assert ticket is not None
    for step in (Step.CHECK, Step.LAUNCH, Step.VERIFY, Step.TERMINATE):
        ticket = catalog.rollouts.enter(ticket, step, new_instance=f"new-{wave}")
        clock.advance(timedelta(seconds=seconds))
    catalog.rollouts.finish(ticket)


def test_a_rollback_says_of_what_and_away_from_what(catalog: Catalog, clock: ManualClock) -> None:
    opened = catalog.rollouts.get(open_rollout(catalog))
    back = dataclasses.replace(opened, kind=RolloutKind.ROLLBACK, undoes=7, undone=Version(WINDOW, 2))
    made = report.render(back, [], catalog.images.get("base", VERSION), [], [], [], now=clock.now())
    found = made.data["rollout"]
    assert (found["kind"], found["undoes"], found["undone"]) == ("rollback", 7, "2026.11-2")
    assert "rollback of rollout 7, away from 2026.11-2" in made.html


def test_a_finished_rollout_tells_everything_in_all_forms(catalog: Catalog, clock: ManualClock, tmp_path: Path) -> None:
    rollout = open_rollout(catalog)
    replace(catalog, clock, rollout, 0, 2.5)
    replace(catalog, clock, rollout, 1, 5)
    catalog.rollouts.complete(rollout)
    path = report.write(
        catalog, rollout, folder=tmp_path / "out", traffic={"requests": 60000, "failed": 0}, now=clock.now()
    )
    assert path == tmp_path / "out" / "web" / f"rollout-{rollout}.html"
    data = json.loads(path.with_suffix(".json").read_text())
    assert data["rollout"]["window_outcome"] == "met"
    assert [(each["slot"], each["state"], each["seconds"]) for each in data["machines"]] == [
        ("web-01", "done", 10.0),
        ("web-02", "done", 20.0),
    ]
    assert data["machines"][0]["steps"] == {"check": 2.5, "launch": 2.5, "verify": 2.5, "terminate": 2.5}
    assert data["machines"][0]["new_instance"] == "new-0"
    assert data["image"]["artefacts"]["docker"]["digest"] == DIGEST
    assert data["approvals"][0]["responder"] == "ann"
    assert data["traffic"] == {"requests": 60000, "failed": 0}
    for text in (path.read_text(), path.with_suffix(".md").read_text()):
        for part in (DIGEST, "17 checks, 0 failed", "junit.xml", "ann", "shop-api", "60000", "empty slot", "20.0"):
            assert part in text
        assert "2 of 2 machines replaced" in text
        assert "2026-11, until 2026-12-01 00:00:00 UTC: met" in text
    assert [each.name for each in sorted(path.parent.iterdir())] == [
        f"rollout-{rollout}.html", f"rollout-{rollout}.json", f"rollout-{rollout}.md",
    ]  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_halt_its_reason_and_who_resumed_it_stay_in_the_report(
    catalog: Catalog, clock: ManualClock, tmp_path: Path
) -> None:
    rollout = open_rollout(catalog)
    ticket = catalog.rollouts.claim(rollout, 0, "worker", lease=timedelta(minutes=5), max_in_flight=1)
    assert ticket is not None
    ticket = catalog.rollouts.enter(ticket, Step.VERIFY)
    clock.advance(timedelta(seconds=7))
    catalog.rollouts.fail(ticket, Step.VERIFY, "2 checks failed")
    text = report.write(catalog, rollout, folder=tmp_path, now=clock.now()).with_suffix(".md").read_text()
    assert "**halted: 0 of 2 machines replaced**" in text
    assert "failed at verify" in text
    assert "web-01 at verify: 2 checks failed" in text
    clock.advance(timedelta(hours=1))
    catalog.rollouts.resume("web", actor="bob", reason="mended")
    replace(catalog, clock, rollout, 0, 1)
    path = report.write(catalog, rollout, folder=tmp_path, now=clock.now())
    text = path.with_suffix(".md").read_text()
    assert re.search(r"\| halted \| worker \| web-01 at verify: 2 checks failed \|", text)
    assert re.search(r"\| resumed \| bob \| mended \|", text)
    machine = json.loads(path.with_suffix(".json").read_text())["machines"][0]
    assert machine["steps"]["verify"] == 8.0, "both attempts, and not the hour between them"
    assert machine["seconds"] == 4.0


def test_events_of_another_rollout_whose_number_begins_the_same_do_not_count(
    catalog: Catalog, clock: ManualClock, tmp_path: Path
) -> None:
    rollout = open_rollout(catalog)
    catalog.events.append("slot.step", f"fleets/web/rollouts/{rollout}7/web-01", "x", {"step": "launch"})
    clock.advance(timedelta(seconds=30))
    catalog.events.append("slot.done", f"fleets/web/rollouts/{rollout}7/web-01", "x", {})
    path = report.write(catalog, rollout, folder=tmp_path, now=clock.now())
    assert json.loads(path.with_suffix(".json").read_text())["machines"][0]["steps"] == {}


@pytest.mark.parametrize(
    ("days", "finished", "outcome"),
    [(1, True, "met"), (40, True, "met late"), (1, False, "open"), (40, False, "missed")],
)
def test_the_windows_outcome(
    catalog: Catalog, clock: ManualClock, tmp_path: Path, days: int, finished: bool, outcome: str
) -> None:
    rollout = open_rollout(catalog)
    clock.advance(timedelta(days=days))
    if finished:
        replace(catalog, clock, rollout, 0, 1)
        replace(catalog, clock, rollout, 1, 1)
        catalog.rollouts.complete(rollout)
    path = report.write(catalog, rollout, folder=tmp_path, now=clock.now())
    assert json.loads(path.with_suffix(".json").read_text())["rollout"]["window_outcome"] == outcome


class Tags(HTMLParser):
    """Which tags and attributes a page really has."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)


PLAIN_TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "span"),
    *("dl", "dt", "dd", "table", "tr", "th", "td"),
}


def test_hostile_texts_stay_texts(catalog: Catalog, clock: ManualClock, tmp_path: Path) -> None:
    rollout = open_rollout(catalog, reason=HOSTILE)
    path = report.write(catalog, rollout, folder=tmp_path, traffic={HOSTILE: HOSTILE}, now=clock.now())
    text = path.read_text()
    parser = Tags()
    parser.feed(text)
    assert parser.tags == PLAIN_TAGS
    assert parser.attributes <= {"lang", "charset", "name", "content", "http-equiv", "class"}
    assert "default-src &#x27;none&#x27;" in text or "default-src 'none'" in text
    assert "\u202e" not in text
    markdown = path.with_suffix(".md").read_text()
    assert "<script" not in markdown.replace("\\<", "")
    assert "javascript:" not in markdown
    assert "\nnext line" not in markdown


@given(st.text(max_size=60))
def test_no_text_adds_a_tag_or_a_cell(text: str) -> None:
    page = pages.Page(text, text, text, [("a", text)], [pages.Table(text, ["x", text], [[text, text]], text)])
    parser = Tags()
    parser.feed(pages.to_html(page))
    assert parser.tags <= PLAIN_TAGS
    rows = [line for line in pages.to_markdown(page).splitlines() if line.startswith("| ")]
    assert len(rows) == 3
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}


def test_a_rollout_that_is_not_there_and_a_folder_that_cannot_be(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        report.write(catalog, 99, folder=tmp_path)
    rollout = open_rollout(catalog)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidConfig, match="cannot be written"):
        report.write(catalog, rollout, folder=tmp_path / "file")


def test_the_folder_comes_from_the_environment(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOENIX_REPORTS", str(tmp_path / "named"))
    assert report.write(catalog, open_rollout(catalog)).is_relative_to(tmp_path / "named")
