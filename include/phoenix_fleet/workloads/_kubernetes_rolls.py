"""How far a Deployment, a StatefulSet or a DaemonSet has come with its roll, from its own status and its pods.

Status counts only once ``observedGeneration`` has reached ``generation``: before that it is about an earlier change.
What the fields mean: https://kubernetes.io/docs/concepts/workloads/controllers/ and, for Deployments, what
``kubectl rollout status`` asks for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from phoenix_fleet.domain.errors import InvalidSpec
from phoenix_fleet.kubernetesapi import Object
from phoenix_fleet.workloads._kubernetes_marks import called

PLURALS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}

_NEVER = (
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "RunContainerError",
)
"""Why a container waits for what a person must mend."""
_CRASHES = 3
"""So many restarts make a crash loop: one may be the order in which things come up."""
_PULLED = re.compile(r"@(sha256:[0-9a-f]{64})$")


@dataclass(frozen=True, slots=True)
class Roll:
    """A workload's own word on its roll."""

    desired: int
    updated: int
    available: int
    minimum: int
    complete: bool
    failure: str = ""


def roll_of(found: Object) -> Roll:
    """How far it has come.

    :raises InvalidSpec: its strategy does not replace pods by itself, a few at a time.
    """
    observed = int(_status(found, "observedGeneration")) >= int(found["metadata"].get("generation", 0))
    roll = _KINDS[found["kind"]](found)
    if observed:
        return roll
    return Roll(roll.desired, 0, roll.available, roll.minimum, False)


def _deployment(found: Object) -> Roll:
    spec = found["spec"]
    strategy = spec.get("strategy") or {}
    _check(found, strategy.get("type", "RollingUpdate") == "RollingUpdate", "its strategy is not RollingUpdate")
    _check(found, not spec.get("paused"), "it is paused")
    desired = int(spec.get("replicas", 1))
    rolling = strategy.get("rollingUpdate") or {}
    spare = _portion(rolling.get("maxUnavailable", "25%"), desired, up=False)
    if not spare and not _portion(rolling.get("maxSurge", "25%"), desired, up=True):
        spare = 1
    conditions = {each["type"]: each for each in _status(found, "conditions", [])}
    progressing, stuck = conditions.get("Progressing") or {}, conditions.get("ReplicaFailure") or {}
    updated, available = _status(found, "updatedReplicas"), _status(found, "availableReplicas")
    rolled = updated == desired == _status(found, "replicas")
    was_available = progressing.get("reason") == "NewReplicaSetAvailable" and progressing.get("status") == "True"
    failure = ""
    if progressing.get("reason") == "ProgressDeadlineExceeded":
        failure = f"ProgressDeadlineExceeded: {progressing.get('message', '')}"
    elif stuck.get("status") == "True":
        failure = f"{stuck.get('reason', 'ReplicaFailure')}: {stuck.get('message', '')}"
    complete = rolled and (available >= desired or was_available)
    return Roll(desired, updated, available, desired - spare, complete, failure)


def _stateful_set(found: Object) -> Roll:
    spec, status = found["spec"], found.get("status") or {}
    strategy = spec.get("updateStrategy") or {}
    _check(found, strategy.get("type", "RollingUpdate") == "RollingUpdate", "its updateStrategy is not RollingUpdate")
    partition = (strategy.get("rollingUpdate") or {}).get("partition", 0)
    _check(found, not partition, f"its partition of {partition} keeps some replicas as they are")
    desired = int(spec.get("replicas", 1))
    updated = _status(found, "updatedReplicas")
    # Before API 1.22 a StatefulSet only says how many are ready.
    available = _status(found, "availableReplicas" if "availableReplicas" in status else "readyReplicas")
    at_one = status.get("currentRevision") == status.get("updateRevision")
    return Roll(desired, updated, available, max(0, desired - 1), at_one and updated == desired)


def _daemon_set(found: Object) -> Roll:
    strategy = found["spec"].get("updateStrategy") or {}
    _check(found, strategy.get("type", "RollingUpdate") == "RollingUpdate", "its updateStrategy is not RollingUpdate")
    desired = _status(found, "desiredNumberScheduled")
    rolling = strategy.get("rollingUpdate") or {}
    minimum = desired - _portion(rolling.get("maxUnavailable", 1), desired, up=True)
    updated, available = _status(found, "updatedNumberScheduled"), _status(found, "numberAvailable")
    complete = updated >= desired and available >= min(desired, max(1, minimum))
    return Roll(desired, updated, available, minimum, complete)


_KINDS: dict[str, Callable[[Object], Roll]] = {
    "Deployment": _deployment,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
}


def selector_of(found: Object) -> str:
    """The label selector of its pods, as a query writes it."""
    selector = found["spec"]["selector"]
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for each in selector.get("matchExpressions") or []:
        key, values = each["key"], ",".join(each.get("values") or [])
        written = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "DoesNotExist": f"!{key}"}
        parts.append(written.get(each["operator"], key))
    return ",".join(parts)


@dataclass(frozen=True, slots=True)
class Pods:
    """What the pods with one image say."""

    failure: str = ""
    """Why one of them will not come up by itself."""
    running: str = ""
    """Digest of what they run, as their nodes report it; of several one that is not ``wanted``."""
    waiting: str = ""
    """Why one of them is not placed on a node yet."""


def look_at(pods: Iterable[Object], container: str, image: str, wanted: str) -> Pods:
    """What those of the pods say whose container has that image and that are not on their way out."""
    failure = running = waiting = ""
    for pod in pods:
        images = {each["name"]: each.get("image") for each in pod["spec"]["containers"]}
        if images.get(container) != image or pod["metadata"].get("deletionTimestamp"):
            continue
        status = pod.get("status") or {}
        name = pod["metadata"]["name"]
        states = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
        failure = failure or next((f"{name}: {why}" for each in states if (why := _stuck(each))), "")
        found = _pulled(states, container)
        running = found if found and running in ("", wanted) else running
        waiting = waiting or next(
            (f"{name}: {each.get('message', '')}" for each in status.get("conditions") or [] if _unplaced(each)), ""
        )
    return Pods(failure, running, waiting)


def _stuck(state: Object) -> str:
    waiting = (state.get("state") or {}).get("waiting") or {}
    reason = str(waiting.get("reason", ""))
    loops = reason == "CrashLoopBackOff" and int(state.get("restartCount", 0)) >= _CRASHES
    return f"{reason}: {waiting.get('message', '')}" if loops or reason in _NEVER else ""


def _pulled(states: Iterable[Object], container: str) -> str:
    for each in states:
        if each.get("name") == container and (match := _PULLED.search(str(each.get("imageID", "")))):
            return match[1]
    return ""


def _unplaced(condition: Object) -> bool:
    return condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable"


def _status(found: Object, name: str, default: Any = 0) -> Any:
    return (found.get("status") or {}).get(name) or default


def _portion(value: Any, total: int, *, up: bool) -> int:
    """A count or a share of ``total``, as the API writes them."""
    text = str(value)
    if not text.endswith("%"):
        return min(int(text), total)
    share = total * int(text[:-1])
    return -(-share // 100) if up else share // 100


def _check(found: Object, holds: bool, why: str) -> None:
    if not holds:
        raise InvalidSpec(
            f"{called(found)} cannot be rolled: {why}.", remedy="Let it roll by itself, a few replicas at a time."
        )
