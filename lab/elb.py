"""What Elastic Load Balancing does for the lab's target groups: it asks every target how it is, and moves traffic.

moto keeps who is registered and calls every target healthy. Here each target is asked over HTTP as its group says
(path, interval, thresholds, matcher): ``initial`` until enough answers were good, then ``healthy`` or ``unhealthy``.
One that is deregistered is ``draining`` for the whole deregistration delay, whether or not connections are open
(https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-target-group-attributes.html#deregistration-delay),
and gets nothing new meanwhile; after it what is still open is cut.

The traffic itself goes through an HAProxy that is told of each change before the API tells it.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import haproxy

BACKEND = "elb"
_INITIAL = "initial Elb.RegistrationInProgress"
_SICK = "unhealthy Target.FailedHealthChecks"
_LEAVING = "draining Target.DeregistrationInProgress"
_NOT_IN_USE = "unused Target.NotInUse"
_STOPPED = "unused Target.InvalidState"
_ABSENT = "unused Target.NotRegistered"


@dataclass
class Target:
    """One target of one group."""

    instance_id: str
    address: str
    port: int
    said: str = _INITIAL
    good: int = 0
    bad: int = 0
    due: float = field(default_factory=time.monotonic)
    gone_at: float | None = None
    """When its deregistration delay is over; None while it is registered."""
    asked: bool = False
    """Whether it is being asked now."""


class Balancing:
    """All target groups of an account, and the one load balancer that they are behind."""

    def __init__(
        self, group: Callable[[str], Any], alive: Callable[[str], str], control: Path | None, interval: float = 0
    ) -> None:
        """``group`` gives moto's group of an ARN, ``alive`` the state of an instance.

        :param control: runtime socket of the HAProxy that traffic goes through; without one no traffic goes anywhere.
        :param interval: seconds between two questions instead of the group's own, of which Amazon allows 5 or more.
        """
        self._group, self._alive, self._control, self._interval = group, alive, control, interval
        self._targets: dict[tuple[str, str], Target] = {}
        self._routes: dict[str, str] = {}
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tend, name="elb", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask nobody any more."""
        self._over.set()
        self._thread.join()

    def register(self, arn: str, instance_id: str, address: str, port: int) -> None:
        """A new target, to be asked from the start; one that is registered stays as it is."""
        with self._lock:
            known = self._targets.get((arn, instance_id))
            if known is None or known.gone_at is not None:
                self._targets[arn, instance_id] = Target(instance_id, address, port)
                self._route()

    def deregister(self, arn: str, instance_id: str) -> None:
        """It gets nothing new from now on, and is forgotten when the group's delay is over."""
        with self._lock:
            target = self._targets.get((arn, instance_id))
            if target is not None and target.gone_at is None:
                delay = float(self._group(arn).attributes["deregistration_delay.timeout_seconds"])
                target.said, target.gone_at = _LEAVING, time.monotonic() + delay
                self._route()

    def health(self, arn: str, instance_ids: list[str]) -> list[tuple[str, int, str]]:
        """Id, port and state of these targets; of all if none is named."""
        with self._lock:
            own = {each: target for (group, each), target in self._targets.items() if group == arn}
            group = self._group(arn)
            return [
                (each, own[each].port if each in own else int(group.port), self._said(group, own.get(each)))
                for each in instance_ids or list(own)
            ]

    def _said(self, group: Any, target: Target | None) -> str:
        if target is None:
            return _ABSENT
        if target.gone_at is None and not group.load_balancer_arns:
            return _NOT_IN_USE
        return target.said

    def _tend(self) -> None:
        with ThreadPoolExecutor(max_workers=8) as pool:
            while not self._over.wait(0.05):
                now = time.monotonic()
                with self._lock:
                    self._forget(now)
                    due = [
                        (arn, target)
                        for (arn, _), target in self._targets.items()
                        if target.gone_at is None and not target.asked and target.due <= now
                    ]
                    for _, target in due:
                        target.asked = True
                for arn, target in due:
                    pool.submit(self._ask, arn, target)

    def _forget(self, now: float) -> None:
        """Whose delay is over is no target any more; nor is an instance that is gone."""
        over = [
            key
            for key, target in self._targets.items()
            if (target.gone_at is not None and target.gone_at <= now) or self._alive(key[1]) in ("terminated", "")
        ]
        for key in over:
            del self._targets[key]
        self._route()

    def _ask(self, arn: str, target: Target) -> None:
        group = self._group(arn)
        well = _answers(target, group)
        with self._lock:
            target.asked = False
            target.due = time.monotonic() + (self._interval or float(group.health_check_interval_seconds))
            target.good, target.bad = (target.good + 1, 0) if well else (0, target.bad + 1)
            if target.gone_at is not None:
                return
            if self._alive(target.instance_id) not in ("running", "shutting-down"):
                target.said = _STOPPED
            elif target.good >= int(group.healthy_threshold_count) or (target.said == "healthy" and target.good):
                target.said = "healthy"
            elif target.bad >= int(group.unhealthy_threshold_count):
                target.said = _SICK
            self._route()

    def _route(self) -> None:
        """Tell HAProxy where traffic goes, before anybody is told; what does not come through is said again."""
        if self._control is None:
            return
        try:
            self._route_all()
        except OSError as error:
            print(f"elb: HAProxy does not answer: {error}", flush=True)

    def _route_all(self) -> None:
        wanted = {
            target.instance_id: ("drain" if target.said == _LEAVING else "ready", f"{target.address}:{target.port}")
            for target in self._targets.values()
            if target.said in ("healthy", _LEAVING)
        }
        for instance_id in self._routes.keys() - wanted.keys():
            self._cut(instance_id)
        for instance_id, (state, where) in wanted.items():
            if self._routes.get(instance_id) == state:
                continue
            if instance_id not in self._routes:
                if state == "drain":
                    continue  # it never had any
                self._tell(f"add server {BACKEND}/{instance_id} {where} pool-max-conn 0")
            self._tell(f"set server {BACKEND}/{instance_id} state {state}")
            self._routes[instance_id] = state

    def _cut(self, instance_id: str) -> None:
        """Take it out; while HAProxy is still ending its connections, the next round tries again."""
        server = f"{BACKEND}/{instance_id}"
        self._tell(f"set server {server} state maint")
        self._tell(f"shutdown sessions server {server}")
        if "still has connections" in self._tell(f"del server {server}"):
            self._routes[instance_id] = "maint"
        else:
            del self._routes[instance_id]

    def _tell(self, command: str) -> str:
        assert self._control is not None  # noqa: S101 (for the type checker)
        return haproxy.tell(self._control, command)


def _answers(target: Target, group: Any) -> bool:
    """Whether it answers as the group wants it to."""
    matcher: Mapping[str, Any] = getattr(group, "matcher", None) or {}
    good = {int(code) for code in str(matcher.get("HttpCode", "200")).split(",") if code.isdigit()}
    seconds = float(group.health_check_timeout_seconds)
    connection = http.client.HTTPConnection(target.address, target.port, timeout=seconds)
    try:
        connection.request("GET", group.health_check_path or "/")
        return connection.getresponse().status in good
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
