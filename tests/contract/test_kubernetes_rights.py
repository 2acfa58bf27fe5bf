"""The shipped roles are exactly what is used: every call is covered, and every rule is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.workloads import kubernetes
from tests.contract.kubernetes_api import leading_to, serving
from tests.contract.nodes_lab import NodesLab
from tests.contract.workloads_labs import KubernetesLab, intent_for

ROLES = Path(__file__).resolve().parents[2] / "include" / "phoenix_fleet" / "workloads" / "rbac"


def granted(name: str) -> set[tuple[str, str]]:
    """(verb, resource) of every rule in that file."""
    found = set()
    for each in yaml.safe_load_all((ROLES / name).read_text()):
        for rule in each.get("rules") or []:
            found |= {(verb, resource) for verb in rule["verbs"] for resource in rule["resources"]}
    return found


def test_workloads() -> None:
    with serving() as server:
        lab = KubernetesLab({name: leading_to(server.url, name) for name in ("admin", "phoenix")})
        kinds = ("Deployment", "StatefulSet", "DaemonSet")
        for kind in kinds:
            lab.make(f"app-{kind.lower()}", kind)
        for kind in kinds:
            lab.api.merge(f"{lab.collection(kind)}/app-{kind.lower()}", {"metadata": {"labels": {"tier": "all"}}})
        entries = [{"namespace": lab.namespace, "kind": kind, "selector": "tier=all"} for kind in kinds]
        settings = kubernetes.Settings.model_validate(
            {"connection": "phoenix", "workloads": entries, "take_over": True}
        )
        driver = kubernetes.Driver(settings, lab.connections)
        server.used.clear()
        places = driver.list_workloads("shop")
        for place in places:
            first, second = intent_for("shop"), intent_for("shop", "c", attempt=2)
            driver.start(place.id, first, dry_run=True)
            driver.start(place.id, first)
            driver.settle(place.id, first.token)
            driver.start(place.id, second)
            driver.progress(place.id)
            driver.undo(place.id, second.token)
        assert len(places) == len(kinds)
        assert server.used == granted("workloads.yaml")


@pytest.mark.parametrize("policy", ["policy/v1", "policy/v1beta1"])
def test_nodes(policy: str) -> None:
    with serving(policy) as server:
        lab = NodesLab({name: leading_to(server.url, name) for name in ("admin", "phoenix")})
        who = lab.instance()
        lab.start_pod(who)
        server.used.clear()
        lab.balancer.admit(who)
        lab.balancer.drain(who)
        lab.balancer.state(who)
        used = set(server.used)
        lab.set_ready(who, False)
        server.used.clear()
        lab.balancer.remove(replace(who, state=InstanceState.GONE))
        # Which version evictions have is asked of the discovery that everybody may read.
        assert used | server.used == granted("nodes.yaml")
