"""Traffic to a Service of the lab's cluster: an HAProxy that is fed the Service's endpoints, as kube-proxy would be.

``python -m lab.endpoints FILE`` with a file that says which. An address that is no endpoint any more gets nothing
new at once, and goes when its last request is answered. While the API does not answer everything stays as it was.
"""

from __future__ import annotations

import csv
import json
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import haproxy
from lab.kubeapi import Api, Identity, Object

_ROUND = 0.1
"""Seconds between two looks at what drains."""
_OUT = ("DRAIN", "MAINT")


@dataclass(frozen=True)
class Exposed:
    """Which Service, and through which HAProxy."""

    identity: dict[str, str]
    namespace: str
    service: str
    control: str
    """Path of HAProxy's runtime socket."""
    backend: str


def addresses(endpoints: Object) -> dict[str, str]:
    """Where the ready pods of a Service answer on its first port, by a name for each."""
    found = {}
    for subset in endpoints.get("subsets") or []:
        port = subset["ports"][0]["port"] if subset.get("ports") else None
        for each in subset.get("addresses") or [] if port else []:
            pod = (each.get("targetRef") or {}).get("name", "pod")
            found[f"{pod}_{each['ip']}"] = f"{each['ip']}:{port}"
    return found


class Feeder:
    """What HAProxy's backend is to have, and makes it have."""

    def __init__(self, control: Path, backend: str) -> None:
        self._control, self._backend = control, backend
        self._wanted: Mapping[str, str] | None = None
        self._changed = threading.Event()

    def want(self, wanted: Mapping[str, str]) -> None:
        """These servers and no other, each with its address."""
        self._wanted = wanted
        self._changed.set()

    def run(self, over: threading.Event) -> None:
        """Do so until then."""
        while not over.is_set():
            self._changed.wait(1)
            self._changed.clear()
            try:
                while self._wanted is not None and not self.settle(self._wanted):
                    over.wait(_ROUND)
            except OSError as error:
                print(f"HAProxy does not answer: {error}", flush=True)
                over.wait(_ROUND)
                self._changed.set()

    def settle(self, wanted: Mapping[str, str]) -> bool:
        """One round; whether all is as wanted. :raises OSError: HAProxy does not answer."""
        there = self._servers()
        for name, where in wanted.items():
            if name not in there:
                self._tell(f"add server {self._backend}/{name} {where} pool-max-conn 0")
            if name not in there or there[name]["status"].startswith(_OUT):
                self._tell(f"set server {self._backend}/{name} state ready")
        unwanted = there.keys() - wanted.keys()
        for name in unwanted:
            if not there[name]["status"].startswith(_OUT):
                self._tell(f"set server {self._backend}/{name} state drain")
            elif int(there[name]["scur"]) + int(there[name]["qcur"]) == 0:
                self._tell(f"set server {self._backend}/{name} state maint")
                self._tell(f"del server {self._backend}/{name}")
        return not unwanted

    def _servers(self) -> dict[str, dict[str, str]]:
        """Each server with its line of statistics."""
        lines = haproxy.ask(self._control, f"show stat {self._backend} 4 -1").lstrip("# ").splitlines()
        return {row["svname"]: row for row in csv.DictReader(line for line in lines if line)}

    def _tell(self, command: str) -> None:
        answer = haproxy.ask(self._control, command).strip()
        if answer and "registered" not in answer and "deleted" not in answer:
            print(f"{command}: {answer}", flush=True)


def main(file: Path) -> None:
    """Until told to end."""
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    exposed = Exposed(**json.loads(file.read_text()))
    feeder = Feeder(Path(exposed.control), exposed.backend)
    threading.Thread(target=feeder.run, args=(over,), daemon=True).start()
    threading.Thread(target=_follow, args=(exposed, feeder, over), daemon=True).start()
    over.wait()


def _follow(exposed: Exposed, feeder: Feeder, over: threading.Event) -> None:
    api = Api(Identity(**exposed.identity))
    path = f"/api/v1/namespaces/{exposed.namespace}/endpoints"
    for kind, found in api.follow(path, over, fieldSelector=f"metadata.name={exposed.service}"):
        if kind == "LISTED":
            feeder.want({name: where for each in found["items"] for name, where in addresses(each).items()})
        else:
            feeder.want({} if kind == "DELETED" else addresses(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
