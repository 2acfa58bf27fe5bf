"""The phoenix command: what it prints, how it exits, and that its errors are messages and never tracebacks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from phoenix_fleet import cli_schema
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.catalog.records import RolloutKind
from phoenix_fleet.cli import app
from phoenix_fleet.config import Project
from phoenix_fleet.domain.ladder import CLIMB
from phoenix_fleet.domain.models import Artefact
from phoenix_fleet.domain.planner import PlannedSlot
from phoenix_fleet.domain.steps import Step
from phoenix_fleet.domain.windows import Version, Window
from tests.unit.projects import COMPONENT, FAMILY, FLEET, STAGING, make_project

WINDOW = Window(2026, 11)
VERSION = Version(WINDOW, 1)
DIGEST = "sha256:" + "ab" * 32
SETTINGS = """\
airflow:
  connections:
    - {conn_id: phoenix_ssh, conn_extra: {key_file: KEY}}
    - {conn_id: front_staging, conn_host: h}
    - {conn_id: registry, conn_host: h}
"""
Phoenix = Callable[..., Result]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    found = make_project(tmp_path)
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAA test\n")
    (tmp_path / "airflow_settings.yaml").write_text(SETTINGS.replace("KEY", str(tmp_path / "key")))
    monkeypatch.setenv("PHOENIX_INCLUDE", str(found.include))
    monkeypatch.setenv("PHOENIX_CATALOG_URL", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PHOENIX_REPORTS", str(tmp_path / "reports"))
    return found


@pytest.fixture
def phoenix(project: Project) -> Phoenix:
    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def catalog(project: Project) -> Iterator[Catalog]:
    with Catalog.from_environment() as found:
        found.migrate()
        yield found


def release(catalog: Catalog, version: Version = VERSION) -> None:
    catalog.images.open_candidate("base", version.window, "inputs", "builder", run=str(version))
    catalog.images.add_artefact("base", version, Artefact("fake", f"registry/base@{DIGEST}", DIGEST))
    for rung in CLIMB[1:]:
        catalog.images.move("base", version, rung, actor="chain")


def open_rollout(catalog: Catalog) -> int:
    slots = [PlannedSlot("web-01", 0, "outdated: 2026.10-1", "old-1"), PlannedSlot("web-02", 1, "empty slot")]
    return catalog.rollouts.open(
        "web", "base", VERSION, WINDOW, "run-1", slots, settings={}, actor="ann", reason="monthly"
    ).id


def replace_first(catalog: Catalog, rollout: int) -> None:
    ticket = catalog.rollouts.claim(rollout, 0, "worker", lease=timedelta(minutes=5), max_in_flight=1)
    assert ticket is not None
    catalog.rollouts.finish(catalog.rollouts.enter(ticket, Step.WATCH, new_instance="new-1"))


def fail_first(catalog: Catalog, rollout: int, reason: str = "2 checks failed") -> None:
    ticket = catalog.rollouts.claim(rollout, 0, "worker", lease=timedelta(minutes=5), max_in_flight=1)
    assert ticket is not None
    catalog.rollouts.fail(catalog.rollouts.enter(ticket, Step.VERIFY), Step.VERIFY, reason)


class TestValidate:
    def test_a_sound_project(self, phoenix: Phoenix) -> None:
        result = phoenix("validate")
        assert result.exit_code == 0, result.output
        assert result.stdout == "Image families: 1 sound. Fleets: 2 sound. In all: no mistakes.\n"
        assert result.stderr == ""

    @pytest.mark.parametrize(
        ("relative", "content", "expected"),
        [
            ("fleets/web.yaml", FLEET.replace("size", "sizee"), "web.yaml:8: sizee: unknown key."),
            ("fleets/web.yaml", FLEET.replace("family: base", "family: bass"), "web.yaml:3: family: there is no image "
             "family 'bass'. Remedy: Did you mean 'base'?"),
            ("fleets/web.yaml", FLEET.replace("released", "certified"), "web.yaml:4: requires: only the staging "
             "fleet of base may say certified, and that is 'web-staging'."),
            ("fleets/web.yaml", FLEET.replace("0 4 1 * *", "0 4 32 * *"), "web.yaml:7: schedule: '0 4 32 * *' is not a "
             "cron expression."),
            ("fleets/web.yaml", FLEET.replace("production", "prod"), "web.yaml:5: environment: there is no "
             "environments/prod.yaml, only certify, production, staging."),
            ("fleets/web.yaml", FLEET.replace("{team: shop}", "{team: shop, webhook: hook}"), "web.yaml:6: "
             "owners.webhook: there is no connection 'hook'"),
            ("fleets/web.yaml", FLEET + "access: {connection: phoenix_shs}\n", "web.yaml:18: access.connection: "
             "there is no connection 'phoenix_shs'"),
            ("fleets/throwaway.yaml", FLEET.replace("fleet: web", "fleet: throwaway"), "throwaway.yaml:2: fleet: this "
             "name is reserved"),
            ("fleets/web-staging.yaml", STAGING.replace("certified", "released"), "image.yaml:15: stage.fleet: "
             "the fleet 'web-staging' takes only released images"),
            ("images/base/image.yaml", FAMILY.replace("fleet: web-staging", "fleet: web-stagin"), "image.yaml:15: "
             "stage.fleet: there is no fleet 'web-stagin'. Remedy: Did you mean 'web-staging'?"),
            ("images/base/image.yaml", FAMILY.replace("packer/fake", "packer/none"), "image.yaml:6: "
             "targets.0.build.template: there is no images/base/packer/none.pkr.hcl."),
            ("images/base/image.yaml", FAMILY.replace("2026-10", "2026-11"), "image.yaml:17: stage.dataset: "
             "there is no images/base/datasets/2026-11."),
            ("images/base/image.yaml", FAMILY.replace("endpoint: front", "endpoint: back"), "image.yaml:16: "
             "stage.endpoint: there is no connection 'back_staging'"),
            ("images/base/image.yaml", FAMILY.replace("[api]", "[api, api]"), "image.yaml:13: components.1: 'api' is "
             "here twice."),
            ("images/base/image.yaml", FAMILY + "schedule: monthly\n", "image.yaml:20: schedule: 'monthly' is not a "),
            ("images/base/image.yaml", FAMILY.replace("gates: [fake]", "gates:\n    - tests: {suite: nowhere}"),
             "image.yaml:19: stage.gates.0.tests.suite: there is no images/base/nowhere."),
            ("images/base/components/api/component.yaml", COMPONENT.replace("role: role", "role: rolle"),
             "component.yaml:3: role: there is no images/base/components/api/rolle."),
            ("images/base/environments/staging.yaml", "api_workers: 1\n", "staging.yaml:1: banner: this key is "
             "missing; it is in certify, production."),
            ("images/base/environments/staging.yaml", "api_workers: 1\nbanner: {text: x}\n", "certify.yaml:2: "
             "banner.text: this key is missing; it is in staging."),
            ("images/base/environments/staging.yaml", "a: [\n", "staging.yaml:2: this is not YAML"),
        ],
    )  # fmt: skip
    def test_one_mistake_is_one_line_with_its_place(
        self, phoenix: Phoenix, project: Project, relative: str, content: str, expected: str
    ) -> None:
        (project.include / relative).write_text(content)
        result = phoenix("validate")
        assert result.exit_code == 1
        lines = [line for line in result.stderr.splitlines() if expected in line]
        assert len(lines) == 1, result.stderr
        assert str(project.include) in lines[0]
        assert " Remedy: " in lines[0]
        assert "mistakes." in result.stdout

    def test_two_fleets_behind_one_backend(self, phoenix: Phoenix, project: Project) -> None:
        for name, text in (("web", FLEET), ("web-staging", STAGING)):
            shared = text.replace("balancer: none", "balancer:\n  fake: {start_reads: 3}")
            (project.include / "fleets" / f"{name}.yaml").write_text(shared)
        result = phoenix("validate")
        assert "balancer: the fleet 'web-staging' is behind the same backend." in result.stderr

    @pytest.mark.parametrize(
        ("web", "staging", "expected"),
        [
            ("[web-stagin]", "[]", "depends_on.0: there is no fleet 'web-stagin'. Remedy: Did you mean 'web-staging'?"),
            ("[web]", "[]", "depends_on.0: it would wait for itself: web → web."),
            ("[web-staging]", "[web]", "depends_on.0: it would wait for itself: web → web-staging → web."),
            ("[web-staging, web-staging]", "[]", "depends_on.1: 'web-staging' is here twice."),
        ],
    )
    def test_a_fleet_depends_on_others_that_exist_and_never_on_itself(
        self, phoenix: Phoenix, project: Project, web: str, staging: str, expected: str
    ) -> None:
        for name, text, others in (("web", FLEET, web), ("web-staging", STAGING, staging)):
            (project.include / "fleets" / f"{name}.yaml").write_text(f"{text}depends_on: {others}\n")
        result = phoenix("validate")
        assert result.exit_code == 1
        assert [line for line in result.stderr.splitlines() if "web.yaml:" in line and expected in line]

    def test_depending_on_another_is_no_mistake(self, phoenix: Phoenix, project: Project) -> None:
        (project.include / "fleets" / "web.yaml").write_text(f"{FLEET}depends_on: [web-staging]\n")
        assert "depends_on" not in phoenix("validate").stderr

    def test_a_family_without_certify_values(self, phoenix: Phoenix, project: Project) -> None:
        (project.include / "images/base/environments/certify.yaml").unlink()
        assert "environments/certify.yaml: there is no such file." in phoenix("validate").stderr

    def test_without_the_settings_file_it_warns_once_and_looks_for_no_connection(
        self, phoenix: Phoenix, project: Project
    ) -> None:
        (project.include.parent / "airflow_settings.yaml").unlink()
        result = phoenix("validate")
        assert result.exit_code == 0
        assert result.stderr.count("warning: ") == 1
        assert "connections were not looked for" in result.stderr

    def test_a_connection_from_the_environment_counts(
        self, phoenix: Phoenix, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = project.include / "fleets/web.yaml"
        path.write_text(FLEET.replace("{team: shop}", "{team: shop, webhook: hook}"))
        monkeypatch.setenv("AIRFLOW_CONN_HOOK", "http://h")
        assert phoenix("validate").exit_code == 0
        monkeypatch.setenv("AIRFLOW_CONN_HOOK", "{hush")
        result = phoenix("validate")
        assert "AIRFLOW_CONN_HOOK is neither" in result.stderr
        assert "hush" not in result.stderr

    def test_files_that_nobody_reads_are_warned_of(self, phoenix: Phoenix, project: Project) -> None:
        (project.include / "fleets/other.yml").write_text(FLEET)
        (project.include / "images/empty").mkdir()
        extra = project.include / "images/base/components/extra"
        extra.mkdir()
        (extra / "component.yaml").write_text(COMPONENT)
        result = phoenix("validate")
        assert result.exit_code == 0
        assert result.stderr.count("warning: ") == 3

    def test_json(self, phoenix: Phoenix, project: Project) -> None:
        (project.include / "fleets/web.yaml").write_text("fleet: [")
        result = phoenix("validate", "--json")
        assert result.exit_code == 1
        assert len(json.loads(result.stdout)["mistakes"]) == 1

    def test_a_folder_that_is_not_there_is_bad_input(self, phoenix: Phoenix, tmp_path: Path) -> None:
        result = phoenix("validate", "--include", str(tmp_path / "absent"))
        assert result.exit_code == 2
        assert "there is no such folder" in result.stderr

    def test_terminal_control_in_a_file_does_not_reach_the_terminal(self, phoenix: Phoenix, project: Project) -> None:
        (project.include / "fleets/web.yaml").write_text('"\\x1b[2J[red]x": 1\n')
        result = phoenix("validate")
        assert "\x1b[2J" not in result.stderr
        assert "[red]x: unknown key" in result.stderr


class TestSchema:
    def test_writing_is_deterministic_and_check_tells_what_is_stale(self, phoenix: Phoenix, tmp_path: Path) -> None:
        folder = tmp_path / "schemas"
        result = phoenix("schema", "--check", "--folder", str(folder))
        assert result.exit_code == 1
        assert result.stdout.count("stale: ") == 3
        assert phoenix("schema", "--folder", str(folder)).stdout.count("written: ") == 3
        assert phoenix("schema", "--check", "--folder", str(folder)).exit_code == 0
        assert phoenix("schema", "--folder", str(folder)).stdout == ""
        (folder / "fleet.json").write_text("{}")
        assert "fleet.json" in phoenix("schema", "--check", "--folder", str(folder)).stdout

    @pytest.mark.parametrize("name", sorted(cli_schema.MODELS))
    def test_a_schema_accepts_what_the_models_accept_and_refuses_unknown_keys(
        self, name: str, project: Project
    ) -> None:
        import jsonschema

        from phoenix_fleet import yamlfile

        files = {
            "fleet": project.include / "fleets/web.yaml",
            "image": project.include / "images/base/image.yaml",
            "component": project.include / "images/base/components/api/component.yaml",
        }
        schema = json.loads(cli_schema.render(name))
        jsonschema.Draft202012Validator.check_schema(schema)
        data = yamlfile.read(files[name]).data
        jsonschema.validate(data, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**data, "unknown": 1}, schema)

    def test_defaults_are_written_as_files_write_them(self) -> None:
        schema = json.loads(cli_schema.render("fleet"))
        assert schema["properties"]["max_age"]["default"] == "35d"
        assert schema["properties"]["size"]["description"]


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
