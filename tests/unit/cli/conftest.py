from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from phoenix_fleet.catalog import Catalog
from phoenix_fleet.cli import app
from phoenix_fleet.config import Project
from tests.unit.cli.rollouts import Phoenix
from tests.unit.projects import make_project

SETTINGS = """\
airflow:
  connections:
    - {conn_id: phoenix_ssh, conn_extra: {key_file: KEY}}
    - {conn_id: front_staging, conn_host: h}
    - {conn_id: registry, conn_host: h}
"""


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
