"""phoenix plan: every slot with its reason, and nothing is changed."""

from __future__ import annotations

import json

from phoenix_fleet.catalog import Catalog
from tests.unit.cli.rollouts import Phoenix, release


class TestPlan:
    def test_a_dry_run_shows_every_slot_with_its_reason_and_changes_nothing(
        self, phoenix: Phoenix, catalog: Catalog
    ) -> None:
        release(catalog)
        before = catalog.events.head()
        found = json.loads(phoenix("plan", "web", "--json").stdout)
        assert found["version"] == "2026.11-1"
        assert [(each["slot"], each["wave"], each["reason"]) for each in found["replace"]] == [
            ("web-01", 0, "empty slot"),
            ("web-02", 1, "empty slot"),
            ("web-03", 2, "empty slot"),
            ("web-04", 2, "empty slot"),
        ]
        assert (found["verdict"]["pace"], found["waived"]) == (1, {})
        text = phoenix("plan", "web", "--slot", "web-03").stdout
        assert "done about " in text
        assert "pace: 1 at once: " in text
        assert "web to 2026.11-1: 1 replacements" in text
        assert "web-03" in text
        assert "web-01" not in text
        assert catalog.events.head() == before
        assert catalog.rollouts.list_rollouts("web") == []

    def test_what_it_refuses(self, phoenix: Phoenix, catalog: Catalog) -> None:
        result = phoenix("plan", "web")
        assert (result.exit_code, "base has no released image" in result.stderr) == (1, True)
        release(catalog)
        result = phoenix("plan", "web", "--slot", "web-99")
        assert (result.exit_code, "no slot web-99" in result.stderr) == (2, True)
        result = phoenix("plan", "web", "--release", "latest")
        assert (result.exit_code, "not an image version" in result.stderr) == (2, True)
        assert phoenix("plan", "web", "--release", "2026.11-9").exit_code == 1
        assert phoenix("plan", "wbe").exit_code == 2
