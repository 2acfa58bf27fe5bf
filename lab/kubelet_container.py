"""One container of a pod from its image to its end: pulled, made, probed, restarted after a pause, stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import kubelet_spec
from lab import kubelet_status as status
from lab.kubeapi import Object
from lab.kubelet_backoff import Backoff
from lab.kubelet_engine import Found, NotMade, Order, PodEngine, PullFailed
from lab.kubelet_probes import Probe, Target, ask
from lab.kubelet_spec import Unusable
from lab.kubelet_status import Container, Ended

Tell = Callable[[str, str, str], None]
"""An event of the pod: ``Normal`` or ``Warning``, reason, message."""
_LIVENESS_GRACE = 30.0
_LEAST_GRACE = 2.0
"""Seconds that a container gets after its hook, however little is left."""


@dataclass
class Surroundings:
    """What a container has from its pod."""

    pod: Object
    engine: PodEngine
    tell: Tell
    fetch: kubelet_spec.Fetch
    given: Mapping[str, str]
    """Variables that every container gets."""
    volumes: Mapping[str, Path]
    address: str = ""


class Runner:
    """The container of one name in one pod."""

    def __init__(self, spec: Object, *, keeps_running: bool) -> None:
        """``keeps_running``: false of one that is to end, as init containers are."""
        self._spec, self._keeps_running = spec, keeps_running
        self.name = str(spec["name"])
        self._id = ""
        self._attempt = 0
        self._seen: Found | None = None
        self._previous: Ended | None = None
        self._waiting, self._message = status.INITIALIZING, ""
        self._crashes, self._pulls = Backoff(clock=time.time), Backoff(clock=time.time)
        self._pull_failed_at = 0.0
        self._probes: dict[str, Probe] = {}

    def adopt(self, container_id: str) -> None:
        """It is the one that an earlier kubelet has made."""
        self._id = container_id

    def creating(self) -> None:
        """Its turn has come: init containers are over."""
        if self._waiting == status.INITIALIZING:
            self._waiting = status.CREATING

    def refuse(self, message: str) -> None:
        """It cannot be run as it is written."""
        self._waiting, self._message = status.BAD_CONFIG, message

    def shown(self) -> Container:
        """What is known of it."""
        seen = self._seen
        running = seen.running_since if seen else ""
        return Container(
            name=self.name,
            image=str(self._spec["image"]),
            image_id=seen.image_id if seen else "",
            container_id=self._id,
            running_since=running,
            ended=seen.ended if seen else None,
            previous=self._previous,
            waiting=self._waiting,
            message=self._message,
            restarts=self._attempt,
            started=bool(running) and self._good("startupProbe"),
            ready=bool(running) and self._good("startupProbe") and self._good("readinessProbe"),
        )

    def look(self, around: Surroundings) -> None:
        """See what it does."""
        if self._id:
            words = self._spec.get("terminationMessagePolicy") == "FallbackToLogsOnError"
            self._seen = around.engine.look(self._id, last_words=words)
            if self._seen:
                self._attempt = self._seen.attempt

    def step(self, around: Surroundings) -> None:
        """Look, and do what is next: start it, ask its probes, restart it, wait."""
        self.look(around)
        if self._seen and self._seen.running_since:
            self._waiting, self._message = "", ""
            self._probe(around)
        elif self._seen and self._seen.ended:
            self._after(self._seen, around)
        else:
            self._start(around)

    def stop(self, around: Surroundings, seconds: float, *, hook: bool = True) -> None:
        """Run its hook and end it within that time; returns when it has ended."""
        if not (self._seen and self._seen.running_since):
            return
        end = time.monotonic() + seconds
        handler = (self._spec.get("lifecycle") or {}).get("preStop")
        if hook and handler and seconds > 0 and (wrong := ask(handler, self._target(around), seconds)):
            around.tell("Warning", "FailedPreStopHook", f"PreStopHook failed: {wrong}")
        around.engine.stop(self._id, max(end - time.monotonic(), min(_LEAST_GRACE, seconds)))

    def _after(self, seen: Found, around: Surroundings) -> None:
        """It has ended: leave it so, wait, or start another."""
        assert seen.ended is not None  # noqa: S101 (for the type checker)
        policy = around.pod["spec"].get("restartPolicy", "Always")
        well = seen.ended.exit_code == 0
        if policy == "Never" or (well and (policy == "OnFailure" or not self._keeps_running)):
            self._waiting = ""
            return
        if self._crashes.holds(seen.finished_at):
            pause = f"back-off {_spoken(self._crashes.seconds)} restarting failed container={self.name}"
            if self._waiting != status.CRASH_LOOP:
                around.tell("Warning", "BackOff", "Back-off restarting failed container")
            self._waiting = status.CRASH_LOOP
            self._message = f"{pause} pod={kubelet_spec.key_of(around.pod)}"
            return
        self._crashes.next(seen.finished_at)
        self._previous, old = seen.ended, self._id
        self._start(around)
        if self._id != old:
            around.engine.forget(old)

    def _start(self, around: Surroundings) -> None:
        try:
            if not self._has_image(around):
                return
            attempt = self._attempt + 1 if self._id else 0
            made = around.engine.run(self._order(around, attempt))
        except Unusable as error:
            self._say(around, status.BAD_CONFIG, str(error))
        except NotMade as error:
            self._say(around, status.NOT_STARTED, str(error))
        else:
            self._id, self._attempt, self._seen = made, attempt, around.engine.look(made)
            self._waiting, self._message, self._probes = "", "", {}
            around.tell("Normal", "Created", f"Created container {self.name}")
            around.tell("Normal", "Started", f"Started container {self.name}")
            handler = (self._spec.get("lifecycle") or {}).get("postStart")
            if handler and (wrong := ask(handler, self._target(around), _LIVENESS_GRACE)):
                around.tell("Warning", "FailedPostStartHook", f"PostStartHook failed: {wrong}")
                around.engine.stop(self._id, _LEAST_GRACE)

    def _has_image(self, around: Surroundings) -> bool:
        """Whether its image is there, pulled if it has to be; why not is said."""
        image = str(self._spec["image"])
        policy = self._spec.get("imagePullPolicy", "IfNotPresent")
        if policy != "Always" and around.engine.has_image(image):
            if self._waiting == status.CREATING:
                around.tell("Normal", "Pulled", f'Container image "{image}" already present on machine')
            return True
        if policy == "Never":
            text = f'Container image "{image}" is not present with pull policy of Never'
            self._say(around, status.NEVER_PULLED, text)
            return False
        if self._pulls.holds(self._pull_failed_at):
            if self._waiting != status.PULL_BACK_OFF:
                around.tell("Normal", "BackOff", f'Back-off pulling image "{image}"')
                around.tell("Warning", "Failed", f"Error: {status.PULL_BACK_OFF}")
            self._waiting, self._message = status.PULL_BACK_OFF, f'Back-off pulling image "{image}"'
            return False
        around.tell("Normal", "Pulling", f'Pulling image "{image}"')
        try:
            around.engine.pull(image)
        except PullFailed as error:
            self._pulls.next(self._pull_failed_at)
            self._pull_failed_at = time.time()
            around.tell("Warning", "Failed", f'Failed to pull image "{image}": {error}')
            self._say(around, status.PULL_FAILED, f"rpc error: code = Unknown desc = Error response from daemon: {error}")
            return False
        around.tell("Normal", "Pulled", f'Successfully pulled image "{image}"')
        return True

    def _say(self, around: Surroundings, reason: str, message: str) -> None:
        """Why it does not run; an event when that changes."""
        if (self._waiting, self._message) != (reason, message):
            of_image = reason in (status.PULL_FAILED, status.NEVER_PULLED)
            around.tell("Warning", "Failed", f"Error: {reason if of_image else message}")
        self._waiting, self._message = reason, message

    def _order(self, around: Surroundings, attempt: int) -> Order:
        spec = self._spec
        pod = {**around.pod, "status": {**around.pod.get("status", {}), "podIP": around.address}}
        known = kubelet_spec.environment(pod, spec, around.given, around.fetch)
        context = {**(around.pod["spec"].get("securityContext") or {}), **(spec.get("securityContext") or {})}
        user = ":".join(str(context[each]) for each in ("runAsUser", "runAsGroup") if each in context)
        return Order(
            name=self.name,
            image=str(spec["image"]),
            attempt=attempt,
            command=[kubelet_spec.expanded(each, known) for each in spec.get("command", [])] or None,
            arguments=[kubelet_spec.expanded(each, known) for each in spec.get("args", [])] or None,
            environment=known,
            binds=kubelet_spec.mounts(spec, around.volumes),
            user=user if "runAsUser" in context else "",
            folder=spec.get("workingDir"),
            read_only=bool(context.get("readOnlyRootFilesystem")),
        )

    def _target(self, around: Surroundings) -> Target:
        return Target(self._spec, around.address, lambda argv, seconds: around.engine.execute(self._id, argv, seconds))

    def _good(self, kind: str) -> bool:
        """What that probe comes to; good if there is none."""
        return kind not in self._spec or (kind in self._probes and self._probes[kind].good)

    def _probe(self, around: Surroundings) -> None:
        """Ask the probes that are due: until the first of them has come up, the startup probe alone."""
        kinds = ["startupProbe"] if not self._good("startupProbe") else ["livenessProbe", "readinessProbe"]
        for kind in (each for each in kinds if each in self._spec):
            probe = self._probes.get(kind)
            if probe is None:
                probe = Probe(self._spec[kind], time.monotonic(), good=kind == "livenessProbe")
                self._probes[kind] = probe
            word = kind.removesuffix("Probe")
            if wrong := probe.run(self._target(around)):
                around.tell("Warning", "Unhealthy", f"{word.capitalize()} probe failed: {wrong}")
            if probe.failed and word != "readiness":
                text = f"Container {self.name} failed {word} probe, will be restarted"
                around.tell("Normal", "Killing", text)
                grace = float(around.pod["spec"].get("terminationGracePeriodSeconds", _LIVENESS_GRACE))
                self.stop(around, grace)
                self._probes = {}
                self.look(around)
                return


def _spoken(seconds: float) -> str:
    """As Go says it: ``10s``, ``1m20s``, ``5m0s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
