"""phoenix validate: one mistake is one line with its place and its remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phoenix_fleet.config import Project
from tests.unit.cli.rollouts import Phoenix
from tests.unit.projects import COMPONENT, FAMILY, FLEET, STAGING


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
