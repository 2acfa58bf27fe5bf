"""What the settings file says, and what a machine says differently."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from lab.places import REPOSITORY
from lab.settings import HOST, Overrides, Settings, choose_port, read_environment
from phoenix_fleet.connections import SettingsFile

FILE = REPOSITORY / "airflow_settings.yaml"


def test_the_settings_file_has_every_connection_that_project_files_name() -> None:
    settings = Settings.read(FILE)
    ids = {entry["conn_id"] for entry in settings.connections}
    assert ids >= {"docker", "registry", "haproxy_web", "haproxy_web_staging", "phoenix_ssh", "alerts_webhook"}
    assert {pool["pool_name"] for pool in settings.pools} == {"phoenix_build", "phoenix_instances"}


def test_an_override_is_what_drivers_see_until_it_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HAPROXY_WEB", "")  # so that monkeypatch puts things back
    entry = Settings.read(FILE).connection("haproxy_web")
    overrides = Overrides(tmp_path / "env")
    overrides.connection(entry, port=18480)
    overrides.write()

    again = Overrides.read(tmp_path / "env")
    again.apply()
    connection = SettingsFile(FILE)("haproxy_web")
    assert (connection.host, connection.port) == (HOST, 18480)
    assert connection.extra == entry["conn_extra"]
    assert again.port("haproxy_web") == 18480

    again.forget("haproxy_web")
    assert SettingsFile(FILE)("haproxy_web").port == 8480
    assert again.port("haproxy_web") is None


def test_clearing_forgets_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_REGISTRY", "")
    overrides = Overrides(tmp_path / "env")
    overrides.connection(Settings.read(FILE).connection("registry"), port=15055)
    overrides.apply()
    overrides.clear()
    assert SettingsFile(FILE)("registry").port == 5055


def test_a_free_port_is_kept_and_a_taken_one_is_replaced() -> None:
    with socket.socket() as stranger:
        stranger.bind((HOST, 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        chosen = choose_port(taken)
    assert chosen != taken
    assert choose_port(chosen) == chosen


def test_environment_files_hold_lines_comments_and_blanks(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text('# why\n\nA=1\nB={"x": "a=b"}\n')
    assert read_environment(file) == {"A": "1", "B": '{"x": "a=b"}'}


def test_the_shared_airflow_environment_names_only_settings_that_airflow_knows() -> None:
    from airflow.configuration import conf

    names = read_environment(REPOSITORY / "include" / "airflow.env")
    assert names["AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME"] == "0.1"
    for name in names:
        _, section, key = name.lower().split("__")
        assert key in conf.configuration_description.get(section, {"options": {}})["options"], name
