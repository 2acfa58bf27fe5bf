"""Containers on one Docker engine, as long-lived instances with SSH: their images come from a registry, by digest."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from phoenix_fleet.domain.errors import InUse, InvalidSpec, NotFound, NotOurs, Refused, Unavailable
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import OWNER, Artefact, Instance, InstanceState, LaunchIntent
from phoenix_fleet.platforms import _docker_engine as engine
from phoenix_fleet.platforms import _docker_view as view
from phoenix_fleet.platforms import _registry
from phoenix_fleet.platforms.base import Platform

if TYPE_CHECKING:
    from docker import APIClient

_ID = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_PUBLIC_KEY = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}( [^\r\n]*)?")
_VERSION = re.compile(r"\d{4}\.\d{2}-\d+")
_TAG = re.compile(r"(?P<version>\d{4}\.\d{2}-\d+)(?:-(?P<status>[a-z]+))?")

_WHILE_IT_IS_CREATED = (0.05,) * 10 + (0.25,) * 10
"""Pauses in seconds, 3 in all."""


class Settings(BaseModel):
    """Where and how containers run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str = Field(description="Docker network that instances join; it must exist.", min_length=1)
    connection: str = Field("docker", description="Airflow connection of the engine. Default: docker.")
    registry: str = Field("registry", description="Airflow connection of the registry. Default: registry.")
    memory: str = Field(
        "", description="Most memory of an instance, such as 512m or 2g. Default: any.", pattern=r"^(\d+[kmg])?$"
    )
    restart: bool = Field(True, description="Whether an instance that ends (reboots) comes back. Default: true.")


class Driver(Platform):
    """Docker. Safe from any thread: every call has a client of its own."""

    Settings = Settings

    # Instances

    def launch(self, intent: LaunchIntent) -> Instance:
        """One container named ``intent.name``, started; pulling the image first is part of the request.

        A container that was created and never started (a crash in between) is finished here. The engine forgets a
        token together with its container: the token of a terminated instance launches anew.
        """
        self._check(intent)
        with self._engine(f"launch {intent.name}") as api:
            found = self._find(api, intent) or self._create(api, intent)
            return self._finish(api, found, intent)

    def get_instance(self, instance_id: str) -> Instance:
        """The container with exactly that id (names and shortened ids are not taken)."""
        with self._engine(f"look at {instance_id}") as api:
            seen = self._inspect(api, instance_id)
            running = view.state(seen["State"]["Status"]) is InstanceState.RUNNING
            return self._instance(api, seen, engine.host_keys(api, instance_id) if running else ())

    def list_instances(self, fleet: str) -> Sequence[Instance]:
        """All containers with the marks of that fleet, in any state; the engine answers with one whole page."""
        with self._engine(f"list {fleet}") as api:
            digests: dict[str, list[str]] = {}
            found = []
            for summary in self._listed(api, {view.FLEET_MARK: fleet}):
                image = str(summary["ImageID"])
                if image not in digests:
                    digests[image] = engine.repo_digests(api, image)
                found.append(view.from_summary(summary, self.settings.network, digests[image]))
            return sorted(found, key=lambda instance: instance.name)

    def terminate(self, instance_id: str) -> None:
        """Kill and remove the container with exactly that id; it has been drained before."""
        import docker.errors

        with self._engine(f"terminate {instance_id}") as api:
            self._inspect(api, instance_id)
            try:
                api.remove_container(instance_id, v=True, force=True)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                if error.status_code != 409 or "already in progress" not in str(error.explanation):
                    raise

    def hostspec(self, instance: Instance) -> str:
        """``docker://<id>``: through the engine, which is trusted more than the network."""
        return f"docker://{instance.id}"

    # Images

    def list_images(self, family: str) -> Sequence[tuple[Artefact, dict[str, str]]]:
        """Every image in the registry with our marks and that family's, by version, whatever its repository."""
        with self._registry() as registry:
            found = [
                (artefact, {"version": labels[view.VERSION_MARK], "status": _status(labels[view.VERSION_MARK], tags)})
                for repository in registry.repositories()
                for artefact, labels, tags in _ours_in(registry, repository)
                if labels.get(view.FAMILY_MARK) == family
            ]
        return sorted(found, key=lambda entry: (entry[1]["version"], entry[0].reference))

    def tag_image(self, artefact: Artefact, status: Rung) -> Artefact:
        """Add the tag ``<version>-<status>``, and ``<version>`` for a released one; tags of rungs before stay.

        :raises Refused: such a tag points at another digest; only that of a candidate may move.
        """
        with self._registry() as registry:
            repository, digest = registry.parse(artefact.reference)
            manifest = registry.manifest(repository, digest)
            version = _our_version(registry.labels(repository, manifest), artefact)
            for tag in (f"{version}-{status}", *([version] if status is Rung.RELEASED else [])):
                present = registry.digest_of(repository, tag)
                if present == digest:
                    continue
                if present and status is not Rung.CANDIDATE:
                    raise Refused(
                        f"{repository}:{tag} points at {present} already, and tags of proven images never move.",
                        remedy="Build a new version.",
                    )
                registry.tag(repository, manifest, tag)
        return artefact

    def delete_image(self, artefact: Artefact) -> None:
        """Delete it from the registry with all its tags, and what the engine keeps of it if nothing needs that."""
        with self._registry() as registry, self._engine(f"delete {artefact.reference}") as api:
            repository, digest = registry.parse(artefact.reference)
            self._check_unused(api, artefact)
            with suppress(NotFound):
                _our_version(registry.labels(repository, registry.manifest(repository, digest)), artefact)
                registry.delete(repository, digest)
            engine.forget_image(api, artefact.reference)

    # Inside

    def _engine(self, what: str) -> AbstractContextManager[APIClient]:
        return engine.engine(self.connections(self.settings.connection), what)

    def _registry(self) -> AbstractContextManager[_registry.Registry]:
        return _registry.opened(self.connections(self.settings.registry))

    def _check(self, intent: LaunchIntent) -> None:
        if not _NAME.fullmatch(intent.name):
            raise InvalidSpec(f"{intent.name!r} is no host name.", remedy="Use letters, digits and dashes, at most 63.")
        if intent.authorized_key and not _PUBLIC_KEY.fullmatch(intent.authorized_key):
            raise InvalidSpec("The authorized key is not one public key.", remedy="Give one line: type, key, comment.")
        with self._registry() as registry:
            if registry.parse(intent.artefact.reference)[1] != intent.artefact.digest:
                raise InvalidSpec(f"{intent.artefact.reference} is not the digest {intent.artefact.digest}.")

    def _listed(self, api: APIClient, wanted: Mapping[str, str]) -> list[dict[str, Any]]:
        """Containers of ours with those marks; never believed if the engine sends any without."""
        wanted = {view.OWNER_MARK: OWNER, **wanted}
        labels = [f"{mark}={value}" for mark, value in wanted.items()]
        found: list[dict[str, Any]] = api.containers(all=True, filters={"label": labels})
        for summary in found:
            own = summary.get("Labels") or {}
            if any(own.get(mark) != value for mark, value in wanted.items()):
                raise Unavailable(
                    f"The Docker engine ignored the filter {labels}: it listed {view.name(summary)!r}.",
                    remedy="Its answer says nothing about what there is; look at the engine and what lies before it.",
                )
        return [summary for summary in found if view.is_ours(summary["Labels"])]

    def _find(self, api: APIClient, intent: LaunchIntent) -> str:
        """The id of the container with the intent's token, under whatever name; empty if there is none."""
        for summary in self._listed(api, {view.TOKEN_MARK: intent.token}):
            view.check_same(summary["Labels"], intent)
            return str(summary["Id"])
        return ""

    def _create(self, api: APIClient, intent: LaunchIntent) -> str:
        import docker.errors

        settings = _frozen_settings(intent, self.settings)
        with self._registry() as registry:
            engine.pull(api, intent.artefact.reference, registry.credentials)
        host = api.create_host_config(
            network_mode=settings.network,
            restart_policy={"Name": "unless-stopped"} if settings.restart else None,
            mem_limit=settings.memory or None,
        )
        try:
            created = api.create_container(
                image=intent.artefact.reference,
                name=intent.name,
                hostname=intent.name,
                labels=view.marks(intent),
                host_config=host,
            )
        except docker.errors.APIError as error:
            if error.status_code == 409:
                return self._of_that_name(api, intent)
            raise _refusal(intent, error) from error
        return str(created["Id"])

    def _of_that_name(self, api: APIClient, intent: LaunchIntent) -> str:
        """The id of the container that has the name already: another caller's for the same intent, or an error."""
        import docker.errors

        # While the engine creates a container its name is taken and nobody can look at it: a moment, never long.
        for pause in _WHILE_IT_IS_CREATED:
            try:
                seen = api.inspect_container(intent.name)
                break
            except docker.errors.NotFound:
                time.sleep(pause)
        else:
            raise _vanished(intent)
        if not view.is_ours(seen["Config"]["Labels"]):
            raise NotOurs(
                f"A container named {intent.name} exists and is not ours.", remedy="Ask whose it is, and rename it."
            )
        view.check_same(seen["Config"]["Labels"], intent)
        return str(seen["Id"])

    def _finish(self, api: APIClient, container_id: str, intent: LaunchIntent) -> Instance:
        """Start it if nobody has; a refusal to start it undoes the launch."""
        import docker.errors

        try:
            if api.inspect_container(container_id)["State"]["Status"] == "created":
                if intent.authorized_key:
                    engine.put_authorized_key(api, container_id, intent.authorized_key)
                self._start(api, container_id, intent)
            return self._instance(api, api.inspect_container(container_id), ())
        except docker.errors.NotFound as error:
            raise _vanished(intent) from error

    def _start(self, api: APIClient, container_id: str, intent: LaunchIntent) -> None:
        import docker.errors

        try:
            api.start(container_id)
        except docker.errors.APIError as error:
            if "no such container" in str(error.explanation).lower():
                raise
            # Without force, so that what another caller got running after all is left alone. When the reply was lost
            # nothing is undone: the next launch with this token goes on from there.
            with suppress(docker.errors.APIError):
                api.remove_container(container_id, v=True)
            raise _refusal(intent, error) from error

    def _inspect(self, api: APIClient, instance_id: str) -> dict[str, Any]:
        import docker.errors

        missing = NotFound(f"There is no container {instance_id!r} to be seen.", remedy="Look again.")
        if not _ID.fullmatch(instance_id):
            raise missing
        try:
            seen: dict[str, Any] = api.inspect_container(instance_id)
        except docker.errors.NotFound:
            raise missing from None
        if seen["Id"] != instance_id:  # the id of a container that is gone may be the name of another
            raise missing
        if not view.is_ours(seen["Config"]["Labels"]):
            raise NotOurs(f"The container {seen['Name']} ({instance_id}) is not ours.", remedy="Ask whose it is.")
        return seen

    def _instance(self, api: APIClient, seen: Mapping[str, Any], host_keys: tuple[str, ...]) -> Instance:
        digests = engine.repo_digests(api, seen["Image"])
        return view.from_inspection(seen, self.settings.network, digests, host_keys)

    def _check_unused(self, api: APIClient, artefact: Artefact) -> None:
        for summary in self._listed(api, {}):
            digests = [summary["Image"], *engine.repo_digests(api, summary["ImageID"])]
            if any(entry.endswith(f"@{artefact.digest}") for entry in digests):
                raise InUse(
                    f"{artefact.reference} is still run by {view.name(summary)}.", remedy="Replace that instance first."
                )


def _frozen_settings(intent: LaunchIntent, current: Settings) -> Settings:
    """The settings that the intent was stored with: the file may have changed since."""
    try:
        return Settings.model_validate(dict(intent.settings)) if intent.settings else current
    except ValidationError as error:
        raise InvalidSpec(f"The settings frozen with {intent.name} do not fit: {error}") from None


def _refusal(intent: LaunchIntent, error: Any) -> Exception:
    failure = engine.api_error(f"launch {intent.name}", error.status_code or 500, error.explanation)
    # What is not found here (a network, a program) is not found the next time either.
    return InvalidSpec(str(failure)) if isinstance(failure, NotFound) else failure


def _vanished(intent: LaunchIntent) -> Unavailable:
    return Unavailable(f"{intent.name} vanished while it was launched.", remedy="Launch it again.")


def _ours_in(registry: _registry.Registry, repository: str) -> Iterator[tuple[Artefact, dict[str, str], list[str]]]:
    """Every image of ours there, once, with its labels and those of its tags that name a version."""
    tags_of: dict[str, list[str]] = {}
    for tag in registry.tags(repository):
        digest = registry.digest_of(repository, tag) if _TAG.fullmatch(tag) else ""
        if digest:
            tags_of.setdefault(digest, []).append(tag)
    for digest, tags in tags_of.items():
        with suppress(NotFound):  # deleted since it was listed
            labels = registry.labels(repository, registry.manifest(repository, digest))
            if _is_ours(labels):
                yield Artefact("docker", registry.reference(repository, digest), digest), labels, tags


def _status(version: str, tags: Sequence[str]) -> str:
    """The furthest rung among the tags of that version; ``candidate`` if no tag says more."""
    rungs = list(Rung)
    said = [match["status"] for match in map(_TAG.fullmatch, tags) if match and match["version"] == version]
    known = [rungs.index(Rung(status)) for status in said if status in rungs]
    return str(rungs[max(known, default=0)])


def _is_ours(labels: Mapping[str, str]) -> bool:
    return labels.get(view.OWNER_MARK) == OWNER and bool(_VERSION.fullmatch(labels.get(view.VERSION_MARK, "")))


def _our_version(labels: Mapping[str, str], artefact: Artefact) -> str:
    if not _is_ours(labels):
        raise NotOurs(f"{artefact.reference} does not carry our marks.", remedy="Ask whose image it is.")
    return labels[view.VERSION_MARK]
