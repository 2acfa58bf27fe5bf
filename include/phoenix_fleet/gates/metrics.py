"""Whether a new instance does worse than the old ones beside it, as Prometheus saw both over the same watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from phoenix_fleet.config import Frozen
from phoenix_fleet.configfields import Duration
from phoenix_fleet.domain.errors import InvalidConfig
from phoenix_fleet.domain.models import Instance, Subject
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.gates import _promql, _proof
from phoenix_fleet.gates._comparison import Finding, Query, Rules, compare_failures, compare_samples
from phoenix_fleet.gates._prometheus import CannotMeasure, Prometheus, Rule, Series
from phoenix_fleet.gates.base import Gate

_MOST_POINTS = 10_000
"""Per series; Prometheus refuses more than 11,000 (web/api/v1)."""
_IDENTITY = ("{name}", "{address}", "{id}")


class Alert(Frozen):
    """An alert that blocks while it fires."""

    name: str = Field(min_length=1, description="Its alertname.")
    labels: dict[str, str] = Field(default_factory=dict, description="Labels that it must carry. Default: any.")

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an alert of that name is meant."""
        return all(labels.get(name) == value for name, value in self.labels.items())


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Settings(Frozen):
    """What to ask Prometheus, and what would be bad."""

    connection: str = Field("prometheus", description="Connection of Prometheus. Default: prometheus.")
    queries: tuple[Query, ...] = Field((), description="Measures to compare at the end of the watch. Default: none.")
    alerts: tuple[Annotated[Alert, BeforeValidator(_named, json_schema_input_type=str | Alert)], ...] = Field(
        (), description="Alerts that block when they fire, at every look of the watch. Default: none."
    )
    confidence: float = Field(
        0.99,
        ge=0.5,
        lt=1,
        description="How sure it must be that the new one is worse, over all queries together. Default 0.99.",
    )
    label: str = Field(
        "instance",
        pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$",
        description="The label that says which instance a series is about. Default: instance.",
    )
    identity: str = Field(
        "{name}",
        description="The label's value, made of {name}, {address} and {id}: {address}:9100. Default: {name}.",
    )
    alone: Literal["limits", "inconclusive"] = Field(
        "limits", description="When no old instance serves: judge by the limits alone, or not at all. Default: limits."
    )
    step: Duration = Field(
        timedelta(seconds=15), description="Between two samples; not below the scrape interval. Default 15s."
    )
    warm_up: Duration = Field(timedelta(), description="Beginning of the watch that is left out. Default 0s.")
    lookback: Duration = Field(timedelta(hours=1), description="Longest part of a watch that counts. Default 1h.")
    timeout: float = Field(10, gt=0, le=60, description="Seconds that one answer may take. Default 10.")

    @field_validator("identity")
    @classmethod
    def _tells_apart(cls, value: str) -> str:
        if not any(each in value for each in _IDENTITY):
            raise ValueError(f"'{value}' is the same for every instance: write {{name}}, {{address}} or {{id}} in it")
        return value

    @model_validator(mode="after")
    def _sensible(self) -> Settings:
        if not self.queries and not self.alerts:
            raise ValueError("name queries, alerts, or both: it would measure nothing")
        if not self.step or self.lookback / self.step > _MOST_POINTS:
            raise ValueError(f"step: from lookback/{_MOST_POINTS} up, because Prometheus refuses more points")
        return self


@dataclass(frozen=True)
class Watch:
    """Who is compared, and over which time."""

    new: str
    old: tuple[str, ...]
    start: datetime
    end: datetime

    @property
    def seconds(self) -> int:
        """Its length."""
        return int((self.end - self.start).total_seconds())


class Driver(Gate):
    """Failed by a firing alert, a limit, or a test that shows the new instance worse; too little data: inconclusive.

    Before the watch is over only alerts are asked for: a test that is looked at again and again blames the innocent.
    """

    Settings = Settings
    watches: ClassVar[bool] = True

    def measure(self, subject: Subject) -> Measurement:
        """The new instance against ``facts["beside"]`` from ``facts["watched_from"]`` to ``facts["watched_until"]``."""
        over = bool(subject.facts.get("watch_over", True))
        findings: dict[str, Finding] = {}
        asked: dict[str, list[str]] = {}
        errors = []
        try:
            _instance(subject)
            if not over and not self.settings.alerts:
                return Measurement("the watch is not over", None)
            with Prometheus(self.connections(self.settings.connection), self.settings.timeout) as prometheus:
                for part in (self._alerts, self._queries) if over else (self._alerts,):
                    try:
                        part(prometheus, subject, findings, asked)
                    except CannotMeasure as why:
                        errors.append(str(why))
        except (CannotMeasure, InvalidConfig) as why:
            errors.append(str(why))
        return self._measurement(subject, over, findings, asked, errors)

    def _measurement(
        self, subject: Subject, over: bool, findings: Mapping[str, Finding], asked: Any, errors: Sequence[str]
    ) -> Measurement:
        failed = any(each.passed is False for each in findings.values())
        if errors and not failed:
            return Measurement(f"not measured: {errors[0]}", None, error="; ".join(errors))
        passed = all(each.passed for each in findings.values()) and over
        told = [f"{name}: {each.told}" for name, each in findings.items()]
        told += [f"not measured: {each}" for each in errors] + ([] if over else ["the watch is not over"])
        details = {
            "findings": {name: asdict(each) for name, each in findings.items()},
            "asked": asked,
            "errors": list(errors),
            **{name: subject.facts.get(name) for name in ("watched_from", "watched_until", "beside")},
        }
        proof = (_proof.write_json(subject.workdir, "metrics", details),) if over or failed else ()
        return Measurement("; ".join(told), False if failed else passed or None, details, proof)

    # Alerts

    def _alerts(self, prometheus: Prometheus, _: Subject, findings: dict[str, Finding], asked: Any) -> None:
        if not self.settings.alerts:
            return
        rules = prometheus.alerting_rules()
        errors = []
        for alert in self.settings.alerts:
            try:
                findings[f"alert {alert.name}"] = _blocks(alert, [rule for rule in rules if rule.name == alert.name])
            except CannotMeasure as why:
                errors.append(str(why))
        if errors:
            raise CannotMeasure("; ".join(errors))

    # Queries

    def _queries(
        self, prometheus: Prometheus, subject: Subject, findings: dict[str, Finding], asked: dict[str, list[str]]
    ) -> None:
        if not self.settings.queries:
            return
        watch = self._watch(subject)
        # Bonferroni: with each of k queries at alpha/k, all of them together blame a good instance with alpha at most.
        rules = Rules((1 - self.settings.confidence) / len(self.settings.queries), self.settings.alone)
        errors = []
        for number, query in enumerate(self.settings.queries):
            name = query.name if query.name not in findings else f"{query.name} ({number + 1})"
            sent = asked.setdefault(name, [])
            try:
                findings[name] = self._compare(prometheus, query, rules, watch, sent)
            except CannotMeasure as why:
                errors.append(f"{name}: {why}")
        if errors:
            raise CannotMeasure("; ".join(errors))

    def _watch(self, subject: Subject) -> Watch:
        facts = subject.facts
        if facts.get("beside") is None or not facts.get("watched_from") or not facts.get("watched_until"):
            raise CannotMeasure("it is not said who serves beside it since when: queries belong below watch:")
        end = datetime.fromisoformat(facts["watched_until"])
        start = datetime.fromisoformat(facts["watched_from"]) + self.settings.warm_up
        start = max(start, end - self.settings.lookback)
        if end - start < timedelta(seconds=1):
            raise CannotMeasure("the watch is not longer than its warm-up")
        me = _instance(subject)
        new = self._identity({"name": me.name, "address": me.address, "id": me.id})
        old = tuple(self._identity(each) for each in facts["beside"])
        if len({new, *old}) != len(old) + 1:
            raise CannotMeasure(f"identity '{self.settings.identity}' is the same for several instances")
        return Watch(new, old, start, end)

    def _identity(self, instance: Mapping[str, str]) -> str:
        text = str(self.settings.identity)
        for name in ("name", "address", "id"):
            if f"{{{name}}}" in text and not instance.get(name):
                raise CannotMeasure(f"{instance.get('name')} has no {name}")
        return _promql.replace(text, instance)

    def _compare(self, prometheus: Prometheus, query: Query, rules: Rules, watch: Watch, asked: list[str]) -> Finding:
        failed, missing = self._ask(prometheus, query.query, query.kind, watch, asked)
        if missing:
            return Finding(None, missing)
        if query.kind == "samples":
            old = [value for each in watch.old for value in failed.get(each, ())] if watch.old else None
            return compare_samples(query, rules, failed.get(watch.new, ()), old)
        total, missing = self._ask(prometheus, query.total, query.kind, watch, asked)
        if missing:
            return Finding(None, missing)
        pairs = {who: (sum(failed[who]), sum(total[who])) for who in failed.keys() & total.keys()}
        # A counter without a series is no counter at zero: half a pair is none.
        if half := sorted(failed.keys() ^ total.keys()):
            return Finding(None, f"only one of query and total has a series of {', '.join(half[:3])}")
        others = [pairs[who] for who in watch.old if who in pairs] if watch.old else None
        return compare_failures(query, rules, pairs.get(watch.new), others)

    def _ask(
        self, prometheus: Prometheus, template: str, kind: str, watch: Watch, asked: list[str]
    ) -> tuple[dict[str, list[float]], str]:
        """The values by instance, and why they cannot be told apart if so."""
        everybody = (watch.new, *watch.old)
        single = _promql.is_single(template)
        found: dict[str, list[float]] = {}
        for group in [(each,) for each in everybody] if single else [everybody]:
            for series in self._one(prometheus, template, kind, watch, group, asked):
                who = group[0] if single else series.labels.get(self.settings.label)
                if who is None:
                    return {}, f"a series has no label '{self.settings.label}'"
                if who not in group:
                    return {}, f"a series has {self.settings.label}='{who[:100]}', which was not asked for"
                found.setdefault(who, []).extend(series.values)
        return found, ""

    def _one(
        self,
        prometheus: Prometheus,
        template: str,
        kind: str,
        watch: Watch,
        group: Sequence[str],
        asked: list[str],
    ) -> list[Series]:
        try:
            text = _promql.fill(template, group, watch.seconds)
        except ValueError as error:
            raise CannotMeasure(f"an instance's name cannot be a label: {error}") from None
        asked.append(text)
        if kind == "failures":
            return prometheus.instant(text, watch.end)
        return prometheus.between(text, watch.start, watch.end, self.settings.step)


def _instance(subject: Subject) -> Instance:
    if subject.instance is None:
        raise CannotMeasure("there is no instance to measure")
    return subject.instance


def _blocks(alert: Alert, rules: Sequence[Rule]) -> Finding:
    """Failed if it fires.

    :raises CannotMeasure: nobody would notice if it should: there is no such rule, or it does not work.
    """
    firing = [labels for rule in rules for labels in rule.firing if alert.matches(labels)]
    if firing:
        return Finding(False, f"firing ({len(firing)})", {"labels": [dict(each) for each in firing[:20]]})
    if not rules:
        raise CannotMeasure(f"alert {alert.name}: Prometheus has no rule of that name")
    if sick := next((rule for rule in rules if rule.health != "ok"), None):
        raise CannotMeasure(f"alert {alert.name}: its rule is not evaluated well (health {sick.health[:40]})")
    return Finding(True, "not firing")
