"""The metrics gate on a real Prometheus that watches a shop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phoenix_fleet.domain.models import Subject
from phoenix_fleet.domain.verdicts import Measurement, Verdict, judge
from tests.contract.gates_prometheus import BAD, GOOD, Shop
from tests.contract.gates_world import NEAR_MISS, build


def watched(shop: Shop, work: Path, name: str, **settings: Any) -> Measurement:
    gate = build("metrics", {**shop.settings, **settings}, shop.connections, work)
    return gate.measure(Subject(name, str(work), instance=shop.instance(name), facts=shop.watch()))


@pytest.mark.prometheus
def test_counted_failures_are_compared(shop: Shop, tmp_path: Path) -> None:
    good, bad = (watched(shop, tmp_path, name, queries=[shop.failures]) for name in (GOOD, BAD))

    assert (judge(good), good.error) == (Verdict.PASSED, "")
    assert (judge(bad), bad.error) == (Verdict.FAILED, "")
    assert "worse (p = " in bad.value
    new, old = (bad.details["findings"]["failed requests"]["details"][side] for side in ("new", "old"))
    assert new[0] / new[1] == pytest.approx(0.5, abs=0.1)
    assert old[1] > new[1], "both old ones are counted"


@pytest.mark.prometheus
def test_a_firing_alert_blocks_a_pending_one_does_not_and_a_name_without_a_rule_is_an_error(
    shop: Shop, tmp_path: Path
) -> None:
    verdicts = {
        name: judge(watched(shop, tmp_path, GOOD, queries=[], alerts=[name]))
        for name in ("Burning", "Smouldering", "Calm", "Nonesuch")
    }
    assert verdicts == {
        "Burning": Verdict.FAILED,
        "Smouldering": Verdict.PASSED,
        "Calm": Verdict.PASSED,
        "Nonesuch": Verdict.ERROR,
    }
    elsewhere = {"name": "Burning", "labels": {"fleet": "elsewhere"}}
    assert judge(watched(shop, tmp_path, GOOD, queries=[], alerts=[elsewhere])) is Verdict.PASSED


@pytest.mark.prometheus
@pytest.mark.parametrize(
    ("query", "verdict", "told"),
    [
        ("absent_metric{instance=~{instances}}", Verdict.INCONCLUSIVE, "no samples of the new instance"),
        ("avg(latency_seconds{instance=~{instances}})", Verdict.INCONCLUSIVE, "no label 'instance'"),
        ("latency_seconds{instance=~{instances}} / 0 * 0", Verdict.INCONCLUSIVE, "no samples of the new instance"),
        ("latency_seconds{instance=~{instances}} / 0", Verdict.INCONCLUSIVE, "infinite"),
        ("latency_seconds{instance=~{instances}", Verdict.ERROR, "parse error"),
    ],
)
def test_what_prometheus_does_not_know_never_passes(
    shop: Shop, tmp_path: Path, query: str, verdict: Verdict, told: str
) -> None:
    measurement = watched(shop, tmp_path, GOOD, queries=[{**shop.latency, "query": query}])

    assert judge(measurement) is verdict
    assert told in measurement.value


@pytest.mark.prometheus
def test_hostile_names_are_names_to_prometheus(shop: Shop, tmp_path: Path) -> None:
    """Were one of them to break out, the query would be another one, with series or an error."""
    gate = build("metrics", {**shop.settings, "queries": [shop.latency]}, shop.connections, tmp_path)
    for name in (
        '"} or latency_seconds{instance!="',
        ".*",
        "a|web-01-good",
        "\\",
        "\n",
        "\x00\x7f",
        "é日",
        "$1",
        NEAR_MISS,
    ):
        facts = {**shop.watch(), "beside": []}
        instance = replace(shop.instance(GOOD), name=name)
        measurement = gate.measure(Subject("hostile", str(tmp_path), instance=instance, facts=facts))
        assert (judge(measurement), measurement.error) == (Verdict.INCONCLUSIVE, ""), name
        assert "no samples of the new instance" in measurement.value
