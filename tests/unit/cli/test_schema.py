"""phoenix schema: what editors are told is what the models accept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phoenix_fleet import cli_schema
from phoenix_fleet.config import Project
from tests.unit.cli.rollouts import Phoenix


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
