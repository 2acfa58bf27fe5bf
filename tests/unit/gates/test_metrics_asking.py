"""How the metrics gate asks: answers that are none, servers that are away, credentials, and what it refuses to ask."""

from __future__ import annotations

import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from phoenix_fleet import drivers
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import Subject
from phoenix_fleet.domain.verdicts import Verdict, judge
from tests.contract.gates_fixtures import free_port
from tests.unit.gates.oracle import FAILED, LATENCY, NEW, STEADY, Body, Oracle, a_gate, measure, rules, samples, success
from tests.unit.gates.service import serving

GOOD = samples(web_01_new=STEADY, web_02_old=STEADY)


@pytest.mark.parametrize(
    ("answer", "status", "why"),
    [
        (b"<html>", 200, "not JSON"),
        (b"[" * 100_000, 200, "not JSON"),
        (b"[]", 200, "not JSON"),
        (b" " * (8 * 1024 * 1024 + 1), 200, "larger than"),
        (GOOD, 503, "status 503"),
        (GOOD, 302, "status 302"),
        ({"status": "error", "errorType": "bad_data", "error": "parse error"}, 400, "parse error"),
        ({**GOOD, "status": "error"}, 200, "no success"),
        ({**GOOD, "warnings": ["a store is away"]}, 200, "in part only: ['a store is away']"),
        ({"status": "success", "data": {"resultType": "scalar", "result": [1, "1"]}}, 200, "gives a scalar"),
        ({"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}, "values": [1]}]}}, 200, ""),
        ({"status": "success", "data": {"resultType": "matrix", "result": [{"metric": [], "values": []}]}}, 200, ""),
        ({"status": "success", "data": None}, 200, "form"),
        (success("matrix", ({"instance": "web-01-new"}, ["fast"])), 200, "form"),
        (success("matrix", ({"instance": "web-01-new"}, [1])), 200, "form"),
    ],
)
def test_an_answer_that_is_none_is_an_error_and_never_passed(
    oracle: Oracle, tmp_path: Path, answer: Body, status: int, why: str
) -> None:
    oracle.answers["query_range"] = lambda _: answer
    oracle.status = status
    measurement = measure(oracle, tmp_path, queries=[LATENCY])

    assert judge(measurement) is Verdict.ERROR
    assert why in measurement.error
    assert not measurement.artefacts


def test_a_prometheus_that_is_away_slow_or_drips_is_an_error(oracle: Oracle, tmp_path: Path) -> None:
    away = a_gate(Connection("prometheus", "127.0.0.1", free_port(), extra={"scheme": "http"}), tmp_path, alerts=["A"])
    assert "cannot be asked" in away.measure(Subject("x", str(tmp_path), instance=NEW)).error

    def never(_: dict[str, str]) -> Body:
        time.sleep(0.5)
        return GOOD

    oracle.answers["query_range"] = never
    assert "does not answer within 0.1 s" in measure(oracle, tmp_path, timeout=0.1, queries=[LATENCY]).error
    with serving() as start:
        service = start(answer=drip)
        connection = replace(oracle.connection, port=service.port)
        gate = a_gate(connection, tmp_path, timeout=0.3, alerts=["A"])
        assert "no whole answer within 0.3 s" in gate.measure(Subject("x", str(tmp_path), instance=NEW)).error


def drip(handler: BaseHTTPRequestHandler, _: int) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        return


def test_credentials_go_where_they_belong_and_nothing_unverified_is_spoken_to(oracle: Oracle, tmp_path: Path) -> None:
    oracle.answers["rules"] = lambda _: rules()
    subject = Subject("x", str(tmp_path), instance=NEW)
    plain = oracle.connection
    for connection, sent in (
        (replace(plain, extra={"scheme": "http", "token": "t0ken"}), "Bearer t0ken"),
        (replace(plain, login="me", password="pw"), "Basic bWU6cHc="),
    ):
        assert judge(a_gate(connection, tmp_path, alerts=["HighErrors"]).measure(subject)) is Verdict.PASSED
        assert oracle.asked[-1][2] == sent
    assert a_gate(replace(plain, extra={}), tmp_path, alerts=["A"]).measure(subject).error, "https is the default"
    for wrong in (
        replace(plain, host=""),
        replace(plain, extra={"scheme": "ftp"}),
        replace(plain, extra={"ca_file": "/nonexistent"}),
    ):
        assert "connection 'prometheus'" in a_gate(wrong, tmp_path, alerts=["A"]).measure(subject).error


@pytest.mark.parametrize(
    ("facts", "values", "why"),
    [
        ({"beside": None}, {}, "belong below watch"),
        ({"watched_from": None}, {}, "belong below watch"),
        ({}, {"warm_up": "5m"}, "not longer than its warm-up"),
        ({"beside": [{"name": "x", "address": "", "id": "1"}]}, {"identity": "{address}"}, "x has no address"),
        ({"beside": [{"name": "web-01-new", "address": "a", "id": "1"}]}, {}, "the same for several"),
        ({"beside": [{"name": "\ud800", "address": "a", "id": "1"}]}, {}, "cannot be a label"),
    ],
)
def test_a_watch_that_is_not_known_is_an_error(
    oracle: Oracle, tmp_path: Path, facts: dict[str, Any], values: dict[str, Any], why: str
) -> None:
    assert why in measure(oracle, tmp_path, facts=facts, queries=[LATENCY], **values).error
    assert not oracle.asked


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"alerts": ["A"], "identity": "web"},
        {"alerts": ["A"], "step": "0s"},
        {"alerts": ["A"], "step": "1s", "lookback": "1d"},
        {"queries": [{**LATENCY, "query": "up"}]},
        {"queries": [{**LATENCY, "query": 'up{instance=~"{instances}"}'}]},
        {"queries": [{**LATENCY, "query": "up{instance=~{instances}} + up{instance={instance}}"}]},
        {"queries": [{**LATENCY, "total": FAILED["total"]}]},
        {"queries": [{**FAILED, "total": ""}]},
        {"queries": [{**FAILED, "worse": "lower"}]},
        {"queries": [{**LATENCY, "minimum_samples": 7}]},
        {"queries": [{**LATENCY, "limit": float("nan")}]},
    ],
)
def test_settings_that_could_measure_nothing_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        drivers.load("gates", "metrics").Settings.model_validate(values)
