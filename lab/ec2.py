"""Amazon EC2 and its load balancers without Amazon: moto, and around it what moto leaves out.

moto keeps what there is and speaks the API. This layer adds, as EC2's documentation has it:

* images that must exist to be launched;
* client tokens (https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html): the same token with the
  same parameters gives the same reservation, with others ``IdempotentParameterMismatch``, and once its instance is
  terminated ``IdempotentInstanceTerminated``. moto 5.2.5 ignores the token.
* instances that are pending and shutting down for a while, not running and terminated in the same moment;
* consoles on which cloud-init has written host keys of each machine's own;
* targets of a load balancer with a health of their own, that drain as long as requests are open;
* blocks of snapshots (``lab.ec2blocks``).

And it breaks on order: it throttles, refuses, loses replies, lags, drops filters, makes pages small. Every call is
kept in ``calls``.
"""

from __future__ import annotations

import base64
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, urlencode

from lab import ec2blocks, ec2images
from lab.ec2volumes import Disks
from lab.ec2words import XMLNS, Call, Fault, Target, console, error, health, ok, target_ids

REGION = "eu-central-1"
ACCOUNT = "123456789012"
_SIGNED = re.compile(r"Credential=(?P<key>[^/]+)/\d+/[^/]+/(?P<service>[a-z0-9-]+)/")
Answer = Callable[[dict[str, str], dict[str, Any]], tuple[str, Any, bytes]]
_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


@dataclass
class Cloud:
    """The API on a port of loopback, for as long as ``running`` lasts."""

    port: int = 0
    calls: list[Call] = field(default_factory=list)
    boot_reads: int = 1
    """How many reads see a new instance pending."""
    stop_reads: int = 1
    lag_reads: int = 0
    """How many reads do not show a new instance at all."""
    page: int = 0
    """The most reservations in a page; 0 for as many as asked for."""
    drop_filters: bool = False
    consoles: dict[str, str] = field(default_factory=dict)
    nitro: bool = True
    """Whether the latest console output can be had."""
    targets: dict[tuple[str, str], Target] = field(default_factory=dict)
    """By target group and instance."""
    health: dict[str, bool] = field(default_factory=dict)
    """Of instances that were told to be sick or well, by id."""

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._faults: dict[str, Fault] = {}
        self._tokens: dict[str, tuple[dict[str, str], list[str], tuple[str, Any, bytes]]] = {}
        self._reads_left: dict[str, int] = {}
        self._hidden: dict[str, int] = {}
        self.blocks = ec2blocks.Blocks(lambda: self.backend.snapshots)
        self.disks = Disks(lambda: self.backend, self.instances, self._ask_moto)

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self.port}"

    # What a test orders

    def lose_reply(self, action: str, times: int = 1) -> None:
        """Do the next one and close the connection without an answer."""
        self._faults[action] = Fault(times=times)

    def refuse(self, action: str, code: str, *, status: int = 400, times: int = 1, after: int = 0) -> None:
        """Answer the next ones with that error, without doing anything."""
        self._faults[action] = Fault(code, status, times, after)

    def heal(self) -> None:
        """Let everything work again."""
        self._faults.clear()
        self.boot_reads = self.stop_reads = 1
        self.lag_reads = self.page = self.disks.reads = 0
        self.blocks.page = 10_000
        self.drop_filters, self.nitro = False, True

    def called(self, action: str) -> list[Call]:
        """Every call of that action so far."""
        return [call for call in self.calls if call.action == action]

    @property
    def backend(self) -> Any:
        """Moto's own EC2: the truth without lag."""
        from moto.ec2.models import ec2_backends

        return ec2_backends[ACCOUNT][REGION]

    def instances(self) -> dict[str, Any]:
        """Every instance ever, by id, as moto keeps it."""
        return {each.id: each for group in self.backend.reservations.values() for each in group.instances}

    def set_state(self, instance_id: str, word: str, message: str = "") -> None:
        """Something happened to that instance."""
        with self._lock:
            instance = self.instances()[instance_id]
            instance._state.name, instance._state.code = word, _CODES[word]
            instance._reason = message
            instance.state_reason.code, instance.state_reason.message = "Client.InstanceInitiatedShutdown", message
            self._reads_left.pop(instance_id, None)

    def forget(self, instance_id: str) -> None:
        """Show no trace of that instance any more, as about an hour after its end."""
        with self._lock:
            reservations = self.backend.reservations
            for key, group in list(reservations.items()):
                if any(each.id == instance_id for each in group.instances):
                    del reservations[key]
            self._reads_left.pop(instance_id, None)

    # The API

    @contextmanager
    def running(self) -> Iterator[Cloud]:
        """An empty account behind ``port``, or behind a free one."""
        from moto.backends import get_backend
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        for service in ("ec2", "elbv2", "iam", "sts"):
            get_backend(service).reset()
        ec2images.complete()
        self._moto = DomainDispatcherApplication(create_backend_app)
        server = make_server("127.0.0.1", self.port, self, threaded=True, request_handler=_quiet())
        self.port = int(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """WSGI: one request."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
        params = dict(parse_qsl(body, keep_blank_values=True))
        signed = _SIGNED.search(environ.get("HTTP_AUTHORIZATION", ""))
        service, key = (signed["service"], signed["key"]) if signed else ("", "")
        path = environ.get("PATH_INFO", "")
        if service == "ebs":
            params = dict(parse_qsl(environ.get("QUERY_STRING", "")))
        call = Call(service, params.get("Action", "") or ec2blocks.action(path), params, key)
        with self._lock:  # moto is not made for threads
            self.calls.append(call)
            fault = self._fault(call.action)
            if fault is not None and fault.code:
                reply = error(call.service, fault.code, f"{call.action} is refused here.", fault.status)
            else:
                reply = self.blocks.answer(path, params) if service == "ebs" else self._answer(call, environ)
        if fault is not None and not fault.code:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        status, headers, content = reply
        start_response(status, headers)
        return [content]

    def _fault(self, action: str) -> Fault | None:
        fault = self._faults.get(action)
        if fault is None:
            return None
        if fault.after:
            fault.after -= 1
            return None
        fault.times -= 1
        if fault.times <= 0:
            del self._faults[action]
        return fault

    def _answer(self, call: Call, environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        own = self._own()
        params = dict(call.params)
        if self.drop_filters:
            params = {key: value for key, value in params.items() if not key.startswith("Filter.")}
        if call.action in own:
            return own[call.action](params, environ)
        return self._ask_moto(params, environ)

    def _own(self) -> dict[str, Answer]:
        """The actions that are not moto's alone."""
        return {
            "RunInstances": self._run,
            "CreateImage": self._create_image,
            "DescribeInstances": self._describe,
            "TerminateInstances": self._terminate,
            "StopInstances": self._stop,
            "GetConsoleOutput": self._console,
            "CreateVolume": self.disks.create,
            "AttachVolume": self.disks.attach,
            "DetachVolume": self.disks.detach,
            "DescribeVolumes": lambda asked, env: self.disks.describe(asked, env, self.page),
            "RegisterTargets": self._register,
            "DeregisterTargets": self._deregister,
            "DescribeTargetHealth": self._target_health,
        }

    def _ask_moto(self, params: Mapping[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        body = urlencode(params).encode()
        got: list[Any] = []
        asked = {**environ, "wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        content = b"".join(self._moto(asked, lambda status, headers, *_: got.extend([status, headers])))
        return got[0], got[1], content

    # Instances

    def _run(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        token = params.get("ClientToken", "")
        if token and token in self._tokens:
            frozen, ids, reply = self._tokens[token]
            if frozen != params:
                words = "Arguments on this idempotent request are inconsistent with arguments used in previous request."
                return error("ec2", "IdempotentParameterMismatch", words)
            known = self.instances()
            if any(each not in known or known[each].state == "terminated" for each in ids):
                return error("ec2", "IdempotentInstanceTerminated", "The instance of this token is terminated.")
            return reply
        if params.get("ImageId") not in self.backend.amis:  # moto takes any
            return error("ec2", "InvalidAMIID.NotFound", f"The image id '[{params.get('ImageId')}]' does not exist")
        before = set(self.instances())
        reply = self._ask_moto(params, environ)
        born = [each for each in self.instances() if each not in before]
        for instance_id in born:
            self.set_state(instance_id, "pending")
            self._reads_left[instance_id] = self.boot_reads
            self._hidden[instance_id] = self.lag_reads
        if token and reply[0].startswith("200"):
            self._tokens[token] = params, born, reply
        return reply

    def _create_image(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        reply = self._ask_moto(params, environ)
        if reply[0].startswith("200"):
            ec2images.encrypt(self.backend, params["InstanceId"])
        return reply

    def _describe(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        if self.page and "MaxResults" in params:
            params = {**params, "MaxResults": str(self.page)}
        reservations = self.backend.reservations
        hidden = {
            key: group
            for key, group in reservations.items()
            if any(self._hidden.get(each.id) for each in group.instances)
        }
        for key in hidden:
            del reservations[key]
        try:
            reply = self._ask_moto(params, environ)
        finally:
            reservations.update(hidden)
        self._hidden = {key: left - 1 for key, left in self._hidden.items() if left > 1}
        self._age()
        return reply

    def _age(self) -> None:
        for instance_id in list(self._reads_left):
            self._reads_left[instance_id] -= 1
            if self._reads_left[instance_id] <= 0:
                after = {"pending": "running", "shutting-down": "terminated", "stopping": "stopped"}
                self.set_state(instance_id, after[self.instances()[instance_id].state])

    def _terminate(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        known = self.instances()
        living = [
            value
            for key, value in params.items()
            if key.startswith("InstanceId.") and value in known and known[value].state != "terminated"
        ]
        reply = self._ask_moto(params, environ)
        for instance_id in living:
            self.set_state(instance_id, "shutting-down", "User initiated")
            self._reads_left[instance_id] = self.stop_reads
        return reply

    def _stop(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        known = self.instances()
        asked = [value for key, value in params.items() if key.startswith("InstanceId.") and value in known]
        if any(known[each].state not in ("running", "stopping", "stopped") for each in asked):
            return error(
                "ec2", "IncorrectInstanceState", "The instance is not in a state from which it can be stopped."
            )
        running = [each for each in asked if known[each].state == "running"]
        reply = self._ask_moto(params, environ)
        for instance_id in running:
            self.set_state(instance_id, "stopping", "User initiated")
            self._reads_left[instance_id] = self.stop_reads
        return reply

    def _console(self, params: dict[str, str], _: dict[str, Any]) -> tuple[str, Any, bytes]:
        if params.get("Latest") == "true" and not self.nitro:
            return error("ec2", "UnsupportedOperation", "This instance type does not support retrieving the latest.")
        instance_id = params["InstanceId"]
        if instance_id not in self.instances():
            return error("ec2", "InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist")
        text = self._written(instance_id)
        return ok(
            f"<GetConsoleOutputResponse {XMLNS}><requestId>1</requestId><instanceId>{instance_id}</instanceId>"
            f"<timestamp>{datetime.now(UTC).isoformat()}</timestamp>"
            f"<output>{base64.b64encode(text.encode()).decode()}</output></GetConsoleOutputResponse>"
        )

    def _written(self, instance_id: str) -> str:
        """What is on its console."""
        return self.consoles.setdefault(instance_id, console())

    # Targets

    def _register(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        reply = self._ask_moto(params, environ)
        if reply[0].startswith("200"):
            for each in target_ids(params):
                known = self.targets.get((params["TargetGroupArn"], each))
                if known is None or known.draining:
                    self.targets[params["TargetGroupArn"], each] = Target(
                        healthy=self.health.get(each, True), open=known.open if known else 0
                    )
        return reply

    def _deregister(self, params: dict[str, str], environ: dict[str, Any]) -> tuple[str, Any, bytes]:
        reply = self._ask_moto(params, environ)
        if reply[0].startswith("200"):
            for each in target_ids(params):
                if target := self.targets.get((params["TargetGroupArn"], each)):
                    target.draining = True
        return reply

    def _target_health(self, params: dict[str, str], _: dict[str, Any]) -> tuple[str, Any, bytes]:
        arn = params["TargetGroupArn"]
        ids = target_ids(params) or [each for group, each in self.targets if group == arn]
        entries = []
        for each in ids:
            target = self.targets.get((arn, each))
            if target is not None and target.draining and target.drain_reads <= 0:
                del self.targets[arn, each]
                target = None
            entries.append((each, 80, self._health_of(target)))
        return health(entries)

    @staticmethod
    def _health_of(target: Target | None) -> str:
        if target is None:
            return "unused Target.NotRegistered"
        if target.reason:
            return target.reason
        if target.draining:
            target.drain_reads -= not target.open
            return "draining Target.DeregistrationInProgress"
        if target.initial_reads > 0:
            target.initial_reads -= 1
            return "initial Elb.RegistrationInProgress"
        return "healthy" if target.healthy else "unhealthy Target.FailedHealthChecks"


def _quiet() -> type[Any]:
    from werkzeug.serving import WSGIRequestHandler

    class Quiet(WSGIRequestHandler):
        """Without a line for each request."""

        def log(self, type: str, message: str, *args: Any) -> None:
            """Silence."""

    return Quiet


def main(argv: Sequence[str]) -> None:
    """Serve on the given port of loopback, or on a free one, until told to end; the first line says where."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with Cloud(port=int(argv[0]) if argv else 0).running() as cloud:
        print(cloud.url, flush=True)
        ended.wait()


if __name__ == "__main__":
    main(sys.argv[1:])
