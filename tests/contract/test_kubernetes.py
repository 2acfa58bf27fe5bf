"""What is Kubernetes' own about its workloads: whose fields are whose, three kinds, pods, and the way there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    InvalidConfig,
    InvalidSpec,
    NotFound,
    NotOurs,
    Throttled,
    Unavailable,
)
from phoenix_fleet.kubernetesapi import Clusters, Conflict
from phoenix_fleet.workloads import kubernetes
from tests.contract.kubernetes_api import ApiServer, leading_to, serving
from tests.contract.machinery import KnownConnections, free_port
from tests.contract.workloads_labs import REPLICAS, KubernetesLab, digest, intent_for, reference

KINDS = ("Deployment", "StatefulSet", "DaemonSet")


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with serving() as found:
        yield found


@pytest.fixture
def lab(server: ApiServer) -> KubernetesLab:
    """On the stand-in alone: for what a test orders there."""
    return KubernetesLab({name: leading_to(server.url, name) for name in ("admin", "phoenix")})


def driver_of(lab: KubernetesLab, *entries: dict[str, Any], **settings: Any) -> kubernetes.Driver:
    told = {
        "connection": "phoenix",
        "workloads": [{"namespace": lab.namespace, **entry} for entry in entries],
        "take_over": True,
        **settings,
    }
    return kubernetes.Driver(kubernetes.Settings.model_validate(told), lab.connections)


class TestFields:
    def test_all_that_is_not_ours_stays(self, kubernetes_lab: KubernetesLab) -> None:
        (one, _) = kubernetes_lab.driver.list_workloads("shop")
        before = kubernetes_lab.get()["spec"]
        kubernetes_lab.driver.start(one.id, intent_for("shop"))
        after = kubernetes_lab.get()["spec"]
        assert after["template"]["spec"]["containers"][0].pop("image") == reference("b")
        assert before["template"]["spec"]["containers"][0].pop("image") == reference("a")
        assert after["template"]["metadata"]["labels"].pop("phoenix.version") == "2026.11-1"
        assert after == before

    def test_undone_the_template_is_what_it_was(self, kubernetes_lab: KubernetesLab) -> None:
        (one, _) = kubernetes_lab.driver.list_workloads("shop")
        before = kubernetes_lab.get()["spec"]
        intent = intent_for("shop")
        kubernetes_lab.driver.start(one.id, intent)
        kubernetes_lab.driver.undo(one.id, intent.token)
        assert kubernetes_lab.get()["spec"] == before

    def test_the_cause_is_told_to_whoever_asks_for_the_history(self, kubernetes_lab: KubernetesLab) -> None:
        (one, _) = kubernetes_lab.driver.list_workloads("shop")
        kubernetes_lab.driver.start(one.id, intent_for("shop"))
        cause = kubernetes_lab.get()["metadata"]["annotations"]["kubernetes.io/change-cause"]
        assert cause == "phoenix-fleet: shop 2026.11-1 by rollout-1"

    @pytest.mark.parametrize("rehearsed", [True, False])
    def test_an_image_that_somebody_else_owns_is_only_taken_over_by_order(
        self, kubernetes_lab: KubernetesLab, rehearsed: bool
    ) -> None:
        careful = kubernetes_lab.again(take_over=False)
        (one, _) = careful.list_workloads("shop")
        before = kubernetes_lab.truth()
        with pytest.raises(Conflict, match=r"somebody else owns .*image.* Remedy: .*take_over: true"):
            careful.start(one.id, intent_for("shop"), dry_run=rehearsed)
        assert kubernetes_lab.truth() == before

    def test_once_taken_over_it_is_ours(self, kubernetes_lab: KubernetesLab) -> None:
        (one, _) = kubernetes_lab.driver.list_workloads("shop")
        first, second = intent_for("shop"), intent_for("shop", "c", attempt=2)
        kubernetes_lab.driver.start(one.id, first)
        kubernetes_lab.driver.settle(one.id, first.token)
        kubernetes_lab.again(take_over=False).start(one.id, second)
        assert kubernetes_lab.image() == reference("c")

    def test_the_registry_may_have_another_name_for_nodes(self, lab: KubernetesLab) -> None:
        driver = lab.again(pulls_from="registry.cluster:443")
        driver.start(driver.list_workloads("shop")[0].id, intent_for("shop"))
        assert lab.image() == f"registry.cluster:443/shop@{digest('b')}"

    def test_an_object_that_changes_between_read_and_write_is_read_again(
        self, lab: KubernetesLab, server: ApiServer
    ) -> None:
        (one, _) = lab.driver.list_workloads("shop")
        path, left = f"{lab.collection()}/one", [3]

        def interfere(method: str, called: str) -> None:
            if method == "PATCH" and called == path and left[0]:
                left[0] -= 1
                server.objects[path]["metadata"]["resourceVersion"] = server._next()

        server.broken = interfere
        lab.driver.start(one.id, intent_for("shop"))
        assert lab.image() == reference("b")
        left[0] = 10**6
        with pytest.raises(Unavailable):
            lab.driver.undo(one.id, intent_for("shop").token)


class TestSelection:
    def test_by_labels_and_by_name(self, kubernetes_lab: KubernetesLab) -> None:
        kubernetes_lab.label("one", tier="front")
        kubernetes_lab.label("two", tier="front")
        kubernetes_lab.make("zero")
        driver = driver_of(kubernetes_lab, {"name": "zero"}, {"selector": "tier=front"})
        assert [each.id.split("/")[3] for each in driver.list_workloads("shop")] == ["zero", "one", "two"]

    def test_nothing_is_an_empty_list_and_not_everything(self, kubernetes_lab: KubernetesLab) -> None:
        assert list(driver_of(kubernetes_lab, {"selector": "tier=none"}).list_workloads("shop")) == []

    def test_a_stranger_among_them_is_an_error(self, kubernetes_lab: KubernetesLab) -> None:
        kubernetes_lab.label("one", tier="front")
        kubernetes_lab.label("two", tier="front")
        kubernetes_lab.disown("two")
        with pytest.raises(NotOurs, match="two"):
            driver_of(kubernetes_lab, {"selector": "tier=front"}).list_workloads("shop")

    def test_one_that_is_selected_twice_is_an_error(self, lab: KubernetesLab) -> None:
        with pytest.raises(InvalidConfig, match="twice"):
            driver_of(lab, {"name": "one"}, {"name": "one"}).list_workloads("shop")

    def test_every_page_is_read(self, lab: KubernetesLab, server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("phoenix_fleet.kubernetesapi.PAGE", 2)
        for number in range(5):
            lab.make(f"w{number}")
            lab.label(f"w{number}", tier="many")
        driver = driver_of(lab, {"selector": "tier=many"})
        assert len(driver.list_workloads("shop")) == 5
        server.broken = lambda method, path: 503 if server.calls[-1][2].get("continue") else None
        with pytest.raises(Unavailable):
            driver.list_workloads("shop")

    def test_several_containers_need_a_name(self, lab: KubernetesLab) -> None:
        containers = [{"name": name, "image": reference("a")} for name in ("shop", "proxy")]
        template = {"metadata": {"labels": {"app": "both"}}, "spec": {"containers": containers}}
        lab.make("both", template=template)
        unnamed = driver_of(lab, {"name": "both"})
        place = unnamed.list_workloads("shop")[0]
        with pytest.raises(InvalidSpec, match="2 containers: shop, proxy"):
            unnamed.progress(place.id)
        driver_of(lab, {"name": "both", "container": "proxy"}).start(place.id, intent_for("shop"))
        images = [each["image"] for each in lab.get("both")["spec"]["template"]["spec"]["containers"]]
        assert images == [reference("a"), reference("b")]


class TestProgress:
    @pytest.mark.parametrize("kind", KINDS)
    def test_each_kind_rolls_settles_and_goes_back(self, kubernetes_lab: KubernetesLab, kind: str) -> None:
        kubernetes_lab.make("app", kind)
        driver = driver_of(kubernetes_lab, {"name": "app", "kind": kind})
        place = driver.list_workloads("shop")[0]
        assert driver.progress(place.id).complete
        first, second = intent_for("shop"), intent_for("shop", "c", attempt=2)
        driver.start(place.id, first)
        assert not driver.progress(place.id).complete
        kubernetes_lab.finish("app", kind)
        assert driver.progress(place.id).complete
        driver.settle(place.id, first.token)
        driver.start(place.id, second)
        driver.undo(place.id, second.token)
        kubernetes_lab.finish("app", kind)
        progress = driver.progress(place.id)
        assert (progress.complete, progress.current.key) == (True, first.token)
        assert (progress.desired, progress.available) == (REPLICAS, REPLICAS)

    def test_a_status_of_an_earlier_generation_says_nothing(self, lab: KubernetesLab) -> None:
        (one, _) = lab.driver.list_workloads("shop")
        lab.driver.start(one.id, intent_for("shop"))
        progress = lab.driver.progress(one.id)
        assert (progress.updated, progress.complete, progress.available) == (0, False, REPLICAS)

    def test_old_pods_that_are_left_are_no_end(self, lab: KubernetesLab) -> None:
        (one, _) = lab.driver.list_workloads("shop")
        lab.driver.start(one.id, intent_for("shop"))
        lab.finish()
        lab.set_status("one", replicas=REPLICAS + 1)
        assert not lab.driver.progress(one.id).complete

    @pytest.mark.parametrize(
        ("conditions", "told"),
        [
            ([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}], "DeadlineExceeded"),
            ([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"}], "quota"),
        ],
    )
    def test_a_deployment_says_that_it_is_stuck(
        self, lab: KubernetesLab, conditions: list[dict[str, str]], told: str
    ) -> None:
        (one, _) = lab.driver.list_workloads("shop")
        lab.driver.start(one.id, intent_for("shop"))
        lab.finish()
        lab.set_status("one", conditions=conditions)
        assert told in lab.driver.progress(one.id).failure

    @pytest.mark.parametrize(
        ("restarts", "reason", "fails"),
        [
            (1, "CrashLoopBackOff", False),
            (3, "CrashLoopBackOff", True),
            (0, "ImagePullBackOff", True),
            (0, "ErrImagePull", False),
            (0, "ContainerCreating", False),
            (0, "CreateContainerConfigError", True),
        ],
    )
    def test_a_pod_that_waits_for_what_will_not_come(
        self, lab: KubernetesLab, restarts: int, reason: str, fails: bool
    ) -> None:
        (one, _) = lab.driver.list_workloads("shop")
        lab.driver.start(one.id, intent_for("shop"))
        lab.add_pod(restartCount=restarts, state={"waiting": {"reason": reason, "message": "why"}})
        assert (reason in lab.driver.progress(one.id).failure) is fails

    def test_a_pod_with_the_old_image_says_nothing_of_the_roll(self, lab: KubernetesLab) -> None:
        (one, _) = lab.driver.list_workloads("shop")
        lab.driver.start(one.id, intent_for("shop"))
        lab.add_pod(letter="a", restartCount=9, state={"waiting": {"reason": "CrashLoopBackOff"}})
        assert lab.driver.progress(one.id).failure == ""

    def test_what_pods_really_run_is_told(self, lab: KubernetesLab) -> None:
        (one, _) = lab.driver.list_workloads("shop")
        lab.driver.start(one.id, intent_for("shop"))
        for letter in ("b", "f", "b"):
            lab.add_pod(imageID=f"docker-pullable://registry.test/shop@{digest(letter)}")
        assert lab.driver.progress(one.id).running == digest("f")

    def test_the_minimum_is_the_strategys(self, lab: KubernetesLab) -> None:
        lab.make("wide", replicas=6, strategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "34%"}})
        driver = driver_of(lab, {"name": "wide"})
        assert driver.progress(driver.list_workloads("shop")[0].id).minimum == 4


class TestBadInput:
    @pytest.mark.parametrize(
        ("kind", "spec", "told"),
        [
            ("Deployment", {"strategy": {"type": "Recreate"}}, "not RollingUpdate"),
            ("Deployment", {"paused": True}, "paused"),
            ("StatefulSet", {"updateStrategy": {"type": "OnDelete"}}, "not RollingUpdate"),
            (
                "StatefulSet",
                {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}},
                "partition of 1",
            ),
            ("DaemonSet", {"updateStrategy": {"type": "OnDelete"}}, "not RollingUpdate"),
        ],
    )
    def test_what_does_not_roll_by_itself_is_refused(
        self, kubernetes_lab: KubernetesLab, kind: str, spec: dict[str, Any], told: str
    ) -> None:
        kubernetes_lab.make("app", kind, **spec)
        driver = driver_of(kubernetes_lab, {"name": "app", "kind": kind})
        place = driver.list_workloads("shop")[0]
        with pytest.raises(InvalidSpec, match=told):
            driver.start(place.id, intent_for("shop"), dry_run=True)

    def test_an_image_without_a_digest_is_refused(self, kubernetes_lab: KubernetesLab) -> None:
        kubernetes_lab.make("app", image="registry.test:5000/shop:latest")
        driver = driver_of(kubernetes_lab, {"name": "app"})
        place = driver.list_workloads("shop")[0]
        with pytest.raises(InvalidSpec, match="names no digest"):
            driver.start(place.id, intent_for("shop"))

    def test_a_forbidden_verb_is_known_from_the_rehearsal(self, lab: KubernetesLab, server: ApiServer) -> None:
        (one, _) = lab.driver.list_workloads("shop")
        server.forbidden.add(("patch", "deployments"))
        with pytest.raises(AuthenticationFailed, match=r"cannot patch .*docs/platforms/kubernetes"):
            lab.driver.start(one.id, intent_for("shop"), dry_run=True)

    def test_one_of_the_same_name_later_is_another_one(self, kubernetes_lab: KubernetesLab) -> None:
        (one, _) = kubernetes_lab.driver.list_workloads("shop")
        kubernetes_lab.remove()
        kubernetes_lab.make("one")
        before = kubernetes_lab.truth()
        with pytest.raises(NotFound, match="uid"):
            kubernetes_lab.driver.start(one.id, intent_for("shop"))
        assert kubernetes_lab.truth() == before

    @pytest.mark.parametrize(
        "entry",
        [
            {"namespace": "shop"},
            {"namespace": "shop", "name": "a", "selector": "app=a"},
            {"namespace": "../..", "name": "a"},
            {"namespace": "shop", "name": "a/b"},
            {"namespace": "shop", "name": "a", "kind": "Job"},
        ],
    )
    def test_an_entry_that_cannot_be_meant_is_refused(self, entry: dict[str, str]) -> None:
        with pytest.raises(ValueError, match="validation error"):
            kubernetes.Settings.model_validate({"workloads": [entry]})


class TestTheWayThere:
    def test_answers_become_our_errors(self, lab: KubernetesLab, server: ApiServer) -> None:
        for status, expected in ((401, AuthenticationFailed), (429, Throttled), (503, Unavailable), (500, Unavailable)):
            server.broken = lambda method, path, code=status: code
            with pytest.raises(expected):
                lab.driver.list_workloads("shop")

    def test_a_lost_reply_is_no_word_on_what_happened(self, lab: KubernetesLab, server: ApiServer) -> None:
        (one, _) = lab.driver.list_workloads("shop")
        server.lost.add("PATCH")
        with pytest.raises(Unavailable):
            lab.driver.start(one.id, intent_for("shop"))
        assert lab.image() == reference("b")
        generation = lab.get()["metadata"]["generation"]
        lab.driver.start(one.id, intent_for("shop"))
        assert lab.get()["metadata"]["generation"] == generation

    def test_nobody_there_is_unavailable(self) -> None:
        clusters = Clusters(KnownConnections(leading_to(f"http://127.0.0.1:{free_port()}")))
        with pytest.raises(Unavailable, match="does not answer"):
            clusters("kubernetes_default").get("/api/v1/nodes")

    @pytest.mark.parametrize(
        ("extra", "told"),
        [
            ({}, "nothing that leads to a cluster"),
            ({"in_cluster": True}, "Service host/port is not set"),
            ({"in_cluster": True, "kube_config_path": "/x"}, "only one of"),
            ({"kube_config_path": "/nowhere/config"}, "Invalid kube-config"),
            ({"kube_config": "{"}, "Expecting"),
            ({"cluster_context": "prod"}, "prod"),
            ({"disable_verify_ssl": True}, "anybody could answer"),
        ],
    )
    def test_a_connection_that_leads_nowhere_is_told_of(self, extra: dict[str, Any], told: str) -> None:
        whole = (
            leading_to("https://127.0.0.1:1").extra if set(extra) & {"cluster_context", "disable_verify_ssl"} else {}
        )
        clusters = Clusters(KnownConnections(Connection("kube", extra={**whole, **extra})))
        with pytest.raises(InvalidConfig, match=told):
            clusters("kube")

    def test_a_cluster_without_verified_tls_is_refused(self) -> None:
        told = json.loads(leading_to("https://127.0.0.1:1").extra["kube_config"])
        told["clusters"][0]["cluster"]["insecure-skip-tls-verify"] = True
        clusters = Clusters(KnownConnections(Connection("kube", extra={"kube_config": told})))
        with pytest.raises(InvalidConfig, match="TLS is not verified"):
            clusters("kube")

    def test_a_token_goes_over_https_alone(self) -> None:
        known = KnownConnections(
            Connection("plain", host="http://kube.test", password="secret"),
            Connection("good", host="kube.test", port=6443, password="secret"),
        )
        with pytest.raises(InvalidConfig, match="https") as caught:
            Clusters(known)("plain")
        assert "secret" not in str(caught.value)
        cluster = Clusters(known)("good")
        headers: dict[str, str] = {}
        cluster._client.update_params_for_auth(headers, [], ["BearerToken"])
        assert headers == {"authorization": "Bearer secret"}
        assert cluster._client.configuration.host == "https://kube.test:6443"

    def test_a_connection_that_changes_is_followed(self, server: ApiServer) -> None:
        known = KnownConnections(leading_to("http://127.0.0.1:1"))
        clusters = Clusters(known)
        clusters("kubernetes_default")
        known.known["kubernetes_default"] = leading_to(server.url)
        assert clusters("kubernetes_default").list_all("/api/v1/nodes") == []
