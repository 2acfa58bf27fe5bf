"""EBS as EC2 documents it, where moto is laxer: tokens, one instance at a time, states that take time, pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from lab.ec2words import error

Ask = Callable[[Mapping[str, str], dict[str, Any]], tuple[str, Any, bytes]]
_ID = re.compile(rb"<volumeId>(vol-[0-9a-f]+)</volumeId><size>|<volumeId>(vol-[0-9a-f]+)</volumeId>")


class Disks:
    """What stands between a caller and moto's volumes; the truth is moto's own."""

    def __init__(self, backend: Callable[[], Any], instances: Callable[[], dict[str, Any]], ask: Ask) -> None:
        self._backend, self._instances, self._ask = backend, instances, ask
        self._tokens: dict[str, tuple[dict[str, str], tuple[str, Any, bytes]]] = {}
        self._reads_left: dict[str, int] = {}
        """How many reads show a volume's attachment on its way, by the volume's id."""
        self.reads = 0
        """How many reads see a change under way."""

    def create(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        """The same token with the same parameters gives the same volume, with others an error."""
        token = params.get("ClientToken", "")
        if token and token in self._tokens:
            frozen, reply = self._tokens[token]
            if frozen != params:
                words = "Arguments on this idempotent request are inconsistent with arguments used in previous request."
                return error("ec2", "IdempotentParameterMismatch", words)
            return reply
        reply = self._ask(params, environ)
        if token and reply[0].startswith("200"):
            self._tokens[token] = params, reply
        return reply

    def attach(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        """Only what is free, in the same zone, to an instance that runs or is stopped."""
        volume = self._backend().volumes.get(params["VolumeId"])
        instance = self._instances().get(params["InstanceId"])
        if volume is None or instance is None:
            return self._ask(params, environ)  # moto has the words
        if volume.attachment is not None:
            return error("ec2", "VolumeInUse", f"{volume.id} is already attached to an instance")
        if instance.state not in ("running", "stopped"):
            return error("ec2", "IncorrectState", f"Instance '{instance.id}' is not 'running'.")
        if volume.zone.name != instance._placement.zone:
            return error("ec2", "InvalidVolume.ZoneMismatch", "The volume and the instance are in different zones.")
        if params["Device"] in instance.block_device_mapping:
            return error("ec2", "InvalidParameterValue", f"{params['Device']} is already in use")
        self._reads_left[volume.id] = self.reads
        return self._ask(params, environ)

    def detach(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        """Only from whoever has it. moto frees it at once."""
        volume = self._backend().volumes.get(params["VolumeId"])
        if volume is not None and volume.attachment is None:
            return error("ec2", "IncorrectState", f"Volume '{volume.id}' is in the 'available' state.")
        if volume is not None and volume.attachment.instance.id != params.get("InstanceId", ""):
            return error("ec2", "InvalidAttachment.NotFound", f"{volume.id} is not attached to that instance")
        self._reads_left.pop(params["VolumeId"], None)
        return self._ask(params, environ)

    def describe(self, params: dict[str, str], environ: dict[str, Any], page: int) -> tuple[str, Any, bytes]:
        """In pages, where a page is asked for and the lab makes them small."""
        asked = {key: value for key, value in params.items() if key not in ("MaxResults", "NextToken")}
        for volume in self._backend().volumes.values():
            if volume.attachment is not None:
                on_its_way = self._reads_left.get(volume.id, 0) > 0
                volume.attachment.status = "attaching" if on_its_way else "attached"
        status, headers, content = self._ask(asked, environ)
        self._reads_left = {key: left - 1 for key, left in self._reads_left.items() if left > 1}
        if not page or not status.startswith("200"):
            return status, headers, content
        shown = list(dict.fromkeys(self._listed(content)))
        start = int(params.get("NextToken") or 0)
        part, rest = shown[start : start + page], shown[start + page :]
        if not rest and not start:
            return status, headers, content
        only = {key: value for key, value in asked.items() if not key.startswith(("Filter.", "VolumeId."))}
        only |= {f"VolumeId.{number}": each for number, each in enumerate(part, 1)}
        status, headers, content = self._ask(only, environ)
        if rest:
            more = f"<nextToken>{start + page}</nextToken></DescribeVolumesResponse>".encode()
            content = content.replace(b"</DescribeVolumesResponse>", more)
        return status, [each for each in headers if each[0].lower() != "content-length"], content

    def _listed(self, content: bytes) -> list[str]:
        known = self._backend().volumes
        found = (match[1] or match[2] for match in _ID.finditer(content))
        return [text for each in found if (text := each.decode()) in known]
