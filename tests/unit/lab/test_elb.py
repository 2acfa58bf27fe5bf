"""The lab's Elastic Load Balancing: targets are what they answer, and drain for as long as Amazon says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from lab.elb import Balancing
from tests.contract.machinery import wait_for

ARN = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/web/0123456789abcdef"


class Service:
    """Something that answers a health check as it is told to."""

    status = 200

    @contextmanager
    def serving(self) -> Iterator[int]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(service.status if self.path == "/healthz" else 404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Silence."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield int(server.server_port)
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class World:
    """One group, and instances in the states that a test gives them."""

    def __init__(self) -> None:
        self.states = {"i-1": "running"}
        self.group = SimpleNamespace(
            attributes={"deregistration_delay.timeout_seconds": "0.5"},
            load_balancer_arns=["arn"],
            port="80",
            health_check_path="/healthz",
            health_check_interval_seconds=30,
            health_check_timeout_seconds="1",
            healthy_threshold_count="2",
            unhealthy_threshold_count="2",
            matcher={"HttpCode": "200"},
        )
        self.balancing = Balancing(lambda _: self.group, lambda each: self.states.get(each, ""), None, interval=0.05)

    def said(self) -> str:
        ((_, __, word),) = self.balancing.health(ARN, ["i-1"])
        return word


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.balancing.start()
    yield world
    world.balancing.stop()


def until(world: World, word: str) -> None:
    wait_for(lambda: world.said().startswith(word), f"{word}; it is {world.said()}", seconds=5)


def test_a_target_is_what_it_answers(world: World) -> None:
    service = Service()
    with service.serving() as port:
        world.balancing.register(ARN, "i-1", "127.0.0.1", port)
        assert world.said() == "initial Elb.RegistrationInProgress"
        until(world, "healthy")
        service.status = 503
        until(world, "unhealthy Target.FailedHealthChecks")
        service.status = 200
        until(world, "healthy")


def test_a_target_that_nobody_answers_for_never_becomes_healthy(world: World) -> None:
    with Service().serving() as port:
        pass
    world.balancing.register(ARN, "i-1", "127.0.0.1", port)
    until(world, "unhealthy")


def test_a_target_drains_for_the_whole_delay_and_is_then_none(world: World) -> None:
    with Service().serving() as port:
        world.balancing.register(ARN, "i-1", "127.0.0.1", port)
        until(world, "healthy")
        began = time.monotonic()
        world.balancing.deregister(ARN, "i-1")
        assert world.said() == "draining Target.DeregistrationInProgress"
        until(world, "unused Target.NotRegistered")
        assert 0.4 < time.monotonic() - began < 2
        assert world.balancing.health(ARN, []) == []


def test_a_target_that_drains_and_is_registered_anew_is_asked_from_the_start(world: World) -> None:
    with Service().serving() as port:
        world.balancing.register(ARN, "i-1", "127.0.0.1", port)
        until(world, "healthy")
        world.balancing.deregister(ARN, "i-1")
        world.balancing.register(ARN, "i-1", "127.0.0.1", port)
        assert world.said() == "initial Elb.RegistrationInProgress"


def test_targets_of_a_group_that_no_load_balancer_uses_are_unused(world: World) -> None:
    world.group.load_balancer_arns = []
    world.balancing.register(ARN, "i-1", "127.0.0.1", 9)
    assert world.said() == "unused Target.NotInUse"


@pytest.mark.parametrize(
    ("state", "word"), [("stopped", "unused Target.InvalidState"), ("terminated", "unused Target.NotReg")]
)
def test_an_instance_that_does_not_run_gets_nothing(world: World, state: str, word: str) -> None:
    with Service().serving() as port:
        world.balancing.register(ARN, "i-1", "127.0.0.1", port)
        until(world, "healthy")
        world.states["i-1"] = state
        until(world, word)


def test_a_group_of_which_nothing_is_known_is_an_error(world: World) -> None:
    groups: dict[str, Any] = {}
    with pytest.raises(KeyError):
        Balancing(groups.__getitem__, lambda _: "", None).health(ARN, [])
