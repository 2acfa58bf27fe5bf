"""Connections without Airflow: from the environment first, then from airflow_settings.yaml, never in a message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from phoenix_fleet.connections import Connection, SettingsFile, from_environment
from phoenix_fleet.domain.errors import InvalidConfig

SETTINGS = """\
airflow:
  connections:
    - conn_id: front
      conn_type: http
      conn_host: 127.0.0.1
      conn_schema:
      conn_login: me
      conn_password: hush
      conn_port: 8480
      conn_extra:
        socket: /run/x.sock
    - conn_id: as_json
      conn_extra: '{"key_file": "/k"}'
    - conn_id: as_uri
      conn_uri: http://u:p%40ss@h:99?scheme=http
  pools: []
  variables: []
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "airflow_settings.yaml"
    path.write_text(SETTINGS)
    return path


def test_the_three_ways_of_the_file(file: Path) -> None:
    connections = SettingsFile(file)
    assert connections("front") == Connection("front", "127.0.0.1", 8480, "me", "hush", {"socket": "/run/x.sock"})
    assert connections("as_json") == Connection("as_json", extra={"key_file": "/k"})
    assert connections("as_uri") == Connection("as_uri", "h", 99, "u", "p@ss", {"scheme": "http"})
    assert sorted(connections.known()) == ["as_json", "as_uri", "front"]


def test_an_unknown_one_names_the_known_and_the_way_out(file: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"no connection 'x' in .*known: as_json, as_uri, front\..*AIRFLOW_CONN_X"):
        SettingsFile(file)("x")


@pytest.mark.parametrize(
    "value",
    [
        json.dumps({"host": "h", "port": "99", "login": "u", "password": "p@ss", "extra": {"scheme": "http"}}),
        json.dumps({"host": "h", "port": 99, "login": "u", "password": "p@ss", "extra": '{"scheme": "http"}'}),
        "http://u:p%40ss@h:99?scheme=http",
        "http://u:p%40ss@h:99?__extra__=%7B%22scheme%22%3A%20%22http%22%7D",
    ],
)
def test_the_environment_wins_in_both_of_airflows_forms(
    file: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FRONT", value)
    assert SettingsFile(file)("front") == Connection("front", "h", 99, "u", "p@ss", {"scheme": "http"})
    assert SettingsFile(file.parent / "absent.yaml")("front").host == "h"


@pytest.mark.parametrize("value", ["{", '{"port": "many"}', '{"extra": "["}', "http://h:port", '{"extra": [1]}'])
def test_a_wrong_variable_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_FRONT", value)
    with pytest.raises(InvalidConfig) as caught:
        from_environment("front")
    assert value not in str(caught.value)
    assert "AIRFLOW_CONN_FRONT" in str(caught.value)


def test_no_variable_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_FRONT", raising=False)
    assert from_environment("front") is None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("conn_id: front", "conn_name: front", ":3: airflow.connections.0: it has no conn_id."),
        ("conn_id: as_json", "conn_id: front", ":12: airflow.connections.1: 'front' is here twice."),
        ("conn_port: 8480", "conn_port: many", ":3: airflow.connections.0: 'front' has a port, extra or URI"),
        ('\'{"key_file": "/k"}\'', "'{'", ":12: airflow.connections.1: 'as_json' has a port, extra or URI"),
    ],
)
def test_a_wrong_entry_names_its_line(file: Path, old: str, new: str, says: str) -> None:
    file.write_text(SETTINGS.replace(old, new))
    with pytest.raises(InvalidConfig) as caught:
        SettingsFile(file)("front")
    assert says in str(caught.value)
    assert "hush" not in str(caught.value)


def test_an_empty_file_of_settings_knows_nothing(file: Path) -> None:
    file.write_text("airflow:\n")
    assert SettingsFile(file).known() == {}


def test_a_connection_never_shows_its_secrets() -> None:
    shown = repr(Connection("x", "h", 1, "me", "hush", {"token": "quiet"}))
    assert "hush" not in shown
    assert "quiet" not in shown
