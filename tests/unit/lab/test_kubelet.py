"""The kubelet stand-in's own judgement: statuses, pauses, probes, and what pods ask for."""

from __future__ import annotations

import base64
import socket
from pathlib import Path
from typing import Any

import pytest

from lab import kubelet_spec, kubelet_status
from lab.endpoints import addresses
from lab.kubeapi import Object
from lab.kubelet_backoff import Backoff
from lab.kubelet_engine import split_image
from lab.kubelet_probes import Probe, Target, ask
from lab.kubelet_spec import Unusable
from lab.kubelet_status import Container, Ended
from phoenix_fleet.domain.errors import NotFound

NOW, BEFORE = "2026-11-30T00:00:10Z", "2026-11-30T00:00:00Z"


def pod(**spec: Any) -> Object:
    meta = {"name": "web-0", "namespace": "shop", "uid": "u-1", "labels": {"app": "web"}}
    return {"metadata": meta, "spec": {"containers": [], **spec}, "status": {}}


def ended(code: int) -> Ended:
    return Ended(code, BEFORE, BEFORE, "c0ffee")


def running(**more: Any) -> Container:
    return Container("web", "image", container_id="c", running_since=BEFORE, waiting="", **more)


class TestStatus:
    @pytest.mark.parametrize(
        ("policy", "init", "main", "phase"),
        [
            ("Always", [], [Container("web", "image")], "Pending"),
            ("Always", [], [running()], "Running"),
            ("Always", [], [running(), Container("b", "image")], "Pending"),
            ("Always", [], [Container("web", "image", ended=ended(1), waiting="CrashLoopBackOff")], "Running"),
            ("Always", [], [Container("web", "image", ended=ended(0), waiting="")], "Running"),
            ("Never", [], [Container("web", "image", ended=ended(0), waiting="")], "Succeeded"),
            ("Never", [], [Container("web", "image", ended=ended(1), waiting="")], "Failed"),
            ("OnFailure", [], [Container("web", "image", ended=ended(0), waiting=""), running()], "Running"),
            ("Always", [running()], [Container("web", "image")], "Pending"),
            ("Never", [Container("i", "image", ended=ended(1), waiting="")], [Container("web", "image")], "Failed"),
            ("Always", [Container("i", "image", ended=ended(0), waiting="")], [running()], "Running"),
        ],
    )
    def test_phase(self, policy: str, init: list[Container], main: list[Container], phase: str) -> None:
        assert kubelet_status.phase(pod(restartPolicy=policy), init, main) == phase

    def test_a_crash_loop_shows_how_the_last_one_ended(self) -> None:
        found = Container(
            "web", "image", ended=ended(3), waiting="CrashLoopBackOff", message="back-off 10s", restarts=2
        )
        shown = found.shown()
        assert shown["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
        assert shown["lastState"]["terminated"]["exitCode"] == 3
        assert (shown["restartCount"], shown["ready"]) == (2, False)

    def test_a_condition_keeps_its_time_until_it_changes(self) -> None:
        told = {"type": "Ready", "status": "True", "lastTransitionTime": BEFORE}
        known = {**pod(), "status": {"conditions": [told]}}
        (*_, ready) = kubelet_status.conditions(known, [], [running(ready=True)], "Running", NOW)
        assert (ready["status"], ready["lastTransitionTime"], ready["reason"]) == ("True", BEFORE, None)
        (*_, ready) = kubelet_status.conditions(known, [], [running()], "Running", NOW)
        assert (ready["status"], ready["lastTransitionTime"]) == ("False", NOW)
        assert ready["message"] == "containers with unready status: [web]"

    def test_a_readiness_gate_that_is_shut_keeps_the_pod_unready(self) -> None:
        gated = pod(readinessGates=[{"conditionType": "lab/gate"}])
        (_, containers, ready) = kubelet_status.conditions(gated, [], [running(ready=True)], "Running", NOW)
        assert (containers["status"], ready["status"], ready["reason"]) == ("True", "False", "ReadinessGatesNotReady")

    def test_killed_for_its_memory(self) -> None:
        assert Ended(137, BEFORE, NOW, "c", out_of_memory=True).shown()["reason"] == "OOMKilled"
        assert [ended(code).shown()["reason"] for code in (0, 1)] == ["Completed", "Error"]


class TestBackoff:
    def test_pauses_double_up_to_five_minutes_and_begin_anew_after_peace(self) -> None:
        now = 1000.0
        backoff = Backoff(lambda: now)
        pauses = []
        for _ in range(8):
            failed = now
            while backoff.holds(failed):
                now += 1
            pauses.append(now - failed)
            backoff.next(failed)
        assert pauses == [0, 10, 20, 40, 80, 160, 300, 300]
        now += 601
        assert not backoff.holds(now)
        backoff.next(now)
        assert backoff.seconds == 10


class TestProbes:
    def test_it_is_asked_when_due_and_fails_when_it_failed_often_enough(self) -> None:
        now, codes = 0.0, iter([0, 1, 1, 0])
        asked = []

        def execute(argv: list[str], seconds: float) -> int:
            asked.append((now, argv, seconds))
            return next(codes)

        spec = {"exec": {"command": ["check"]}, "initialDelaySeconds": 5, "periodSeconds": 2, "failureThreshold": 2}
        probe = Probe(spec, 0.0, good=False, clock=lambda: now)
        seen = []
        for moment in (4.9, 5.0, 6.0, 7.0, 9.0, 11.0):
            now = moment
            probe.run(Target({"name": "web"}, "", execute))
            seen.append((probe.good, probe.failed))
        assert [when for when, *_ in asked] == [5.0, 7.0, 9.0, 11.0]
        assert seen == [(False, False), (True, False), (True, False), (True, False), (False, True), (True, True)]

    def test_http_and_tcp(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            web = {"name": "web", "ports": [{"name": "http", "containerPort": port}]}
            target = Target(web, "127.0.0.1", lambda *_: 0)
            assert ask({"tcpSocket": {"port": "http"}}, target, 1) == ""
            assert "timed out" in ask({"httpGet": {"port": port}}, target, 0.1)
            assert "no port named other" in ask({"tcpSocket": {"port": "other"}}, target, 1)
        assert "refused" in ask({"tcpSocket": {"port": port}}, target, 1).lower()
        assert "refused" in ask({"httpGet": {"port": port, "path": "/x"}}, target, 1).lower()

    @pytest.mark.parametrize(("code", "wrong"), [(0, ""), (1, "'a b' exited with 1"), (None, "'a b' timed out")])
    def test_a_program(self, code: int | None, wrong: str) -> None:
        assert ask({"exec": {"command": ["a", "b"]}}, Target({}, "", lambda *_: code), 1).endswith(wrong)


class TestSpec:
    def fetch(self, resource: str, name: str) -> Object:
        known: dict[tuple[str, str], Object] = {
            ("secrets", "s"): {"data": {"key": base64.b64encode(b"hidden").decode()}},
            ("configmaps", "c"): {"data": {"COLOUR": "red", "../out": "x"}},
        }
        try:
            return known[resource, name]
        except KeyError:
            raise NotFound(name) from None

    def test_variables(self) -> None:
        spec = {
            "name": "web",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "c"}}],
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "value": "$(A)-$(P_COLOUR)-$(NONE)-$$(A)"},
                {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}},
                {"name": "D", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "E", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k", "optional": True}}},
            ],
        }
        found = kubelet_spec.environment(pod(), spec, {"GIVEN": "yes"}, self.fetch)
        del found["P_../out"]
        expected = {"GIVEN": "yes", "P_COLOUR": "red", "A": "1", "B": "1-red-$(NONE)-$(A)", "C": "hidden", "D": "web"}
        assert found == expected

    @pytest.mark.parametrize(
        "source",
        [
            {"secretKeyRef": {"name": "none", "key": "k"}},
            {"secretKeyRef": {"name": "s", "key": "other"}},
            {"resourceFieldRef": {"resource": "limits.cpu"}},
        ],
    )
    def test_a_variable_from_nowhere_keeps_the_container_from_being_made(self, source: Object) -> None:
        with pytest.raises(Unusable):
            kubelet_spec.environment(pod(), {"env": [{"name": "A", "valueFrom": source}]}, {}, self.fetch)

    def test_volumes(self, tmp_path: Path) -> None:
        wanted = pod(
            volumes=[
                {"name": "empty", "emptyDir": {}},
                {"name": "secret", "secret": {"secretName": "s"}},
                {"name": "map", "configMap": {"name": "c", "items": [{"key": "COLOUR", "path": "a/b"}]}},
            ]
        )
        made = kubelet_spec.lay_volumes(wanted, tmp_path / "u-1", self.fetch)
        assert (made["secret"] / "key").read_bytes() == b"hidden"
        assert (made["map"] / "a" / "b").read_text() == "red"
        (made["empty"] / "kept").touch()
        assert kubelet_spec.lay_volumes(wanted, tmp_path / "u-1", self.fetch) == made
        assert (made["empty"] / "kept").exists()
        mount = {"volumeMounts": [{"name": "map", "mountPath": "/m", "readOnly": True, "subPath": "a"}]}
        assert kubelet_spec.mounts(mount, made) == [f"{made['map'] / 'a'}:/m:ro"]

    def test_nothing_leads_out_of_a_volume(self, tmp_path: Path) -> None:
        hostile = pod(volumes=[{"name": "m", "configMap": {"name": "c"}}])
        with pytest.raises(Unusable, match="leads out"):
            kubelet_spec.lay_volumes(hostile, tmp_path / "u", self.fetch)
        assert not list(tmp_path.rglob("out"))
        mount = {"volumeMounts": [{"name": "m", "mountPath": "/m", "subPath": "../../etc"}]}
        with pytest.raises(Unusable, match="leads out"):
            kubelet_spec.mounts(mount, {"m": tmp_path})

    @pytest.mark.parametrize(
        "spec",
        [
            {"hostNetwork": True},
            {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]},
            {"containers": [{"securityContext": {"privileged": True}}]},
        ],
    )
    def test_what_is_left_out_is_refused(self, spec: Object) -> None:
        kubelet_spec.check(pod())
        with pytest.raises(Unusable, match="does not know"):
            kubelet_spec.check(pod(**spec))


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("web", ("web", "latest")),
        ("host:5000/web", ("host:5000/web", "latest")),
        ("host:5000/web:1", ("host:5000/web", "1")),
        ("host:5000/web@sha256:ab", ("host:5000/web", "sha256:ab")),
    ],
)
def test_an_image_has_a_repository_and_a_digest_or_tag(image: str, parts: tuple[str, str]) -> None:
    assert split_image(image) == parts


def test_only_ready_addresses_get_traffic() -> None:
    ready = [{"ip": "10.0.0.1", "targetRef": {"name": "a"}}, {"ip": "10.0.0.2"}]
    subset = {"addresses": ready, "notReadyAddresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 80}]}
    assert addresses({"subsets": [subset, {"addresses": ready}]}) == {
        "a_10.0.0.1": "10.0.0.1:80",
        "pod_10.0.0.2": "10.0.0.2:80",
    }
    assert addresses({}) == {}
