"""What Amazon's API says, for the lab's EC2: calls, errors, targets, consoles."""

from __future__ import annotations

import base64
import json
import re
import secrets
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape


@dataclass(frozen=True)
class Call:
    """One request, as it came in."""

    service: str
    action: str
    params: Mapping[str, str]
    key: str
    """Id of the access key that signed it."""

    @property
    def permissions(self) -> set[str]:
        """What its caller must be allowed, in a policy's words: tags or a role at birth need more than itself."""
        needed = {f"{self.service}:{self.action}"}
        if self.action in ("CreateVolume", "CreateSnapshot"):
            needed |= {"ec2:CreateTags"} if "TagSpecification.1.ResourceType" in self.params else set()
        if self.action == "RunInstances":
            needed |= {"ec2:CreateTags"} if "TagSpecification.1.ResourceType" in self.params else set()
            needed |= {"iam:PassRole"} if self.params.get("IamInstanceProfile.Name") else set()
        return needed


@dataclass
class Target:
    """One target of a target group."""

    healthy: bool = True
    open: int = 0
    """Requests that are open at it."""
    draining: bool = False
    drain_reads: int = 2
    """How many reads show it draining before the delay is over, once no request is open."""
    initial_reads: int = 1
    reason: str = ""
    """A state and reason to report instead: ``unused Target.NotInUse``."""


@dataclass
class Fault:
    """What goes wrong with the next calls of an action."""

    code: str = ""
    """Refuse with that code; empty: do it and lose the reply. ``garbage``: a page of whatever lies in between."""
    status: int = 400
    times: int = 1
    after: int = 0
    """Only after so many calls that go well."""


XMLNS = 'xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"'


def target_ids(params: Mapping[str, str]) -> list[str]:
    """The targets that a request names."""
    return [value for key, value in params.items() if re.fullmatch(r"Targets\.member\.\d+\.Id", key)]


def ok(text: str) -> tuple[str, Any, bytes]:
    """A reply: status, headers, content."""
    return "200 OK", [("Content-Type", "text/xml;charset=UTF-8")], text.encode()


def error(service: str, code: str, words: str, status: int = 400) -> tuple[str, Any, bytes]:
    """An error, as that service words it."""
    if service == "ebs":
        headers = [("Content-Type", "application/json"), ("x-amzn-ErrorType", code)]
        return f"{status} Refused", headers, json.dumps({"message": words}).encode()
    inner = f"<Error><Code>{code}</Code><Message>{escape(words)}</Message></Error>"
    if code == "garbage":
        text = "<!doctype html><title>Gateway</title>"
    elif service == "ec2":
        text = f"<Response><Errors>{inner}</Errors><RequestID>1</RequestID></Response>"
    else:
        text = f"<ErrorResponse>{inner}<RequestId>1</RequestId></ErrorResponse>"
    return f"{status} Refused", [("Content-Type", "text/xml;charset=UTF-8")], text.encode()


def health(targets: Iterable[tuple[str, int, str]]) -> tuple[str, Any, bytes]:
    """The health of targets: id, port, and state with the reason after a blank."""
    entries = []
    for each, port, said in targets:
        word, _, reason = said.partition(" ")
        told = f"<Reason>{reason}</Reason>" if reason else ""
        entries.append(
            f"<member><Target><Id>{escape(each)}</Id><Port>{port}</Port></Target>"
            f"<TargetHealth><State>{word}</State>{told}</TargetHealth></member>"
        )
    return ok(
        '<DescribeTargetHealthResponse xmlns="http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/">'
        f"<DescribeTargetHealthResult><TargetHealthDescriptions>{''.join(entries)}</TargetHealthDescriptions>"
        "</DescribeTargetHealthResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>"
        "</DescribeTargetHealthResponse>"
    )


def console(*keys: str) -> str:
    """What a machine has written since its boot; with new host keys if none are given."""
    blob = struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 32) + secrets.token_bytes(32)
    lines = "\n".join(keys or [f"ssh-ed25519 {base64.b64encode(blob).decode()} root@machine"])
    return (
        "[    0.000000] Linux version 6.8.0-aws\nci-info: no authorized SSH keys fingerprints found for user ubuntu.\n"
        f"-----BEGIN SSH HOST KEY KEYS-----\n{lines}\n-----END SSH HOST KEY KEYS-----\n"
        "[   12.345678] cloud-init[812]: Cloud-init finished.\nmachine login: "
    )
