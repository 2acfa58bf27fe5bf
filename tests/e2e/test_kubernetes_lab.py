"""The lab's cluster does what a real one does: pods come up, roll without a lost request, fail and end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import guests, kubelet_engine
from lab.control_plane import ALL, API
from lab.guests import BAD, NEW, OLD, PORT
from lab.kubeapi import Api, Identity, Object
from lab.kubernetes_lab import KUBELET, KubernetesLab
from lab.places import Places
from phoenix_fleet.domain.errors import NotFound, Refused, Unavailable
from tests.contract import machinery
from tests.contract.machinery import Seen
from tests.e2e.refresh import check_served, requests

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.kubernetes, pytest.mark.timeout(3600)]
PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
SETS = "/apis/apps/v1/namespaces/default/statefulsets"
BUDGETS = "/apis/policy/v1beta1/namespaces/default/poddisruptionbudgets"
PATIENCE = 300
"""Seconds: on a machine that is busy with other tests everything takes its time."""
SLEEP = "trap exit TERM; while :; do sleep 1 & wait; done"


def wait_for(see: Callable[[], Seen | None], what: str) -> Seen:
    """The first answer that is not None or False."""
    return machinery.wait_for(see, what, PATIENCE)


@contextmanager
def cluster(folder: Path, *, with_registry: bool = True) -> Iterator[KubernetesLab]:
    lab = KubernetesLab(
        Places(folder / "home", folder / "run", Places.find().cache), print, with_registry=with_registry
    )
    try:
        lab.up()
        yield lab
    finally:
        lab.down()
    assert lab.left_over() == []


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesLab]:
    with cluster(tmp_path_factory.mktemp("kubernetes")) as lab:
        yield lab


@pytest.fixture
def api(lab: KubernetesLab) -> Iterator[Api]:
    """A client; what a test has made is gone afterwards."""
    api = lab.api()
    yield api
    for path in (DEPLOYMENTS, SETS, BUDGETS, SERVICES, PODS):
        for name in made(api, path):
            api.delete(f"{path}/{name}", {"propagationPolicy": "Foreground"})
    for path in (DEPLOYMENTS, SETS, BUDGETS, SERVICES, PODS):
        wait_for(lambda path=path: not made(api, path), f"{path} to be empty")
    wait_for(lambda: guests.containers(lab.owner) == [], "their containers to go")
    api.close()


def made(api: Api, path: str) -> list[str]:
    """Names of what tests have made there."""
    names = [str(each["metadata"]["name"]) for each in api.get(path)["items"]]
    return [name for name in names if name != "kubernetes"]


def container(image: str, **more: Any) -> Object:
    return {"name": "web", "image": image, **more}


def serving(image: str) -> Object:
    """The lab's service: ready once it answers, and at its end still there for what the balancer has sent.

    Patient, because on a machine that is busy with other tests an answer takes its time.
    """
    asked = {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1}
    healthy = {**asked, "timeoutSeconds": 10, "failureThreshold": 30}
    return container(
        image,
        ports=[{"name": "http", "containerPort": PORT}],
        readinessProbe=healthy,
        livenessProbe=healthy,
        lifecycle={"preStop": {"exec": {"command": ["sleep", "10"]}}},
    )


def deploy(api: Api, spec: Object, *, replicas: int, name: str = "web") -> None:
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [spec]}}
    selector = {"matchLabels": {"app": name}}
    body = {"replicas": replicas, "selector": selector, "template": template}
    api.create(DEPLOYMENTS, {"metadata": {"name": name}, "spec": body})


def run(api: Api, spec: Object, name: str = "web", **more: Any) -> Callable[[], Object]:
    """A pod by itself, and what to call for it as it is now."""
    api.create(PODS, {"metadata": {"name": name}, "spec": {"containers": [spec], **more}})
    return lambda: api.get(f"{PODS}/{name}")


def set_image(api: Api, image: str) -> None:
    spec = {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}
    api.patch(f"{DEPLOYMENTS}/web", {"spec": spec})


def rolled_out(api: Api) -> bool:
    found = api.get(f"{DEPLOYMENTS}/web")
    wanted, seen = found["spec"]["replicas"], found.get("status", {})
    return bool(
        seen.get("observedGeneration") == found["metadata"]["generation"]
        and [seen.get(each) for each in ("replicas", "updatedReplicas", "availableReplicas")] == [wanted] * 3
    )


def state(pod: Object) -> Object:
    """The one container's status; with nothing in it before the kubelet has seen the pod."""
    (found,) = pod["status"].get("containerStatuses") or [{"state": {}}]
    return dict(found)


def waiting(pod: Object) -> str:
    return str(state(pod)["state"].get("waiting", {}).get("reason", ""))


def told(api: Api, pod: Object) -> set[str]:
    events = api.get("/api/v1/namespaces/default/events")["items"]
    return {each["reason"] for each in events if each["involvedObject"].get("uid") == pod["metadata"]["uid"]}


def test_what_runs_is_left_alone_and_what_was_killed_is_started_again(lab: KubernetesLab, api: Api) -> None:
    parts = (*ALL, KUBELET)
    before = {name: lab.pid(name) for name in parts}
    assert None not in before.values()
    assert lab.up() == lab.told()
    assert {name: lab.pid(name) for name in parts} == before
    deploy(api, container(lab.told().images[NEW], command=["sh", "-c", SLEEP]), replicas=2)
    wait_for(lambda: rolled_out(api), "the deployment")
    pods = {each["metadata"]["uid"] for each in api.get(PODS)["items"]}
    running = {each["Id"] for each in guests.containers(lab.owner)}
    for name in (API, KUBELET):
        os.kill(before[name] or 0, signal.SIGKILL)
    assert wait_for(lambda: not lab.running(), "their death")
    assert {each["Id"] for each in guests.containers(lab.owner)} == running
    lab.up()
    api.patch(f"{DEPLOYMENTS}/web", {"spec": {"replicas": 3}})
    wait_for(lambda: rolled_out(api), "the cluster to go on")
    assert pods < {each["metadata"]["uid"] for each in api.get(PODS)["items"]}
    assert all(state(each)["restartCount"] == 0 for each in api.get(PODS)["items"])


def test_a_deployment_rolls_by_digest_under_traffic_and_stays_when_the_next_image_is_bad(
    lab: KubernetesLab, api: Api, tmp_path: Path
) -> None:
    images = lab.told().images
    deploy(api, serving(images[OLD]), replicas=3)
    api.create(SERVICES, {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": PORT}]}})
    front = lab.expose("default", "web")
    assert lab.expose("default", "web") == front
    wait_for(lambda: rolled_out(api), "the old release")
    with requests(front.url, tmp_path) as totals:
        set_image(api, images[NEW])
        wait_for(lambda: rolled_out(api), "the new release")
        set_image(api, images[BAD])
        (broken,) = wait_for(
            lambda: [each for each in api.get(PODS)["items"] if waiting(each) == "CrashLoopBackOff"],
            "the bad release to fail",
        )
        assert api.get(f"{DEPLOYMENTS}/web")["status"]["availableReplicas"] == 3
        set_image(api, images[NEW])
        wait_for(lambda: rolled_out(api), "the way back")
    check_served(totals, {OLD, NEW})
    assert state(broken)["lastState"]["terminated"]["exitCode"] == 1
    assert state(broken)["restartCount"] >= 1
    assert "restarting failed container=web pod=" in state(broken)["state"]["waiting"]["message"]
    assert {"BackOff", "Started", "Pulled"} <= told(api, broken)
    after = [each for each in api.get(PODS)["items"] if "deletionTimestamp" not in each["metadata"]]
    assert {state(each)["imageID"] for each in after} == {f"docker-pullable://{images[NEW]}"}
    assert totals["instances"].keys() >= {each["metadata"]["name"] for each in after}


def test_an_image_that_is_not_there_is_pulled_in_vain(lab: KubernetesLab, api: Api) -> None:
    repository = lab.told().images[NEW].partition("@")[0]
    pod = run(api, container(f"{repository}@sha256:{'0' * 64}"))
    seen = wait_for(lambda: pod() if waiting(pod()) == "ImagePullBackOff" else None, "the pull to fail")
    assert seen["status"]["phase"] == "Pending"
    assert {"Pulling", "Failed", "BackOff"} <= told(api, seen)
    again = wait_for(lambda: pod() if waiting(pod()) == "ErrImagePull" else None, "another pull")
    assert "manifest unknown" in state(again)["state"]["waiting"]["message"]


def test_a_container_whose_liveness_fails_is_restarted_in_the_same_network(lab: KubernetesLab, api: Api) -> None:
    alive = {"exec": {"command": ["test", "!", "-e", "/sick"]}, "periodSeconds": 1, "failureThreshold": 2}
    spec = container(lab.told().images[NEW], command=["sh", "-c", SLEEP], livenessProbe=alive)
    pod = run(api, spec, terminationGracePeriodSeconds=3)
    before = wait_for(lambda: pod() if state(pod()).get("ready") else None, "the pod")
    found = state(before)["containerID"].removeprefix("docker://")
    with guests.engine() as engine:
        engine.exec_start(engine.exec_create(found, ["touch", "/sick"])["Id"])
    after = wait_for(lambda: pod() if state(pod())["restartCount"] else None, "a restart")
    assert after["status"]["podIP"] == before["status"]["podIP"]
    assert state(after)["lastState"]["terminated"]["containerID"] == f"docker://{found}"
    assert {"Unhealthy", "Killing"} <= told(api, after)


def test_who_was_called_unready_in_silence_says_so_again(lab: KubernetesLab, api: Api) -> None:
    """The node controller does so when it has not heard of a node for too long."""
    pod = run(api, container(lab.told().images[NEW], command=["sh", "-c", SLEEP]))
    wait_for(lambda: state(pod()).get("ready"), "the pod")
    unready = {"type": "Ready", "status": "False", "reason": "NodeNotReady"}
    before = api.patch(f"{PODS}/web/status", {"status": {"conditions": [unready]}})
    after = wait_for(lambda: pod() if _ready(pod()) else None, "its word")
    assert not _ready(before)
    assert after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]


def _ready(pod: Object) -> bool:
    return ("Ready", "True") in {(each["type"], each["status"]) for each in pod["status"].get("conditions", [])}


def test_a_stateful_set_rolls_in_order_within_its_budget(lab: KubernetesLab, api: Api) -> None:
    images = lab.told().images
    template = {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [serving(images[OLD])]}}
    spec = {"serviceName": "db", "replicas": 3, "selector": {"matchLabels": {"app": "db"}}, "template": template}
    api.create(SETS, {"metadata": {"name": "db"}, "spec": spec})

    def settled(image: str) -> bool:
        found = {each["metadata"]["name"]: each for each in api.get(PODS)["items"]}
        return len(found) == 3 and all(_ready(each) and state(each).get("image") == image for each in found.values())

    wait_for(lambda: settled(images[OLD]), "the old release")
    web = {"name": "web", "image": images[NEW]}
    api.patch(f"{SETS}/db", {"spec": {"template": {"spec": {"containers": [web]}}}})
    wait_for(lambda: settled(images[NEW]), "the new release")
    found = sorted(api.get(PODS)["items"], key=lambda each: str(each["status"]["startTime"]))
    assert [each["metadata"]["name"] for each in found] == ["db-2", "db-1", "db-0"]
    budget = {"minAvailable": 2, "selector": {"matchLabels": {"app": "db"}}}
    api.create(BUDGETS, {"metadata": {"name": "db"}, "spec": budget})
    wait_for(lambda: api.get(f"{BUDGETS}/db")["status"].get("disruptionsAllowed"), "the budget to be counted")
    _evict(api, "db-0")
    with pytest.raises(Unavailable, match="429 Cannot evict pod as it would violate the pod's disruption budget"):
        _evict(api, "db-1")


def _evict(api: Api, name: str) -> None:
    meta = {"name": name, "namespace": "default"}
    api.create(f"{PODS}/{name}/eviction", {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": meta})


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("trap '' TERM; touch /lab/up; while :; do sleep 1; done", 137),
        ("touch /lab/up; until [ -e /lab/hook ]; do sleep 0.1; done; exit 7", 7),
    ],
    ids=["killed when its time is over", "told by its hook"],
)
def test_a_pod_ends(lab: KubernetesLab, api: Api, program: str, code: int) -> None:
    hook = {"preStop": {"exec": {"command": ["touch", "/lab/hook"]}}}
    up = {"exec": {"command": ["test", "-e", "/lab/up"]}, "periodSeconds": 1}
    mount = [{"name": "lab", "mountPath": "/lab"}]
    image = lab.told().images[NEW]
    spec = container(image, command=["sh", "-c", program], lifecycle=hook, readinessProbe=up, volumeMounts=mount)
    pod = run(api, spec, terminationGracePeriodSeconds=4, volumes=[{"name": "lab", "emptyDir": {}}])
    before = wait_for(lambda: pod() if state(pod()).get("ready") else None, "the pod")
    (volumes,) = (Path(lab.told().kubeconfig).parents[1] / "pods").glob(before["metadata"]["uid"])
    api.patch(f"{PODS}/web", {"metadata": {"finalizers": ["phoenix.lab/seen"]}})  # the API would forget it at once
    api.delete(f"{PODS}/web")
    ended = wait_for(lambda: pod() if "terminated" in state(pod())["state"] else None, "its end")
    assert state(ended)["state"]["terminated"]["exitCode"] == code
    assert state(ended)["state"]["terminated"]["finishedAt"] > state(before)["state"]["running"]["startedAt"]
    wait_for(lambda: not volumes.exists(), "its volumes to go")
    assert state(pod()) == state(ended)
    api.patch(f"{PODS}/web", {"metadata": {"finalizers": None}}, how="merge")


def test_a_pod_calls_the_api_with_its_own_account(lab: KubernetesLab, api: Api) -> None:
    wait_for(lambda: api.get("/api/v1/namespaces/default/serviceaccounts")["items"][0].get("secrets"), "its account")
    program = (
        "import os, ssl, urllib.error, urllib.request as r\n"
        "home = '/var/run/secrets/kubernetes.io/serviceaccount/'\n"
        "url = f\"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}\"\n"
        "trust = ssl.create_default_context(cafile=home + 'ca.crt')\n"
        "told = {'Authorization': 'Bearer ' + open(home + 'token').read()}\n"
        "try: r.urlopen(r.Request(url + '/api/v1/nodes', headers=told), context=trust)\n"
        "except urllib.error.HTTPError as error: raise SystemExit(error.read().decode())\n"
    )
    spec = container(
        lab.told().images[NEW],
        command=["python3", "-c", program],
        terminationMessagePolicy="FallbackToLogsOnError",
    )
    pod = run(api, spec, restartPolicy="Never")
    seen = wait_for(lambda: pod() if pod()["status"]["phase"] == "Failed" else None, "its end")
    message = state(seen)["state"]["terminated"]["message"]
    assert 'User "system:serviceaccount:default:default" cannot list resource "nodes"' in message.replace("\\", "")


def test_who_is_nobody_or_another_node_is_refused(lab: KubernetesLab, api: Api, tmp_path: Path) -> None:
    folder = Path(lab.told().kubeconfig).parent / "pki"
    api.create("/api/v1/namespaces/default/secrets", {"metadata": {"name": "other"}, "data": {}})
    node = Api(Identity(lab.told().url, str(folder / "ca.pem"), str(folder / "node-node-1.pem")))
    stranger = Api(Identity(lab.told().url, str(folder / "ca.pem"), str(folder.parent / "etcd-pki" / "etcd.pem")))
    try:
        assert node.get("/api/v1/nodes/node-1")["metadata"]["name"] == "node-1"
        with pytest.raises(Refused, match="403"):
            node.get("/api/v1/namespaces/default/secrets/other")
        with pytest.raises(Refused, match="403"):
            node.delete("/api/v1/nodes/node-2")
        with pytest.raises(Refused, match="401"):
            stranger.get(PODS)
    finally:
        node.close()
        stranger.close()
    api.delete("/api/v1/namespaces/default/secrets/other")


def test_what_the_stand_in_cannot_do_it_says(lab: KubernetesLab, api: Api) -> None:
    pod = run(api, container(lab.told().images[NEW]), volumes=[{"name": "host", "hostPath": {"path": "/"}}])
    seen = wait_for(lambda: pod() if waiting(pod()) == "CreateContainerConfigError" else None, "a refusal")
    assert "a volume of kind hostPath" in state(seen)["state"]["waiting"]["message"]


def test_a_machine_joins_leaves_and_comes_back(lab: KubernetesLab, api: Api) -> None:
    lab.join("other", address="10.1.2.3", provider_id="lab://other", labels={"phoenix": "other"})
    node = wait_for(lambda: _node(api, "other"), "it to register")
    wait_for(lambda: lab.nodes().get("other") == "True", "it to be ready")
    assert (node["spec"]["providerID"], node["metadata"]["labels"]["phoenix"]) == ("lab://other", "other")
    image = lab.told().images[NEW]
    pod = run(api, container(image, command=["sh", "-c", SLEEP]), nodeSelector={"phoenix": "other"})
    before = wait_for(lambda: pod() if state(pod()).get("ready") else None, "a pod on it")
    assert before["status"]["hostIP"] == "10.1.2.3"
    lab.leave("other")
    wait_for(lambda: kubelet_engine.pods(lab.owner, "other") == set(), "its containers to end")
    assert state(pod()) == state(before), "nobody told the API"
    lab.join("other", address="10.1.2.3", provider_id="lab://other", labels={"phoenix": "other"})
    wait_for(lambda: kubelet_engine.pods(lab.owner, "other"), "its pods to run again")
    api.delete(f"{PODS}/web")
    wait_for(lambda: not api.get(PODS)["items"], "the pod to go")
    lab.leave("other")
    api.delete("/api/v1/nodes/other")
    wait_for(lambda: "other" not in lab.nodes(), "its end")


def _node(api: Api, name: str) -> Object | None:
    try:
        return api.get(f"/api/v1/nodes/{name}")
    except NotFound:
        return None


def test_another_cluster_beside_it_comes_and_goes_by_itself(lab: KubernetesLab, api: Api, tmp_path: Path) -> None:
    deploy(api, container(lab.told().images[NEW], command=["sh", "-c", SLEEP]), replicas=1)
    wait_for(lambda: rolled_out(api), "the deployment")
    mine = {each["Id"] for each in guests.containers(lab.owner)}
    with cluster(tmp_path, with_registry=False) as other:
        theirs = other.api()
        try:
            assert theirs.get(DEPLOYMENTS)["items"] == []
            deploy(theirs, container(lab.told().images[OLD], command=["sh", "-c", SLEEP]), replicas=1)
            wait_for(lambda: rolled_out(theirs), "theirs")
        finally:
            theirs.close()
        # What is killed leaves its containers behind; down finds them all the same.
        for name in (*ALL, KUBELET):
            os.kill(other.pid(name) or 0, signal.SIGKILL)
        assert guests.containers(other.owner)
    assert {each["Id"] for each in guests.containers(lab.owner)} == mine
    assert rolled_out(api)
