"""What phoenix shows of the catalog: how fleets stand, releases, and reports."""

from __future__ import annotations

import json
from pathlib import Path

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.config import Project
from phoenix_fleet.domain.ladder import CLIMB
from phoenix_fleet.domain.windows import Version
from tests.unit.cli.rollouts import DIGEST, VERSION, WINDOW, Phoenix, fail_first, open_rollout, release, replace_first


class TestCatalogCommands:
    def test_migrate_twice(self, phoenix: Phoenix) -> None:
        for _ in range(2):
            assert phoenix("migrate").stdout == "The catalog is up to date.\n"

    def test_a_catalog_without_tables_is_one_message(self, phoenix: Phoenix) -> None:
        result = phoenix("status", "web")
        assert result.exit_code in (1, 2)
        assert result.stderr.startswith("phoenix: ")

    def test_status_of_a_fleet_without_history(self, phoenix: Phoenix, catalog: Catalog) -> None:
        found = json.loads(phoenix("status", "web", "--json").stdout)
        assert (found["release"], found["completed"], found["rollout"], found["slots"]) == (None, None, None, [])
        assert (found["size"], found["max_age_days"], found["outdated"]) == (4, 35.0, False)

    def test_status_of_a_halted_rollout_names_slot_step_and_reason(self, phoenix: Phoenix, catalog: Catalog) -> None:
        release(catalog)
        fail_first(catalog, open_rollout(catalog))
        text = phoenix("status").stdout
        for part in ("web-01 at verify: 2 checks failed", "halted", "web-02", "empty slot", "2026.11-1", "web-staging"):
            assert part in text
        found = json.loads(phoenix("status", "web", "--json").stdout)
        assert found["rollout"]["state"] == "halted"
        assert (found["rollout"]["halted_slot"], found["rollout"]["halted_step"]) == ("web-01", "verify")
        assert [each["state"] for each in found["slots"]] == ["failed", "waiting"]
        assert found["outdated"] is True
        assert [each["fleet"] for each in json.loads(phoenix("status", "--json").stdout)] == ["web-staging", "web"]

    def test_after_a_rollback_the_fleet_is_not_outdated_for_want_of_what_it_must_not_have(
        self, phoenix: Phoenix, catalog: Catalog
    ) -> None:
        older = Version(WINDOW.previous(), 1)
        release(catalog, older)
        done = catalog.rollouts.open(
            "web", "base", older, older.window, "run-0", [], settings={}, actor="ann", reason="monthly"
        )
        catalog.rollouts.complete(done.id)
        release(catalog)
        replace_first(catalog, open_rollout(catalog))
        assert json.loads(phoenix("status", "web", "--json").stdout)["outdated"] is True
        catalog.lifecycle.roll_back("web", actor="alice", reason="it drops sessions")
        found = json.loads(phoenix("status", "web", "--json").stdout)
        assert (found["release"], found["outdated"]) == (str(older), False)
        assert found["blocked"][0]["version"] == str(VERSION)

    def test_a_wrong_file_does_not_hide_how_its_fleet_stands(
        self, phoenix: Phoenix, catalog: Catalog, project: Project
    ) -> None:
        release(catalog)
        open_rollout(catalog)
        for name in ("web", "web-staging"):
            (project.include / "fleets" / f"{name}.yaml").write_text("fleet: [")
        assert json.loads(phoenix("status", "web", "--json").stdout)["rollout"]["state"] == "open"
        result = phoenix("status")
        assert "2026.11-1" in result.stdout
        assert "web-staging: its file is wrong" in result.stderr
        result = phoenix("status", "web-staging")
        assert result.exit_code == 2
        assert "this is not YAML" in result.stderr

    def test_every_slot_that_waits_has_a_reason_and_an_estimate(self, phoenix: Phoenix, catalog: Catalog) -> None:
        release(catalog)
        open_rollout(catalog)
        slots = json.loads(phoenix("status", "web", "--json").stdout)["slots"]
        waiting = [each for each in slots if each["state"] == "waiting"]
        assert [each["waits"] for each in waiting][:1] == ["it is next"]
        assert all(each["waits"] and each["begins_in_seconds"] is not None for each in waiting)
        shown = phoenix("status", "web").stdout
        assert "it is next" in shown
        assert "now" in shown
        catalog.rollouts.halt("web", actor="alice", reason="looks wrong")
        slots = json.loads(phoenix("status", "web", "--json").stdout)["slots"]
        assert {each["waits"] for each in slots} == {"halted by alice: looks wrong"}
        assert "nobody can tell" in phoenix("status", "web").stdout

    def test_an_unknown_fleet(self, phoenix: Phoenix, catalog: Catalog) -> None:
        result = phoenix("status", "wbe")
        assert result.exit_code == 2
        assert "Did you mean 'web'?" in result.stderr

    def test_release_list(self, phoenix: Phoenix, catalog: Catalog) -> None:
        release(catalog)
        catalog.images.open_candidate("base", WINDOW, "i", "b", run="r2")
        catalog.images.move("base", Version(WINDOW, 2), CLIMB[1], actor="chain")
        text = phoenix("release", "list", "base").stdout
        assert text.index("2026.11-2") < text.index("2026.11-1")
        assert DIGEST in text
        found = json.loads(phoenix("release", "list", "base", "--json").stdout)
        assert [(each["version"], each["rung"]) for each in found] == [
            ("2026.11-2", "tested"),
            ("2026.11-1", "released"),
        ]
        assert phoenix("release", "list", "bass").exit_code == 1

    def test_report_prints_where_it_is(self, phoenix: Phoenix, catalog: Catalog, tmp_path: Path) -> None:
        release(catalog)
        rollout = open_rollout(catalog)
        path = Path(phoenix("report", str(rollout)).stdout.strip())
        assert path == tmp_path / "reports" / "web" / f"rollout-{rollout}.html"
        assert path.exists()
        assert phoenix("report", "99").exit_code == 1
        assert phoenix("report", "many").exit_code == 2
