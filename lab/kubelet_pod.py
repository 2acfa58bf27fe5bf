"""One pod on a node: brought up, kept as its spec wants it, reported, and ended, by a thread of its own."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker.errors
import requests

from lab import kubelet_spec
from lab import kubelet_status as status
from lab.kubeapi import Api, Conflict, Object
from lab.kubelet_container import Runner, Surroundings
from lab.kubelet_engine import PodEngine
from lab.kubelet_events import Events
from lab.kubelet_spec import Unusable
from phoenix_fleet.domain.errors import NotFound, PhoenixError

_TICK = 0.5
"""Seconds between two looks at the pod's containers."""
_GRACE = 30.0
"""Seconds that a pod may take to end if it does not say so itself."""


@dataclass(frozen=True)
class Host:
    """What all pods of a node share."""

    name: str
    address: str
    api: Api
    owner: str
    network: str
    pause: str
    folder: Path
    """Where pods' volumes lie."""
    given: Mapping[str, str]
    """Variables that every container gets."""


class PodWorker:
    """The life of one pod."""

    def __init__(self, host: Host, pod: Object, over: Callable[[], None]) -> None:
        """``over`` is called at its end."""
        self._host, self._pod, self._over = host, pod, over
        self._meta = pod["metadata"]
        self._path = f"/api/v1/namespaces/{self._meta['namespace']}/pods/{self._meta['name']}"
        self._events = Events(host.api, host.name, pod)
        self._changed = threading.Event()
        self._gone = self._abandoned = False
        self._told: Object = {}
        spec = pod["spec"]
        self._init = [Runner(each, keeps_running=False) for each in spec.get("initContainers", [])]
        self._main = [Runner(each, keeps_running=True) for each in spec["containers"]]
        if not self._init:
            for each in self._main:
                each.creating()
        self._thread = threading.Thread(target=self._live, name=self._meta["name"], daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Return once it is over, or after that time."""
        self._thread.join(seconds)

    def update(self, pod: Object) -> None:
        """The API has it so now."""
        self._pod = pod
        if "deletionTimestamp" in pod["metadata"]:
            self._changed.set()

    def gone(self) -> None:
        """The API does not have it any more: whatever there is of it ends now."""
        self._gone = True
        self._changed.set()
        threading.Thread(target=self._cut_short, daemon=True).start()

    def abandon(self) -> None:
        """The machine is no more: nothing of it is told to anybody."""
        self._abandoned = True
        self._changed.set()

    def _live(self) -> None:
        engine = PodEngine(self._host.owner, self._host.network, self._host.pause, self._host.name, self._pod)
        around = Surroundings(self._pod, engine, self._events.tell, self._fetch, self._host.given, {})
        try:
            while not self._abandoned:
                try:
                    if self._turn(around):
                        break
                except (PhoenixError, docker.errors.DockerException, requests.RequestException) as error:
                    print(f"{self._host.name}: {self._path}: {type(error).__name__}: {error}", flush=True)
                self._changed.wait(_TICK)
                self._changed.clear()
        finally:
            engine.close()
            self._over()

    def _turn(self, around: Surroundings) -> bool:
        """Do what is next for the pod; whether that was the last."""
        around.pod = self._pod
        if self._gone or "deletionTimestamp" in self._pod["metadata"]:
            self._end(around)
            return True
        if self._pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return False
        try:
            kubelet_spec.check(self._pod)
            around.volumes = kubelet_spec.lay_volumes(self._pod, self._folder, self._fetch)
        except Unusable as error:
            for each in self._main:
                each.creating()
                each.refuse(str(error))
            self._report(around)
            return False
        if not around.address:
            self._report(around)
            around.address = around.engine.sandbox()
            self._adopt(around)
        self._run(around)
        self._report(around)
        return False

    def _adopt(self, around: Surroundings) -> None:
        known = around.engine.newest()
        for each in (*self._init, *self._main):
            if each.name in known:
                each.adopt(known[each.name])

    def _run(self, around: Surroundings) -> None:
        for each in self._init:
            each.creating()
            each.step(around)
            ended = each.shown().ended
            if ended is None or ended.exit_code:
                return
        for each in self._main:
            each.creating()
        if any(not each.shown().container_id for each in self._main):
            self._report(around)  # a pull may take its time
        for each in self._main:
            each.step(around)

    def _end(self, around: Surroundings) -> None:
        """Stop all its containers at once within the time that it has, and have the API forget it."""
        asked = self._pod["metadata"].get("deletionGracePeriodSeconds")
        seconds = 0.0 if self._gone else float(_GRACE if asked is None else asked)
        if not around.address:
            self._adopt(around)
            around.address = self._pod.get("status", {}).get("podIP", "")
        runners = [*self._init, *self._main]
        for each in runners:
            each.look(around)
            if each.shown().running_since:
                self._events.tell("Normal", "Killing", f"Stopping container {each.name}")
        with ThreadPoolExecutor(max_workers=len(runners)) as pool:
            list(pool.map(lambda each: self._stop(each, around, seconds), runners))
        if self._abandoned:
            return
        for each in runners:
            each.look(around)
        # One that was ended before, and is kept by a finalizer, has told its end.
        if not self._gone and any(each.shown().container_id for each in runners):
            self._report(around)
        around.engine.remove()
        shutil.rmtree(self._folder, ignore_errors=True)
        if not self._gone:
            precondition = {"uid": self._meta["uid"]}
            try:
                self._host.api.delete(self._path, {"gracePeriodSeconds": 0, "preconditions": precondition})
            except Conflict:
                return  # another pod has its name by now

    def _stop(self, runner: Runner, around: Surroundings, seconds: float) -> None:
        """A client of the engine is for one thread."""
        engine = PodEngine(self._host.owner, self._host.network, self._host.pause, self._host.name, self._pod)
        try:
            own = Surroundings(
                around.pod, engine, around.tell, around.fetch, around.given, around.volumes, around.address
            )
            runner.stop(own, seconds, hook=not self._gone)
        finally:
            engine.close()

    def _cut_short(self) -> None:
        """Whoever waits for a container's end, in the thread of the pod, does not wait for long."""
        engine = PodEngine(self._host.owner, self._host.network, self._host.pause, self._host.name, self._pod)
        try:
            engine.remove()
        finally:
            engine.close()

    def _report(self, around: Surroundings) -> None:
        """Tell the API how it is, if it was told another thing before, or has changed its mind.

        While the node could not say that it lives, the node controller calls its pods unready.
        """
        addresses = {"hostIP": self._host.address} | ({"podIP": around.address} if around.address else {})
        init, main = ([each.shown() for each in runners] for runners in (self._init, self._main))
        found = status.status(self._known(), init, main, addresses, status.moment())
        if _lasting(found) == _lasting(self._told) and _conditions(found) <= _conditions(self._pod["status"]):
            return
        body = {"metadata": {"uid": self._meta["uid"]}, "status": found}
        try:
            self._pod = self._newer(self._host.api.patch(f"{self._path}/status", body))
        except (NotFound, Conflict):
            return  # it is gone, and a watch will say so
        self._told = found

    def _known(self) -> Object:
        """The pod with what it was told last, which the watch may not have said yet."""
        before = self._pod.get("status", {})
        told = {each["type"]: each for each in (*before.get("conditions", []), *self._told.get("conditions", []))}
        return {**self._pod, "status": {**before, "conditions": list(told.values())}}

    def _newer(self, answer: Object) -> Object:
        """What the watch has said meanwhile may be newer than the answer: a deletion is never unsaid."""
        return self._pod if "deletionTimestamp" in self._pod["metadata"] else answer

    def _fetch(self, resource: str, name: str) -> Object:
        return self._host.api.get(f"/api/v1/namespaces/{self._meta['namespace']}/{resource}/{name}")

    @property
    def _folder(self) -> Path:
        return self._host.folder / str(self._meta["uid"])


def _conditions(found: Object) -> set[tuple[str, str]]:
    return {(each["type"], each["status"]) for each in found.get("conditions", [])}


def _lasting(found: Object) -> Any:
    """A status without the times at which it was looked at."""
    conditions = [{**each, "lastTransitionTime": None} for each in found.get("conditions", [])]
    return {**found, "conditions": conditions, "startTime": None}
