"""Builds for Docker: a container from the seed, committed, pushed as ``<repository>:<version>-candidate``."""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from functools import cached_property

from phoenix_fleet import seeds
from phoenix_fleet.builders.base import NAME, Builder, Inputs, Log, Run
from phoenix_fleet.configfields import Frozen
from phoenix_fleet.connections import Connection
from phoenix_fleet.dockercommand import DockerCommand, Failed
from phoenix_fleet.domain.errors import Unavailable


class Settings(Frozen):
    """Nothing beyond what every build says."""


class Driver(Builder):
    """Docker. Templates get ``seed``, ``registry`` (``host:port``), ``repository`` and the registry's login."""

    Settings = Settings
    seeds = ("suite", "image")
    pushes = True

    def check(self) -> None:
        """The registry and the engine answer."""
        registry = self._registry
        try:
            socket.create_connection((registry.host, registry.port or 443), timeout=5).close()
        except OSError as error:
            raise Unavailable(
                f"The registry {_address(registry)} (connection '{registry.id}') does not answer: {error}",
                remedy="Start it, or mend the connection.",
            ) from error
        self._docker.check_answers()

    def sweep(self, log: Log) -> None:
        """Containers alone: an image that was not pushed is only a layer in a cache."""
        # Ours is only what carries a build id, and that id in its name too; instances born from an image inherit the
        # label without its value.
        shown = '{{.Names}} {{.Label "phoenix.build"}} {{.Label "phoenix.build-until"}}'
        try:
            lines = self._docker.run("container", "ls", "--all", "--filter", "label=phoenix.build", "--format", shown)
        except Failed as error:
            raise Unavailable(f"sweep builds: {error}", remedy="See that dockerd runs and can be reached.") from error
        for line in lines:
            match = re.fullmatch(rf"{NAME}(\S+) (\S+) (\d+)", line)
            if match and match[1] == match[2] and int(match[3]) < time.time():
                log(f"build: removing {NAME}{match[1]}, left behind by a build that was killed")
                self._remove(NAME + match[1])

    def prepare(self, run: Run, log: Log) -> Inputs:
        """The seed in the engine."""
        registry, build = self._registry, self.target.build
        return Inputs(
            variables={
                "seed": seeds.docker_image(self.seed(), log, docker=self._docker),
                "registry": _address(registry),
                "repository": build.repository or run.family,
                "registry_login": bool(registry.login),
                "registry_user": registry.login,
                "registry_password": registry.password,
            },
            environment=self._docker.env,
            secrets=(registry.password,) if registry.password else (),
        )

    def finish(self, run: Run, made: str, log: Log) -> str:
        """The push was what made it a candidate: a registry takes a manifest whole or not at all."""
        log(f"build: {made} is in the registry")
        return ""

    def clean_up(self, run: Run, log: Log) -> None:
        """Packer removes its container itself, unless it was killed outright."""
        self._remove(run.name)

    @cached_property
    def _registry(self) -> Connection:
        return self.connections(self.target.build.registry)

    @cached_property
    def _docker(self) -> DockerCommand:
        return DockerCommand(self.connections(self.target.platform.settings.get("connection", "docker")), self.folder)

    def _remove(self, container: str) -> None:
        """Remove a container of ours by its exact name; if there is none, that is success."""
        with suppress(Failed):  # it must not hide why the build failed; a later build sweeps
            self._docker.run("container", "rm", "--force", "--volumes", container)


def _address(registry: Connection) -> str:
    return f"{registry.host}:{registry.port}" if registry.port else registry.host
