"""What people tell a rollout: halt, resume, cancel, pause, roll back, revoke; each with a name and a reason."""

from __future__ import annotations

import json

import pytest

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import RolloutKind
from phoenix_fleet.domain.windows import Version, Window
from tests.unit.cli.rollouts import WINDOW, Phoenix, open_rollout, release, replace_first


class TestOrders:
    def test_halt_resume_cancel_are_recorded_with_the_name_and_the_reason(
        self, phoenix: Phoenix, catalog: Catalog
    ) -> None:
        release(catalog)
        rollout = open_rollout(catalog)
        assert phoenix("halt", "web", "--actor", "ann", "--reason", "storm").stdout == (
            f"Rollout {rollout} of web is halted.\n"
        )
        result = phoenix("resume", "web", "--actor", "bob", "--reason", "calm again")
        assert f"Rollout {rollout} of web is open." in result.stdout
        assert "clear the failed tasks of run run-1 of the DAG fleet.web" in result.stdout
        assert phoenix("cancel", "web", "--actor", "cleo", "--reason", "not today").exit_code == 0
        events = [
            (each.kind, each.actor, each.payload["reason"])
            for each in reversed(catalog.events.list_events(f"fleets/web/rollouts/{rollout}"))
        ]
        assert events[1:] == [
            ("rollout.halted", "ann", "storm"),
            ("rollout.resumed", "bob", "calm again"),
            ("rollout.cancelled", "cleo", "not today"),
        ]

    @pytest.mark.parametrize("verb", ["halt", "resume", "cancel"])
    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--reason", "x"],
            ["--actor", "me"],
            ["--actor", " ", "--reason", "x"],
            ["--actor", "me", "--reason", ""],
        ],
    )
    def test_nobody_acts_without_a_name_and_a_reason(
        self, phoenix: Phoenix, catalog: Catalog, verb: str, arguments: list[str]
    ) -> None:
        release(catalog)
        rollout = open_rollout(catalog)
        assert phoenix(verb, "web", *arguments).exit_code == 2
        assert catalog.rollouts.get(rollout).state == "open"

    def test_a_refusal_exits_with_one(self, phoenix: Phoenix, catalog: Catalog) -> None:
        result = phoenix("halt", "web", "--actor", "ann", "--reason", "x")
        assert result.exit_code == 1
        assert "No rollout of web is under way" in result.stderr
        release(catalog)
        open_rollout(catalog)
        result = phoenix("resume", "web", "--actor", "ann", "--reason", "x")
        assert result.exit_code == 1
        assert "nothing to resume" in result.stderr


class TestLife:
    WHO = ("--actor", "ann", "--reason", "drops sessions")

    def test_pause_is_told_and_shown(self, phoenix: Phoenix, catalog: Catalog) -> None:
        open_rollout(catalog)
        assert phoenix("pause", "web", *self.WHO).stdout == "Rollout 1 of web is open, and paused.\n"
        shown = json.loads(phoenix("status", "web", "--json").stdout)
        assert (shown["rollout"]["paused_by"], shown["rollout"]["paused_reason"]) == ("ann", "drops sessions")
        assert [each["waits"] for each in shown["slots"]] == ["paused by ann: drops sessions"] * 2
        assert "ann: drops sessions" in phoenix("status", "web").stdout
        assert phoenix("resume", "web", *self.WHO).stdout.startswith("Rollout 1 of web is open.\n")

    def test_rollback_blocks_the_release_and_says_how_to_start(self, phoenix: Phoenix, catalog: Catalog) -> None:
        release(catalog, Version(Window(2026, 10), 1))
        release(catalog)
        replace_first(catalog, open_rollout(catalog))
        told = phoenix("rollback", "web", *self.WHO).stdout.splitlines()
        assert told[0] == "base 2026.11-1 is blocked for web; 1 slots that it reached are to run 2026.10-1."
        conf = '{"rollback_of": 1, "release": "2026.10-1", "reason": "drops sessions"}'
        assert told[1] == f"Now start: airflow dags trigger fleet.web --conf '{conf}'"
        shown = json.loads(phoenix("status", "web", "--json").stdout)
        assert [each["version"] for each in shown["blocked"]] == ["2026.11-1"]
        assert shown["rollout"]["state"] == "halted"
        assert "2026.11-1 by ann" in phoenix("status", "web").stdout
        catalog.rollouts.cancel("web", actor="ann", reason="x")
        drawn = json.loads(phoenix("plan", "web", "--json").stdout)
        assert drawn["version"] == "2026.10-1", "what is blocked is not what comes next"
        assert phoenix("unblock", "web", "2026.11-1", *self.WHO).exit_code == 0
        assert json.loads(phoenix("status", "web", "--json").stdout)["blocked"] == []
        assert phoenix("unblock", "web", "2026.11-1", *self.WHO).exit_code == 1

    def test_nothing_to_roll_back(self, phoenix: Phoenix, catalog: Catalog) -> None:
        result = phoenix("rollback", "web", *self.WHO)
        assert result.exit_code == 1
        assert "No rollout of web has replaced anything" in result.stderr

    def test_revoke_halts_and_says_which_runs_to_start(self, phoenix: Phoenix, catalog: Catalog) -> None:
        release(catalog)
        open_rollout(catalog)
        told = phoenix("release", "revoke", "base", "2026.11-1", "--actor", "carol", "--reason", "it's bad").stdout
        lines = told.splitlines()
        assert lines[0] == "base 2026.11-1 is revoked. Halted: web."
        assert [line.split()[5] for line in lines[1:]] == ["fleet.web-staging", "fleet.web"]
        assert """"emergency": "2026.11-1", "reason": "it'"'"'s bad"}'""" in lines[2]
        assert phoenix("resume", "web", *self.WHO).exit_code == 1
        assert phoenix("release", "revoke", "base", "2026.12-1", *self.WHO).exit_code == 1

    def test_a_queue_is_shown_with_what_it_waits_for(self, phoenix: Phoenix, catalog: Catalog) -> None:
        open_rollout(catalog)
        catalog.queue.ask("web", "fleet.web/next", Version(WINDOW, 2), RolloutKind.REFRESH, whole=True)
        assert "fleet.web/next with 2026.11-2 for rollout 1" in phoenix("status", "web").stdout
        (waits,) = json.loads(phoenix("status", "web", "--json").stdout)["queue"]
        assert (waits["run"], waits["version"], waits["kind"]) == ("fleet.web/next", "2026.11-2", "refresh")

    def test_one_slot_by_order(self, phoenix: Phoenix, catalog: Catalog) -> None:
        release(catalog)
        result = phoenix("plan", "web", "--slot", "web-02", "--force")
        assert result.exit_code == 0, result.output
        assert '"slots": ["web-02"], "force": true' in result.stdout
        assert phoenix("plan", "web", "--force").exit_code == 2
