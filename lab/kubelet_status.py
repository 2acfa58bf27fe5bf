"""A pod's status from what its containers do, in the words and reasons of a real kubelet. Nothing here asks anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from lab.kubeapi import Object

CREATING, INITIALIZING = "ContainerCreating", "PodInitializing"
CRASH_LOOP, PULL_FAILED, PULL_BACK_OFF = "CrashLoopBackOff", "ErrImagePull", "ImagePullBackOff"
BAD_CONFIG, NEVER_PULLED, BAD_NAME = "CreateContainerConfigError", "ErrImageNeverPull", "InvalidImageName"
NOT_STARTED = "RunContainerError"


@dataclass(frozen=True)
class Ended:
    """A container's end."""

    exit_code: int
    started: str
    finished: str
    """When it began and ended, as RFC 3339."""
    container_id: str
    out_of_memory: bool = False
    message: str = ""

    def shown(self) -> Object:
        """As a status has it."""
        reason = "OOMKilled" if self.out_of_memory else "Completed" if self.exit_code == 0 else "Error"
        found = {
            "exitCode": self.exit_code,
            "reason": reason,
            "startedAt": self.started,
            "finishedAt": self.finished,
            "containerID": f"docker://{self.container_id}",
        }
        return found | ({"message": self.message} if self.message else {})


@dataclass(frozen=True)
class Container:
    """What is known of one of a pod's containers."""

    name: str
    image: str
    image_id: str = ""
    container_id: str = ""
    running_since: str = ""
    """RFC 3339; empty while it does not run."""
    ended: Ended | None = None
    """How it ended, if it does not run and did before."""
    previous: Ended | None = None
    """How the one before it ended."""
    waiting: str = CREATING
    """Why it does not run, if it does not and is to."""
    message: str = ""
    restarts: int = 0
    started: bool = False
    ready: bool = False

    @property
    def is_waiting(self) -> bool:
        """Whether it is to run, and does not."""
        return not self.running_since and (self.ended is None or self.waiting not in ("", CREATING, INITIALIZING))

    def shown(self) -> Object:
        """As ``containerStatuses`` has it."""
        state: Object
        last = self.previous
        if self.running_since:
            state = {"running": {"startedAt": self.running_since}}
        elif self.is_waiting:
            state = {"waiting": {"reason": self.waiting} | ({"message": self.message} if self.message else {})}
            last = self.ended or last
        else:
            assert self.ended is not None  # noqa: S101 (for the type checker)
            state = {"terminated": self.ended.shown()}
        return {
            "name": self.name,
            "image": self.image,
            "imageID": self.image_id,
            **({"containerID": f"docker://{self.container_id}"} if self.container_id else {}),
            "state": state,
            "lastState": {"terminated": last.shown()} if last else {},
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
        }


def phase(pod: Object, init: Sequence[Container], containers: Sequence[Container]) -> str:
    """``Pending``, ``Running``, ``Succeeded`` or ``Failed``."""
    policy = pod["spec"].get("restartPolicy", "Always")
    if policy == "Never" and any(each.ended and each.ended.exit_code for each in init):
        return "Failed"
    if not all(_done(each) for each in init):
        return "Pending"
    if any(each.is_waiting and each.ended is None for each in containers):
        return "Pending"
    over = [each.ended for each in containers if not each.running_since and not each.is_waiting]
    if policy == "Always" or len(over) < len(containers):
        return "Running"
    return "Failed" if any(each and each.exit_code for each in over) else "Succeeded"


def conditions(
    pod: Object, init: Sequence[Container], containers: Sequence[Container], phase: str, now: str
) -> list[Object]:
    """``Initialized``, ``ContainersReady`` and ``Ready``; the time of a change is now, unless nothing has changed."""
    initialized = [each.name for each in init if not _done(each)]
    unready = [each.name for each in containers if not each.ready]
    told = {each["type"]: each for each in pod.get("status", {}).get("conditions", [])}
    gates = [each["conditionType"] for each in pod["spec"].get("readinessGates", [])]
    shut = [each for each in gates if told.get(each, {}).get("status") != "True"]
    not_ready = _unless(phase, unready, "ContainersNotReady", "containers with unready status: [{}]")
    found = [
        {
            "type": "Initialized",
            **_unless(phase, initialized, "ContainersNotInitialized", "containers with incomplete status: [{}]"),
        },
        {"type": "ContainersReady", **not_ready},
        {
            "type": "Ready",
            **(
                _unless(phase, shut, "ReadinessGatesNotReady", "the status of pod readiness gates [{}] is not True")
                if not unready
                else not_ready
            ),
        },
    ]
    for each in found:
        before = told.get(each["type"], {})
        same = before.get("status") == each["status"]
        each["lastTransitionTime"] = before.get("lastTransitionTime") if same else now
    return found


def _unless(phase: str, wrong: Sequence[str], reason: str, message: str) -> dict[str, str | None]:
    """A condition that holds if nothing is wrong; in a patch, None takes away what was said before."""
    if not wrong:
        return {"status": "True", "reason": None, "message": None}
    if phase == "Succeeded":
        return {"status": "True" if "Initialized" in reason else "False", "reason": "PodCompleted", "message": None}
    return {"status": "False", "reason": reason, "message": message.format(" ".join(wrong))}


def status(
    pod: Object,
    init: Sequence[Container],
    containers: Sequence[Container],
    addresses: Mapping[str, str],
    now: str,
) -> Object:
    """What ``status`` is to say; ``addresses`` are those of host and pod, as ``hostIP`` and ``podIP``."""
    found = phase(pod, init, containers)
    address = addresses.get("podIP", "")
    return {
        "phase": found,
        "conditions": conditions(pod, init, containers, found, now),
        **addresses,
        **({"podIPs": [{"ip": address}]} if address else {}),
        "startTime": pod.get("status", {}).get("startTime") or now,
        **({"initContainerStatuses": [each.shown() for each in init]} if init else {}),
        "containerStatuses": [each.shown() for each in containers],
    }


def moment(when: datetime | None = None) -> str:
    """Now, or then, as RFC 3339 in whole seconds."""
    return (when or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _done(container: Container) -> bool:
    return container.ended is not None and container.ended.exit_code == 0
