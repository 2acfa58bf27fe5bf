"""Whether a service answers well, several times in a row, and whether it is the right one that answers."""

from __future__ import annotations

import errno
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, Literal

import httpx
from pydantic import Field

from phoenix_fleet.config import Frozen
from phoenix_fleet.domain.models import Subject
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.gates import _proof
from phoenix_fleet.gates.base import Gate

_LARGEST = 1024 * 1024
"""Bytes of an answer that are read."""
_OURS = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM})
"""Errors of this machine rather than of the one asked."""


class Settings(Frozen):
    """What to ask, and what a good answer is."""

    port: int | None = Field(None, ge=1, le=65535, description="Port of the instance. Default: the scheme's own.")
    path: str = Field("/healthz", pattern=r"^/[!-~]*$", description="Path to ask for. Default: /healthz.")
    scheme: Literal["http", "https"] = Field("http", description="http or https. Default: http.")
    samples: int = Field(5, ge=1, le=1000, description="Every one of so many answers must be good. Default 5.")
    interval: float = Field(0.5, ge=0, le=60, description="Seconds between two samples. Default 0.5.")
    timeout: float = Field(5, gt=0, le=60, description="Seconds that one answer may take. Default 5.")
    expect_status: int = Field(200, ge=100, le=599, description="HTTP status of a good answer. Default 200.")
    expect: dict[str, str | int | float | bool | None] = Field(
        default_factory=dict, description="Fields of the JSON answer with their values. Default: any answer."
    )
    identify: bool = Field(
        True,
        description="The headers X-Instance and X-Release must be the instance's name and version, so that a stranger"
        " at its address fails. Default: true.",
    )


class CannotMeasure(Exception):
    """The reason lies with us: nothing is known of the service."""


@dataclass(frozen=True)
class Sample:
    """One question and its answer."""

    seconds: float
    status: int | None
    problem: str
    """Empty for a good answer."""


class Driver(Gate):
    """Passed if every sample is good; the first bad one ends it.

    Refused and broken connections, time-outs and wrong answers are bad health. What says nothing of the service is
    an error: no address, a name that does not resolve, a network of ours that is down, nobody to identify.
    """

    Settings = Settings

    def measure(self, subject: Subject) -> Measurement:
        """The instance's own address asked, or ``subject.endpoint`` where there is no instance."""
        samples: list[Sample] = []
        url = ""
        try:
            url = self._url(subject)
            samples.extend(self._samples(url, subject))
        except CannotMeasure as why:
            return Measurement(
                value=f"not measured: {why}", passed=None, details={"url": url}, artefacts=(), error=str(why)
            )
        bad = next((sample for sample in samples if sample.problem), None)
        slowest = max(sample.seconds for sample in samples)
        good = f"{len(samples)} of {self.settings.samples} answers good, slowest {slowest * 1000:.0f} ms"
        details: dict[str, Any] = {"url": url, "samples": [asdict(sample) for sample in samples]}
        proof = _proof.write_json(subject.workdir, "health", details)
        return Measurement(
            value=f"answer {len(samples)} of {self.settings.samples}: {bad.problem}" if bad else good,
            passed=not bad,
            details=details,
            artefacts=(proof,),
        )

    def _url(self, subject: Subject) -> str:
        if self.settings.identify and not subject.instance:
            raise CannotMeasure("there is no instance to identify; set identify: false to measure a front")
        if subject.instance:
            if not subject.instance.address:
                raise CannotMeasure(f"{subject.instance.name} has no address")
            port = f":{self.settings.port}" if self.settings.port else ""
            return f"{self.settings.scheme}://{_host(subject.instance.address)}{port}{self.settings.path}"
        if not subject.endpoint:
            raise CannotMeasure("there is neither an instance nor an endpoint")
        return f"{subject.endpoint.rstrip('/')}{self.settings.path}"

    def _samples(self, url: str, subject: Subject) -> Iterator[Sample]:
        # No proxy and no redirect: who answers must be the one that was asked. No connection is kept, or all
        # samples would speak with one worker of the service.
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(timeout=self.settings.timeout, trust_env=False, limits=limits) as client:
            for number in range(self.settings.samples):
                if number:
                    time.sleep(self.settings.interval)
                sample = self._sample(client, url, subject)
                yield sample
                if sample.problem:
                    return

    def _sample(self, client: httpx.Client, url: str, subject: Subject) -> Sample:
        started = time.monotonic()
        status: int | None = None
        try:
            with client.stream("GET", url) as answer:
                status = answer.status_code
                problem = self._problem(answer, subject, started + self.settings.timeout)
        except httpx.TimeoutException:
            problem = f"no answer within {self.settings.timeout:g} s"
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise CannotMeasure(f"{url} cannot be asked: {error}") from None
        except httpx.RequestError as error:
            if ours := _our_fault(error):
                raise CannotMeasure(f"{url} cannot be asked from here: {ours}") from None
            problem = f"no answer: {error or type(error).__name__}"
        return Sample(round(time.monotonic() - started, 4), status, problem)

    def _problem(self, answer: httpx.Response, subject: Subject, end: float) -> str:
        if self.settings.identify and subject.instance:
            for header, expected in (("X-Instance", subject.instance.name), ("X-Release", subject.instance.version)):
                if (said := answer.headers.get(header, "")) != expected:
                    return f"{header} is '{said[:100]}', not '{expected}': a stranger answers"
        if answer.status_code != self.settings.expect_status:
            return f"status {answer.status_code}, not {self.settings.expect_status}"
        body = b""
        for part in answer.iter_bytes():
            body += part
            if len(body) > _LARGEST:
                return f"the answer is larger than {_LARGEST} bytes"
            if time.monotonic() > end:  # httpx bounds each read, and a drip could go on for ever
                return f"no whole answer within {self.settings.timeout:g} s"
        return self._mismatch(body) if self.settings.expect else ""

    def _mismatch(self, body: bytes) -> str:
        try:
            data = json.loads(body)
        except (ValueError, RecursionError):
            return "the answer is not JSON"
        if not isinstance(data, dict):
            return "the answer is not a JSON object"
        for name, expected in self.settings.expect.items():
            if name not in data or data[name] != expected or isinstance(data[name], bool) != isinstance(expected, bool):
                return f"'{name}' is {str(data.get(name))[:100]!r}, not {expected!r}"
        return ""


def _host(address: str) -> str:
    try:
        return f"[{address}]" if isinstance(ip_address(address), IPv6Address) else address
    except ValueError:
        if not address.replace("-", "").replace(".", "").isalnum():
            raise CannotMeasure(f"'{address[:100]}' is not an address") from None
        return address


def _our_fault(error: BaseException) -> str:
    """Why the cause lies on this side, or nothing."""
    seen: BaseException | None = error
    while seen:
        if isinstance(seen, socket.gaierror) or (isinstance(seen, OSError) and seen.errno in _OURS):
            return str(seen)
        seen = seen.__cause__ or seen.__context__
    return ""
