"""phoenix reap: under somebody's name, or looking only."""

from __future__ import annotations

from phoenix_fleet.catalog import Catalog
from tests.unit.cli.rollouts import Phoenix


class TestReap:
    def test_it_needs_a_name_and_a_reason(self, phoenix: Phoenix, catalog: Catalog) -> None:
        for arguments in ((), ("--actor", "ann"), ("--reason", "look", "--actor", " ")):
            result = phoenix("reap", "web", *arguments)
            assert result.exit_code == 2
            assert "is empty" in result.output

    def test_a_dry_run_writes_nothing(self, phoenix: Phoenix, catalog: Catalog) -> None:
        before = catalog.events.head()
        result = phoenix("reap", "web", "--dry-run")
        assert (result.exit_code, result.output) == (0, "Nothing of web was left behind.\n")
        assert catalog.events.head() == before

    def test_a_run_is_recorded_under_its_name(self, phoenix: Phoenix, catalog: Catalog) -> None:
        for name in ("web", "base"):
            assert phoenix("reap", name, "--actor", "ann", "--reason", "after the outage").exit_code == 0
        fleet, family = (catalog.events.list_events(f"fleets/{each}/reaper/")[0] for each in ("web", "throwaway"))
        assert (fleet.actor, fleet.payload["reason"]) == ("ann", "after the outage")
        assert family.subject == "fleets/throwaway/reaper/base/fake/"

    def test_an_unknown_name(self, phoenix: Phoenix, catalog: Catalog) -> None:
        result = phoenix("reap", "shop", "--dry-run")
        assert result.exit_code == 2
        assert "There is no fleet 'shop'" in result.output
