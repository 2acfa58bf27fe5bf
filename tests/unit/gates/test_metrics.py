"""What the metrics gate makes of good, bad and odd answers; a tiny server stands in for Prometheus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.domain.verdicts import Verdict, judge
from tests.unit.gates.oracle import FAILED, LATENCY, SLOW, STEADY, Body, Oracle, measure, rules, samples, success


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
