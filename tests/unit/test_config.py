"""Families, components and fleets as files: what they say when right, and what is said of them when wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from phoenix_fleet import config, configfields
from phoenix_fleet.config import Fleet, ImageFamily, Project
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.rollout.planning import _thaw as thaw
from phoenix_fleet.rollout.planning import calendar_of, freeze
from tests.unit.projects import FAMILY, FLEET, make_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


def refused(project: Project, relative: str, content: str) -> list[str]:
    """The lines that loading says of that file with that content, without its path."""
    path = project.include / relative
    path.write_text(content)
    with pytest.raises(InvalidConfig) as caught:
        (project.load_family if path.name == "image.yaml" else project.load_fleet)(path)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


def test_a_fleet_file_with_defaults_and_settings(project: Project) -> None:
    fleet = project.fleet("web")
    assert (fleet.name, fleet.kind, fleet.family, fleet.size) == ("web", "fleet", "base", 4)
    assert fleet.slots == ["web-01", "web-02", "web-03", "web-04"]
    assert fleet.home == project.include / "fleets"
    assert fleet.required_rung is Rung.RELEASED
    assert fleet.platform == config.Driver(name="fake", settings={"boot_reads": 2})
    assert fleet.balancer.name == "none"
    assert fleet.max_age == timedelta(days=35)
    assert fleet.drain.limit == timedelta(seconds=60)
    assert fleet.waves == ("50%", "100%")
    assert fleet.timeouts.ready == timedelta(minutes=5)
    assert project.fleet("web-staging").required_rung is Rung.CERTIFIED


def test_a_fleet_of_a_hundred_has_three_digits(project: Project) -> None:
    text = FLEET.replace("size: 4", "size: 100")
    (project.include / "fleets/web.yaml").write_text(text)
    slots = project.fleet("web").slots
    assert (slots[0], slots[-1], len(set(slots))) == ("web-001", "web-100", 100)


def test_a_family_file(project: Project) -> None:
    family = project.family("base")
    assert (family.name, family.kind, family.platforms) == ("base", "image family", ["fake"])
    assert family.home == project.include / "images" / "base"
    assert family.target("fake").build.timeout == timedelta(minutes=30)
    with pytest.raises(InvalidConfig, match="base is not built for mars: only for fake"):
        family.target("mars")


def test_an_environment_has_all_components_with_absolute_paths(project: Project) -> None:
    family = project.family("base")
    environment = family.environment("staging")
    assert environment.name == "staging"
    assert environment.variables == {"api_workers": 1, "banner": "rehearsal"}
    (component,) = environment.components
    assert (component.name, component.version) == ("api", "1.10")
    assert component.role == str(family.home / "components" / "api" / "role")
    assert component.unit_tests == ("python3", "-m", "pytest")


@pytest.mark.parametrize("name", ["../../../etc/passwd", "UPPER", "", "a b", "-x", "a/b"])
def test_hostile_names_reach_no_file(project: Project, name: str) -> None:
    with pytest.raises(InvalidConfig):
        project.fleet(name)
    with pytest.raises(InvalidConfig):
        project.family(name)
    with pytest.raises(InvalidConfig, match="no name of an environment"):
        project.family("base").environment(name)


def test_an_unknown_name_gets_the_nearest_one(project: Project) -> None:
    with pytest.raises(InvalidConfig, match=r"no fleet 'wbe'.*known: web, web-staging\. Remedy: Did you mean 'web'\?"):
        project.fleet("wbe")
    with pytest.raises(InvalidConfig, match=r"no image family 'zzz'.*Use one of those"):
        project.family("zzz")


FLEET_MISTAKES = [
    ("size: 4", "size: 0", "8: size: 0 is too small."),
    ("size: 4", "size: true", "8: size: this must be a whole number, not True."),
    ("size: 4", "size: '4'", "8: size: this must be a whole number, not '4'."),
    ("size: 4\n", "", "2: size: this key is missing. Remedy: Add it. It means: How many slots"),
    ("fleet: web", "fleet: Web!", "2: fleet: 'Web!' does not have the right form."),
    ("fleet: web", "fleet: other", "2: fleet: the file calls itself 'other' but lies where 'web' belongs."),
    ("environment: production", "environment: ../x", "5: environment: '../x' does not have the right form."),
    ("policy: fail", "policy: fayl", "17: drain.policy: 'fayl' is none of fail, later, force. Remedy: Did you mean"),
    ("limit: 60s", "limit: 1 minute", "17: drain.limit: '1 minute' is not a duration: write 30s, 5m, 2h or 35d."),
    ("limit: 60s", "limitt: 60s", "17: drain.limitt: unknown key. Remedy: Did you mean 'limit'?"),
    ("boot_reads: 2", "boot_read: 2", "10: platform.fake.boot_read: unknown key. Remedy: Did you mean 'boot_reads'?"),
    ("boot_reads: 2", "boot_reads: many", "10: platform.fake.boot_reads: this must be a whole number, not 'many'."),
    ("boot_reads: 2", "boot_reads: -1", "10: platform.fake.boot_reads: -1 is too small. Remedy: Write at least 0."),
    ("  fake: {boot_reads: 2}", "  fake: 7", "10: platform.fake: this must be a mapping of keys, not 7."),
    ("platform:\n  fake: {boot_reads: 2}", "platform: fkae", "9: platform: There is no 'fkae' among the platforms:"),
    ("  fake: {boot_reads: 2}", "  fkae: {}", "10: platform.fkae: There is no 'fkae' among the platforms:"),
    ("  fake: {boot_reads: 2}", "  fake: {}\n  none: {}", "9: platform: write a driver's name, or one name with"),
    ("platform:\n  fake: {boot_reads: 2}", "platform: [fake]", "9: platform: write a driver's name, or one name with"),
    ("{verdict: passed}", "{verdict: psased}", "13: verify.0.fake.verdict: 'psased' is none of passed,"),
    ("{verdict: passed}", "\n      value: x\n      valuee: y", "15: verify.0.fake.valuee: unknown key."),
    ("  - fake: {verdict: passed}", "  - base", "13: verify.0: There is no 'base' among the gates:"),
    ("waves: [50%, 100%]", "waves: [50%]", "15: waves: the last wave must be 100%"),
    ("waves: [50%, 100%]", "waves: []", "15: waves: the last wave must be 100%"),
    ("waves: [50%, 100%]", "waves: [60%, 2, 100%]", "15: waves: shares are cumulative"),
    ("waves: [50%, 100%]", "waves: [120%, 100%]", "15: waves.0: '120%' is more than all"),
    ("waves: [50%, 100%]", "waves: [half, 100%]", "15: waves.0: 'half' is not a portion"),
    ("waves: [50%, 100%]", "waves: 100%", "15: waves: this must be a list, not '100%'."),
    ("canary: 1", "canary: -1", "14: canary: '-1' is not a portion"),
    ("owners: {team: shop}", "owners: {}", "6: owners.team: this key is missing."),
    ("owners: {team: shop}", "owners: {team: shop, slack: x}", "6: owners.slack: unknown key."),
    ("requires: released", "requires: staged", "4: requires: 'staged' is none of certified, released."),
]  # fmt: skip


def test_a_misspelt_required_key_is_told_as_unknown_and_as_missing(project: Project) -> None:
    messages = refused(project, "fleets/web.yaml", FLEET.replace("size: 4", "sizee: 4"))
    assert [message.split(" Remedy")[0] for message in messages] == [
        "2: size: this key is missing.",
        "8: sizee: unknown key.",
    ]
    assert messages[1].endswith("Did you mean 'size'?")


@pytest.mark.parametrize(("old", "new", "expected"), FLEET_MISTAKES)
def test_a_wrong_fleet_file_names_line_field_and_remedy(project: Project, old: str, new: str, expected: str) -> None:
    assert old in FLEET
    (message,) = refused(project, "fleets/web.yaml", FLEET.replace(old, new))
    assert message.startswith(expected)
    assert " Remedy: " in message


FAMILY_MISTAKES = [
    ("suite: book", "suit: book", 1, "7: targets.0.build.seed.suit: unknown key. Remedy: Did you mean 'suite'?"),
    ("template: packer/fake.pkr.hcl", "templatee: x", 2, "6: targets.0.build.templatee: unknown key."),
    ("components: [api]", "components: [apy]", 1, "13: components.0: there is no components/apy/component.yaml. "
     "Remedy: Did you mean 'api'?"),
    ("components: [api]", "components: []", 1, "13: components: this must not be empty."),
    ("components: [api]", "components: ['../x']", 1, "13: components.0: '../x' does not have the right form."),
    ("  - fake: {suite: x}", "  - fake: {suite: x}", 1, "12: test.0.fake.suite: unknown key."),
    ("timeout: 7d", "timeout: week", 1, "19: approval.timeout: 'week' is not a duration"),
    ("family: base", "family: bass", 1, "2: family: the file calls itself 'bass' but lies where 'base' belongs."),
    ("check: true", "check: sometimes", 1, "10: reboot_check: this must be true or false, not 'sometimes'."),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "count", "expected"), FAMILY_MISTAKES)
def test_a_wrong_family_file_names_line_field_and_remedy(
    project: Project, old: str, new: str, count: int, expected: str
) -> None:
    base = FAMILY.replace("  - fake\n", "  - fake: {suite: x}\n") if "suite: x" in old else FAMILY
    assert old in base
    messages = refused(project, "images/base/image.yaml", base.replace(old, new))
    assert len(messages) == count
    assert any(message.startswith(expected) and " Remedy: " in message for message in messages)


def test_a_wrong_component_is_told_with_its_own_file(project: Project) -> None:
    path = project.include / "images/base/components/api/component.yaml"
    path.write_text(path.read_text().replace('"1.10"', "1.10").replace("component: api", "component: front"))
    with pytest.raises(InvalidConfig) as caught:
        project.family("base")
    assert str(caught.value) == (
        f"{path}:2: version: this must be text, not 1.1. Remedy: Quote it if YAML takes it for something else. "
        "It means: The component's own version, quoted."
    )
    path.write_text(path.read_text().replace("1.10", "'1.10'"))
    with pytest.raises(InvalidConfig, match=r"component.yaml:1: component: the file calls itself 'front'"):
        project.family("base")


def test_broken_names_every_wrong_file_and_no_other(project: Project) -> None:
    assert project.broken() == {}
    wrong = project.include / "fleets/web.yaml"
    wrong.write_text("fleet: [")
    assert list(project.broken()) == [wrong]


def test_the_project_is_found_by_environment_or_beside_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PHOENIX_INCLUDE", str(tmp_path))
    assert Project.find().include == tmp_path
    monkeypatch.delenv("PHOENIX_INCLUDE")
    assert Project.find().include == Path(config.__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("written", "seconds"), [("0s", 0), ("30s", 30), ("5m", 300), ("2h", 7200), ("35d", 3024000), ("90m", 5400)]
)
def test_durations_read_and_write_the_same(written: str, seconds: int) -> None:
    drain = config.Drain(limit=written)  # type: ignore[arg-type]
    assert drain.limit == timedelta(seconds=seconds)
    assert config.Drain.model_validate(drain.model_dump(mode="json")) == drain
    assert configfields.duration_text(timedelta(minutes=90)) == "90m"


@pytest.mark.parametrize("wrong", ["5", "5 m", "-5m", "1.5h", "", None, 5, True, "5w", "9999999d", "\u0665m"])
def test_what_is_no_duration(wrong: Any) -> None:
    with pytest.raises(ValidationError, match="is not a duration"):
        config.Drain(limit=wrong)


@pytest.mark.parametrize(
    ("written", "total", "up", "expected"),
    [
        ("25%", 4, True, 1),
        ("25%", 5, True, 2),
        ("25%", 5, False, 1),
        ("0%", 5, True, 0),
        ("100%", 7, False, 7),
        ("3", 2, True, 2),
        ("3", 10, False, 3),
        ("29%", 100, True, 29),
        ("7%", 100, False, 7),
        ("58%", 100, True, 58),
    ],
)
def test_portions(written: str, total: int, up: bool, expected: int) -> None:
    assert config.portion(written, total, up=up) == expected


@given(st.integers(0, 100), st.integers(0, 10_000), st.booleans())
def test_a_share_is_exact_to_the_machine(percent: int, total: int, up: bool) -> None:
    exact, rest = divmod(percent * total, 100)
    assert config.portion(f"{percent}%", total, up=up) == exact + (1 if up and rest else 0)


def test_the_frozen_settings_of_a_rollout_give_the_same_fleet_back(project: Project) -> None:
    fleet = project.fleet("web")
    again = Fleet.model_validate({**fleet.model_dump(mode="json"), **_drivers(fleet)})
    assert again == fleet


def _drivers(fleet: Fleet) -> dict[str, Any]:
    """Drivers as files write them, since a dump has name and settings apart."""

    def one(driver: config.Driver) -> dict[str, Any]:
        return {driver.name: driver.settings}

    return {
        "platform": one(fleet.platform), "balancer": one(fleet.balancer), "configurator": one(fleet.configurator),
        "verify": [one(gate) for gate in fleet.verify], "watch": [one(gate) for gate in fleet.watch],
    }  # fmt: skip


@pytest.mark.parametrize("model", [Fleet, ImageFamily, config.ComponentFile])
def test_every_field_of_every_model_is_described(model: type[config.Frozen]) -> None:
    waiting: list[Any] = [model]
    seen: set[Any] = set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        assert current.model_config["extra"] == "forbid"
        assert current.model_config["frozen"]
        for name, field in current.model_fields.items():
            inner = yaml_model(field)
            if inner:
                waiting.append(inner)
            assert field.description or inner, f"{current.__name__}.{name} has no description"


def yaml_model(field: Any) -> Any:
    from phoenix_fleet.yamlmistakes import _model_in

    return _model_in(field)


CALENDAR = """
deadline: 10d
when_late: refuse
maintenance:
  - {days: [tue, thu], opens: "22:00", closes: "04:00", zone: Europe/Berlin}
  - {opens: "12:00", closes: "13:00"}
freezes:
  - {begins: "2026-12-20 00:00", ends: "2027-01-02 00:00", zone: Europe/Berlin, reason: Christmas sales}
waivers:
  - {slot: web-03, owner: alice, reason: licence dongle, until: 2026-12-31}
quota: {at_once: 4, launches_per_hour: 60}
"""


def test_deadline_windows_freezes_waivers_and_quota(project: Project) -> None:
    (project.include / "fleets/web.yaml").write_text(FLEET + CALENDAR)
    fleet = project.fleet("web")
    calendar = calendar_of(fleet)
    assert str(calendar.windows[0]) == "tue, thu 22:00-04:00 Europe/Berlin"
    assert str(calendar.windows[1]) == "every day 12:00-13:00 UTC"
    assert calendar.freezes[0].begins.astimezone(UTC) == datetime(2026, 12, 19, 23, tzinfo=UTC)
    (waiver,) = fleet.waivers
    assert (waiver.ends, str(waiver)) == (
        datetime(2026, 12, 31, tzinfo=UTC), "waived until 2026-12-31 by alice: licence dongle"
    )  # fmt: skip
    assert fleet.deadline == timedelta(days=10)
    frozen = json.loads(json.dumps(freeze(fleet)))
    assert Fleet.model_validate(thaw(frozen)) == fleet, "a rollout keeps it as JSON"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("22:00", "22h"), "'22h' is not a time of day: write 22:00"),
        (("[tue, thu]", "[]"), "maintenance.0.days"),
        (("Europe/Berlin}\n  - {opens", "Berlin}\n  - {opens"), "'Berlin' is not a time zone: write its IANA name"),
        (("2026-12-20 00:00", "2027-12-20 00:00"), "a freeze must end after it begins"),
        (("2026-12-20 00:00", "2026-12-20"), "'2026-12-20' is not a moment: write 2026-12-20 00:00"),
        (("2026-12-31", "soon"), "'soon' is not a day: write 2026-12-31"),
        (("web-03", "web-33"), "the fleet has no slot web-33: its slots are web-01 to web-04"),
        (("at_once: 4", "at_once: 0"), "quota.at_once"),
    ],
)
def test_mistakes_in_them_are_told(project: Project, changed: tuple[str, str], said: str) -> None:
    lines = refused(project, "fleets/web.yaml", FLEET + CALENDAR.replace(*changed))
    assert said in "\n".join(lines)


def test_what_a_family_has_not_itself_is_what_all_families_share(project: Project) -> None:
    home, common = (project.include / "images" / name for name in ("base", "common"))
    (common / "components").mkdir(parents=True)
    (home / "components" / "api").rename(common / "components" / "api")
    (home / "environments").rename(common / "environments")
    (home / "environments").mkdir()
    (home / "environments" / "staging.yaml").write_text("api_workers: 2\nbanner: own\n")

    family = project.family("base")
    assert family.component("api").role == str(common / "components" / "api" / "role")
    assert family.environment("production").variables["banner"] == "shop"
    assert family.environment("staging").variables["banner"] == "own"
    names = [path.relative_to(project.include).as_posix() for path in family.files("environments/*.yaml")]
    assert names == [
        "images/common/environments/certify.yaml",
        "images/common/environments/production.yaml",
        "images/base/environments/staging.yaml",
    ]


WORKLOADS = FLEET.replace("platform:\n  fake: {boot_reads: 2}", "workload:\n  fake: {workloads: [a, b, c, d]}")


def test_a_fleet_of_workloads(project: Project) -> None:
    (project.include / "fleets/web.yaml").write_text(WORKLOADS)
    fleet = project.fleet("web")
    assert fleet.platform is None
    assert fleet.runs_on == config.Driver(name="fake", settings={"workloads": ["a", "b", "c", "d"]})
    assert fleet.artefact_platform == "fake"
    assert Fleet.model_validate(thaw(freeze(fleet))) == fleet


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("workload:\n  fake: {workloads: [a, b, c, d]}\n", ""), "nothing says where it runs"),
        (("workload:", "platform: fake\nworkload:"), "only one of platform and workload"),
        (("balancer: none", "balancer: fake"), "balancer: it has no meaning beside workload"),
        (("max_surge: 1", "max_surge: 0"), "revisions stand beside each other"),
        (("workload:\n  fake:", "workload:\n  kubernetez:"), "Did you mean 'kubernetes'?"),
        (("  fake: {workloads: [a, b, c, d]}", "  kubernetes: {workloads: [{namespace: x}]}"), "name or selector"),
    ],
)
def test_what_does_not_go_with_workloads_is_told(project: Project, change: tuple[str, str], told: str) -> None:
    assert told in " ".join(refused(project, "fleets/web.yaml", WORKLOADS.replace(*change)))
