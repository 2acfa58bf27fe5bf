"""What the metrics gate makes of good, bad, odd and hostile answers; a tiny server stands in for Prometheus."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from phoenix_fleet import drivers
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import Instance, InstanceState, Subject
from phoenix_fleet.domain.verdicts import Measurement, Verdict, judge
from phoenix_fleet.gates import _promql
from phoenix_fleet.gates.base import Gate
from tests.contract.gates_fixtures import free_port
from tests.unit.gates.service import Service, serving

NEW = Instance("id-9", "web-01-new", "web", "web-01", "2026.11-1", "9" * 32, InstanceState.RUNNING, "10.0.0.9")
OLD = [{"id": f"id-{n}", "name": f"web-0{n}-old", "address": f"10.0.0.{n}"} for n in (2, 3)]
FACTS = {
    "watched_from": "2026-11-25T10:00:00+00:00",
    "watched_until": "2026-11-25T10:05:00+00:00",
    "watch_over": True,
    "beside": OLD,
}
LATENCY = {"name": "latency", "kind": "samples", "query": "latency_seconds{instance=~{instances}}"}
FAILED = {
    "name": "failed requests",
    "kind": "failures",
    "query": "sum by (instance) (increase(bad{instance=~{instances}}[{window}]))",
    "total": "increase(all{instance=~{instances}}[{window}])",
}
Body = dict[str, Any] | bytes


class Oracle:
    """A server that gives each path the answer it is told to, and keeps what it was asked."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.answers: dict[str, Callable[[dict[str, str]], Body]] = {}
        self.asked: list[tuple[str, dict[str, str], str]] = []
        self.status = 200

    @property
    def connection(self) -> Connection:
        return Connection("prometheus", "127.0.0.1", self.service.port, extra={"scheme": "http"})

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        path, _, query = handler.path.partition("?")
        size = int(handler.headers.get("Content-Length") or 0)
        form = {name: each[0] for name, each in parse_qs(handler.rfile.read(size).decode() or query).items()}
        self.asked.append((path, form, handler.headers.get("Authorization", "")))
        body = self.answers[path.rpartition("/")[2]](form)
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(self.status)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)


@contextmanager
def an_oracle() -> Iterator[Oracle]:
    with serving() as start:
        held: list[Oracle] = []
        service = start(answer=lambda handler, number: held[0](handler))
        held.append(Oracle(service))
        yield held[0]


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    with an_oracle() as found:
        yield found


def success(kind: str, *series: tuple[dict[str, str], list[Any]]) -> dict[str, Any]:
    name = "values" if kind == "matrix" else "value"
    result = [
        {"metric": labels, name: [[1, v] for v in values] if kind == "matrix" else [1, values[0]]}
        for labels, values in series
    ]
    return {"status": "success", "data": {"resultType": kind, "result": result}}


def samples(**by_name: list[float]) -> dict[str, Any]:
    pairs = [({"instance": name.replace("_", "-")}, list(map(str, values))) for name, values in by_name.items()]
    return success("matrix", *pairs)


def rules(*alerts: tuple[str, str, dict[str, str]], health: str = "ok", name: str = "HighErrors") -> dict[str, Any]:
    found = [{"labels": {"alertname": each, **labels}, "state": state} for each, state, labels in alerts]
    rule = {"type": "alerting", "name": name, "health": health, "alerts": found}
    return {"status": "success", "data": {"groups": [{"rules": [rule]}]}}


def a_gate(connection: Connection, work: Path, **values: Any) -> Gate:
    kind = drivers.load("gates", "metrics")
    gate: Gate = kind(kind.Settings.model_validate(values), lambda _: connection, work)
    return gate


def measure(oracle: Oracle, work: Path, *, facts: dict[str, Any] | None = None, **values: Any) -> Measurement:
    return a_gate(oracle.connection, work, **values).measure(
        Subject("web-01-new", str(work), instance=NEW, facts={**FACTS, **(facts or {})})
    )


STEADY = [0.10 + 0.001 * (n % 7) for n in range(20)]
SLOW = [value + 0.05 for value in STEADY]


def test_a_slower_instance_fails_one_alike_passes_and_both_are_asked_for_the_same_time(
    oracle: Oracle, tmp_path: Path
) -> None:
    oracle.answers["query_range"] = lambda _: samples(web_01_new=SLOW, web_02_old=STEADY, web_03_old=STEADY)
    slow = measure(oracle, tmp_path, queries=[LATENCY])
    oracle.answers["query_range"] = lambda _: samples(web_01_new=STEADY, web_02_old=STEADY, web_03_old=STEADY)
    alike = measure(oracle, tmp_path, queries=[LATENCY])

    assert (judge(slow), judge(alike)) == (Verdict.FAILED, Verdict.PASSED)
    assert "latency: median 0.153 of 20, old 0.103 of 40: worse" in slow.value
    assert len(oracle.asked) == 2, "one question about all, so that all are seen over the same time"
    form = oracle.asked[0][1]
    assert form["query"] == 'latency_seconds{instance=~"web-01-new|web-02-old|web-03-old"}'
    assert (float(form["end"]) - float(form["start"]), form["step"]) == (300, "15")
    assert json.loads(Path(slow.artefacts[0]).read_text())["asked"] == {"latency": [form["query"]]}


@pytest.mark.parametrize(
    ("change", "new", "verdict"),
    [
        ({"tolerance": 0.6}, SLOW, Verdict.PASSED),
        ({"tolerance": 0.4}, SLOW, Verdict.FAILED),
        ({"worse": "lower"}, SLOW, Verdict.PASSED),
        ({"worse": "lower"}, [v - 0.05 for v in STEADY], Verdict.FAILED),
        ({"limit": 0.1}, STEADY, Verdict.FAILED),
        ({"limit": 0.2}, STEADY, Verdict.PASSED),
        ({}, STEADY[:19], Verdict.INCONCLUSIVE),
        ({}, [*SLOW[:15], *[float("nan")] * 5], Verdict.INCONCLUSIVE),
        ({}, [*STEADY, float("inf")], Verdict.INCONCLUSIVE),
        ({}, [], Verdict.INCONCLUSIVE),
    ],
)
def test_margin_direction_limit_and_too_little(
    oracle: Oracle, tmp_path: Path, change: dict[str, Any], new: list[float], verdict: Verdict
) -> None:
    oracle.answers["query_range"] = lambda _: samples(web_01_new=new, web_02_old=STEADY, web_03_old=STEADY)
    measurement = measure(oracle, tmp_path, queries=[{**LATENCY, **change}])

    assert (judge(measurement), measurement.error) == (verdict, ""), measurement.value
    json.dumps(dict(measurement.details), allow_nan=False)


@pytest.mark.parametrize(
    ("alone", "limit", "verdict"),
    [
        ("limits", 0.2, Verdict.PASSED),
        ("limits", 0.1, Verdict.FAILED),
        ("limits", None, Verdict.INCONCLUSIVE),
        ("inconclusive", 0.2, Verdict.INCONCLUSIVE),
        ("inconclusive", 0.1, Verdict.FAILED),
    ],
)
def test_with_nobody_old_the_limits_judge_and_it_is_said(
    oracle: Oracle, tmp_path: Path, alone: str, limit: float | None, verdict: Verdict
) -> None:
    oracle.answers["query_range"] = lambda _: samples(web_01_new=STEADY)
    query = {**LATENCY, "limit": limit}
    measurement = measure(oracle, tmp_path, facts={"beside": []}, alone=alone, queries=[query])

    assert judge(measurement) is verdict
    assert ("no old instance serves" in measurement.value) is (verdict is not Verdict.FAILED)


def test_old_ones_that_serve_without_samples_are_not_nobody(oracle: Oracle, tmp_path: Path) -> None:
    oracle.answers["query_range"] = lambda _: samples(web_01_new=STEADY)
    assert judge(measure(oracle, tmp_path, queries=[{**LATENCY, "limit": 0.2}])) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("new", "old", "change", "verdict", "told"),
    [
        ((30, 300), (5, 300), {}, Verdict.FAILED, "30 of 300 failed (10.00%), old 10 of 600 (1.67%): worse"),
        ((5.4, 300), (5, 300), {}, Verdict.PASSED, "not shown to be worse"),
        ((1, 100), (0, 2500), {}, Verdict.PASSED, "not shown to be worse"),
        ((30, 300), (5, 300), {"tolerance": 9}, Verdict.PASSED, "not shown"),
        ((5, 300), (5, 300), {"limit": 0.01}, Verdict.FAILED, "beyond the limit"),
        ((0, 10), (0, 300), {}, Verdict.INCONCLUSIVE, "10 samples"),
        ((0, 300), (0, 5), {}, Verdict.INCONCLUSIVE, "10 samples of the old"),
        ((9, 3), (0, 300), {}, Verdict.INCONCLUSIVE, "more failed requests than requests"),
        ((float("nan"), 300), (0, 300), {}, Verdict.INCONCLUSIVE, "not a number"),
    ],
)
def test_counts_of_failures(
    oracle: Oracle,
    tmp_path: Path,
    new: tuple[float, float],
    old: tuple[float, float],
    change: dict[str, Any],
    verdict: Verdict,
    told: str,
) -> None:
    def counts(form: dict[str, str]) -> dict[str, Any]:
        which = 0 if "bad" in form["query"] else 1
        assert "[300s]" in form["query"]
        values = {"web-01-new": new[which], "web-02-old": old[which], "web-03-old": old[which]}
        return success("vector", *(({"instance": who}, [str(value)]) for who, value in values.items()))

    oracle.answers["query"] = counts
    measurement = measure(oracle, tmp_path, queries=[{**FAILED, **change}])

    assert (judge(measurement), measurement.error) == (verdict, "")
    assert told in measurement.value
    json.dumps(dict(measurement.details), allow_nan=False)


def test_a_counter_that_is_not_there_is_not_a_counter_at_zero(oracle: Oracle, tmp_path: Path) -> None:
    every = [({"instance": who}, ["300"]) for who in ("web-01-new", "web-02-old", "web-03-old")]
    oracle.answers["query"] = lambda form: success("vector", *(every[1:] if "bad" in form["query"] else every))
    measurement = measure(oracle, tmp_path, queries=[FAILED])

    assert judge(measurement) is Verdict.INCONCLUSIVE
    assert "only one of query and total has a series of web-01-new" in measurement.value


@pytest.mark.parametrize("labels", [{}, {"job": "web"}, {"instance": "somebody-else"}])
def test_a_series_of_nobody_asked_for_is_inconclusive(oracle: Oracle, tmp_path: Path, labels: dict[str, str]) -> None:
    values = list(map(str, STEADY))
    oracle.answers["query_range"] = lambda _: success("matrix", ({"instance": "web-01-new"}, values), (labels, values))
    assert judge(measure(oracle, tmp_path, queries=[LATENCY])) is Verdict.INCONCLUSIVE


def test_one_question_an_instance_needs_no_label(oracle: Oracle, tmp_path: Path) -> None:
    def one(form: dict[str, str]) -> dict[str, Any]:
        return success("matrix", ({}, [str(v) for v in (SLOW if '"10.0.0.9:80"' in form["query"] else STEADY)]))

    oracle.answers["query_range"] = one
    query = {**LATENCY, "query": "avg(latency_seconds{instance={instance}})"}
    measurement = measure(oracle, tmp_path, queries=[query], identity="{address}:80")

    assert judge(measurement) is Verdict.FAILED
    assert [form["query"].split('"')[1] for _, form, _ in oracle.asked] == ["10.0.0.9:80", "10.0.0.2:80", "10.0.0.3:80"]


@pytest.mark.parametrize(
    ("answer", "verdict", "told"),
    [
        (rules(("HighErrors", "firing", {"fleet": "web"})), Verdict.FAILED, "firing (1)"),
        (rules(("HighErrors", "firing", {"fleet": "shop"})), Verdict.PASSED, "not firing"),
        (rules(("HighErrors", "pending", {"fleet": "web"})), Verdict.PASSED, "not firing"),
        (rules(name="Other"), Verdict.ERROR, "no rule of that name"),
        (rules(health="err"), Verdict.ERROR, "health err"),
        ({"status": "success", "data": {"groups": [{}]}}, Verdict.ERROR, "form"),
    ],
    ids=["firing", "another fleet's", "pending", "no such rule", "broken rule", "odd"],
)
def test_alerts(oracle: Oracle, tmp_path: Path, answer: Body, verdict: Verdict, told: str) -> None:
    oracle.answers["rules"] = lambda _: answer
    measurement = measure(oracle, tmp_path, alerts=[{"name": "HighErrors", "labels": {"fleet": "web"}}])

    assert judge(measurement) is verdict
    assert told in measurement.value


def test_before_the_end_only_alerts_are_asked_for_and_only_they_decide(oracle: Oracle, tmp_path: Path) -> None:
    oracle.answers["rules"] = lambda _: rules()
    early = {"watch_over": False}
    assert judge(measure(oracle, tmp_path, facts=early, alerts=["HighErrors"], queries=[LATENCY])) is (
        Verdict.INCONCLUSIVE
    )
    oracle.answers["rules"] = lambda _: rules(("HighErrors", "firing", {}))
    assert judge(measure(oracle, tmp_path, facts=early, alerts=["HighErrors"], queries=[LATENCY])) is Verdict.FAILED
    assert {path for path, *_ in oracle.asked} == {"/api/v1/rules"}
    asked = len(oracle.asked)
    assert judge(measure(oracle, tmp_path, facts=early, queries=[LATENCY])) is Verdict.INCONCLUSIVE
    assert len(oracle.asked) == asked, "nothing to ask yet"


def test_a_firing_alert_blocks_even_when_nothing_else_can_be_measured(oracle: Oracle, tmp_path: Path) -> None:
    oracle.answers["rules"] = lambda _: rules(("HighErrors", "firing", {}))
    oracle.answers["query_range"] = lambda _: b"nonsense"
    measurement = measure(oracle, tmp_path, alerts=["HighErrors", "Unknown"], queries=[LATENCY])

    assert judge(measurement) is Verdict.FAILED
    assert "not measured" in measurement.value


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


def unquoted(literal: str) -> str:
    """What Go's strconv.Unquote makes of what we write."""
    assert literal[0] == literal[-1] == '"'
    out, rest = "", literal[1:-1]
    while rest:
        assert rest[0] not in '"\n', "it broke out"
        if rest[:2] == "\\x":
            out, rest = out + chr(int(rest[2:4], 16)), rest[4:]
        elif rest[0] == "\\":
            assert rest[1] in '\\"'
            out, rest = out + rest[1], rest[2:]
        else:
            out, rest = out + rest[0], rest[1:]
    return out


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_name_breaks_out_of_its_literal(name: str) -> None:
    assert unquoted(_promql.quoted(name)) == name
    hostile = name + '"} or vector(0) # {window} {instances}'
    assert _promql.fill("up{instance={instance}}", [hostile], 1) == f"up{{instance={_promql.quoted(hostile)}}}"
