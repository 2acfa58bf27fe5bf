"""The lab's EC2 with a machine behind every instance: what the API says of one is what its container does."""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker.errors
import requests.exceptions

from lab.ec2 import ACCOUNT, REGION, Answer, Cloud
from lab.ec2_machines import Machines, Order
from lab.ec2words import health, target_ids
from lab.elb import Balancing
from phoenix_fleet.domain.errors import Unavailable

IMAGE_TAG = "phoenix-lab:image"
"""An AMI's tag that names the image in the local engine."""
_AFTER = {"pending": "running", "stopping": "stopped", "shutting-down": "terminated"}
_PATIENCE = 30.0
"""Seconds in which a machine must have come up; its address may still be held by one that is going."""
_TROUBLE = (docker.errors.DockerException, requests.exceptions.RequestException, OSError, Unavailable)


class BackedCloud(Cloud):
    """``pending`` is until the container runs, ``shutting-down`` until it is gone; one that ends by itself is stopped.

    Consoles are what containers write. Targets are healthy when they answer (``lab.elb``).
    """

    def __init__(self, machines: Machines, *, port: int = 0, control: Path | None = None, interval: float = 0) -> None:
        super().__init__(port=port)
        self.machines = machines
        self._words: dict[str, str] = {}
        self._balancing = Balancing(self._group, self._word, control, interval)
        self._busy: set[str] = set()
        self._since: dict[str, float] = {}
        self._ending = threading.Event()

    @contextmanager
    def running(self) -> Iterator[BackedCloud]:
        """The API with its machines, which end with it."""
        with super().running():
            tender = threading.Thread(target=self._tend, name="machines", daemon=True)
            tender.start()
            self._balancing.start()
            try:
                yield self
            finally:
                self._balancing.stop()
                self._ending.set()
                tender.join()

    def _own(self) -> dict[str, Answer]:
        return {**super()._own(), "StopInstances": self._stop, "StartInstances": self._start}

    # Machines

    def _age(self) -> None:
        """Nothing: states follow the machines, not the looks."""

    def _written(self, instance_id: str) -> str:
        return self.machines.console(instance_id)

    def _stop(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        return self._power(params, environ, ("pending", "running"), "stopping")

    def _start(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        return self._power(params, environ, ("stopped",), "pending")

    def _power(
        self, params: dict[str, str], environ: dict[str, Any], before: tuple[str, ...], now: str
    ) -> tuple[str, Any, bytes]:
        named = [value for key, value in params.items() if key.startswith("InstanceId.")]
        changing = [each for each in named if self._word(each) in before]
        reply = self._ask_moto(params, environ)
        if reply[0].startswith("200"):
            for each in changing:
                self.set_state(each, now, "User initiated")
        return reply

    def _word(self, instance_id: str) -> str:
        """EC2's word for an instance, empty for one that it does not know; needs no lock, unlike moto's own."""
        return self._words.get(instance_id, "")

    def set_state(self, instance_id: str, word: str, message: str = "") -> None:
        """Something happened to that instance."""
        super().set_state(instance_id, word, message)
        self._words[instance_id] = word

    def _tend(self) -> None:
        rounds = 0
        with ThreadPoolExecutor(max_workers=4) as pool:
            while not self._ending.wait(0.1):
                with self._lock:
                    todo = {
                        each: word for each, word in self._words.items() if word in _AFTER and each not in self._busy
                    }
                    self._busy |= todo.keys()
                for instance_id, word in todo.items():
                    pool.submit(self._move, instance_id, word)
                rounds += 1
                if rounds % 10 == 0:
                    self._notice_ends()

    def _move(self, instance_id: str, word: str) -> None:
        """Do what the state asks for, and go on to the one after it; what failed is tried again."""
        failure = ""
        try:
            if word == "pending":
                self.machines.start(self._order(instance_id))
            elif word == "stopping":
                self.machines.stop(instance_id)
            else:
                self.machines.end(instance_id)
        except _TROUBLE as error:
            failure = str(error)
        with self._lock:
            self._busy.discard(instance_id)
            if self._word(instance_id) != word:
                return
            if not failure:
                self._since.pop(instance_id, None)
                self.set_state(instance_id, _AFTER[word], self.instances()[instance_id]._reason or "")
                return
            began = self._since.setdefault(instance_id, time.monotonic())
            if word == "pending" and time.monotonic() - began > _PATIENCE:
                print(f"{instance_id}: {failure}", flush=True)
                self.set_state(instance_id, "shutting-down", f"Server.InternalError: {failure[:200]}")

    def _order(self, instance_id: str) -> Order:
        with self._lock:
            instance = self.instances()[instance_id]
            tags = {
                tag["key"]: tag["value"] for tag in self.backend.describe_tags({"resource-id": [instance.image_id]})
            }
            subnet = self.backend.get_subnet(instance.subnet_id)
            if IMAGE_TAG not in tags:
                raise Unavailable(f"{instance.image_id} has no tag {IMAGE_TAG}, so there is nothing to run.")
            data = base64.b64decode(instance.user_data.as_bytes()) if instance.user_data else b""
            return Order(instance_id, tags[IMAGE_TAG], str(subnet.cidr_block), str(instance.private_ip), data)

    def _notice_ends(self) -> None:
        """A machine that has ended by itself is stopped."""
        with self._lock:
            should = {each for each, word in self._words.items() if word == "running"}
        try:
            ended = should - self.machines.running()
        except _TROUBLE as error:
            print(f"machines: {error}", flush=True)
            return
        with self._lock:
            for each in ended:
                if self._word(each) == "running":
                    self.set_state(each, "stopped", "Instance initiated shutdown")

    # Targets

    def _group(self, arn: str) -> Any:
        from moto.elbv2.models import elbv2_backends

        return elbv2_backends[ACCOUNT][REGION].target_groups[arn]

    def _register(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        reply = self._ask_moto(params, environ)
        if reply[0].startswith("200"):
            arn, known = params["TargetGroupArn"], self.instances()
            for each, port in _named(params):
                self._balancing.register(arn, each, str(known[each].private_ip), port or int(self._group(arn).port))
        return reply

    def _deregister(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        reply = self._ask_moto(params, environ)
        if reply[0].startswith("200"):
            for each in target_ids(params):
                self._balancing.deregister(params["TargetGroupArn"], each)
        return reply

    def _target_health(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        try:
            found = self._balancing.health(params["TargetGroupArn"], target_ids(params))
        except KeyError:
            return self._ask_moto(params, environ)
        return health(found)


def _named(params: dict[str, str]) -> list[tuple[str, int]]:
    """The targets that a request names, each with its port or 0."""
    found = []
    for key, value in params.items():
        if match := re.fullmatch(r"Targets\.member\.(\d+)\.Id", key):
            found.append((value, int(params.get(f"Targets.member.{match[1]}.Port") or 0)))
    return found
