"""What a kubelet tells of a pod: events, of which one that comes again is counted."""

from __future__ import annotations

import secrets

from lab.kubeapi import Api, Object
from lab.kubelet_status import moment
from phoenix_fleet.domain.errors import PhoenixError


class Events:
    """The events of one pod, from any thread. One that cannot be told is left out, as everywhere."""

    def __init__(self, api: Api, node: str, pod: Object) -> None:
        self._api, self._source = api, {"component": "kubelet", "host": node}
        meta = pod["metadata"]
        self._about = {
            "kind": "Pod",
            "apiVersion": "v1",
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
        }
        self._path = f"/api/v1/namespaces/{meta['namespace']}/events"
        self._told: dict[tuple[str, str], tuple[str, int]] = {}

    def tell(self, kind: str, reason: str, message: str) -> None:
        """``Normal`` or ``Warning``, with a reason in one word and a message for people."""
        key = (reason, message)
        name, count = self._told.get(key, ("", 0))
        now = moment()
        try:
            if name:
                self._api.patch(f"{self._path}/{name}", {"count": count + 1, "lastTimestamp": now}, how="merge")
            else:
                name = f"{self._about['name']}.{secrets.token_hex(8)}"
                event = {
                    "metadata": {"name": name, "namespace": self._about["namespace"]},
                    "involvedObject": self._about,
                    "type": kind,
                    "reason": reason,
                    "message": message[:1024],
                    "source": self._source,
                    "count": 1,
                    "firstTimestamp": now,
                    "lastTimestamp": now,
                }
                self._api.create(self._path, event)
        except PhoenixError as error:
            print(f"{self._source['host']}: an event is not told: {error}", flush=True)
            return
        self._told[key] = (name, count + 1)
