"""What only Docker can get wrong: refused starts, images by hand, restarts, its registry, its names."""

from __future__ import annotations

import dataclasses
import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker.errors
import pytest

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import (
    IntentMismatch,
    InvalidSpec,
    NotFound,
    NotOurs,
    NotSupported,
    PhoenixError,
    Refused,
    Unavailable,
)
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import OWNER, Artefact, Instance, InstanceState, LaunchIntent
from phoenix_fleet.platforms import docker as driver
from tests.contract import machinery
from tests.contract.machinery import wait_for
from tests.contract.platforms_docker import DockerLab

pytestmark = pytest.mark.docker


@pytest.fixture
def fleet() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def intent(docker_lab: DockerLab, fleet: str) -> LaunchIntent:
    return LaunchIntent(
        fleet=fleet,
        slot=f"{fleet}-01",
        purpose="rollout-1",
        attempt=1,
        family="lab",
        version="2026.11-1",
        artefact=docker_lab.standard,
        settings=docker_lab.settings,
    )


def in_state(lab: DockerLab, instance: Instance, state: InstanceState) -> Instance:
    def look() -> Instance | None:
        seen = lab.platform.get_instance(instance.id)
        return seen if seen.state is state and (seen.host_keys or state is not InstanceState.RUNNING) else None

    return wait_for(look, f"{instance.name} to be {state}")


class TestLaunch:
    @pytest.mark.parametrize("settings", [{"network": "phoenix-test-nowhere"}, {"memory": "1k"}], ids=str)
    def test_a_refused_start_leaves_nothing(
        self, docker_lab: DockerLab, intent: LaunchIntent, settings: dict[str, str]
    ) -> None:
        refused = dataclasses.replace(intent, settings={**docker_lab.settings, **settings})

        with pytest.raises(InvalidSpec):
            docker_lab.platform.launch(refused)

        assert docker_lab.count(intent.token) == 0

    def test_a_program_that_is_not_there_leaves_nothing(
        self, docker_lab: DockerLab, intent: LaunchIntent, fleet: str
    ) -> None:
        name = f"{docker_lab.authority}/{fleet}:2026.11-1-candidate"
        digest = machinery.image(docker_lab.api, docker_lab.root, name, {}, ["/bin/nothing"])
        artefact = Artefact("docker", f"{docker_lab.authority}/{fleet}@{digest}", digest)

        with pytest.raises(InvalidSpec, match="nothing"):
            docker_lab.platform.launch(dataclasses.replace(intent, artefact=artefact))

        assert docker_lab.count(intent.token) == 0

    def test_the_settings_frozen_with_the_intent_hold(self, docker_lab: DockerLab, intent: LaunchIntent) -> None:
        frozen = dataclasses.replace(intent, settings={**docker_lab.settings, "memory": "64m", "restart": False})

        instance = docker_lab.again(network="phoenix-test-other", memory="32m").launch(frozen)

        host = docker_lab.api.inspect_container(instance.id)["HostConfig"]
        assert host["NetworkMode"] == docker_lab.network
        assert host["Memory"] == 64 * 1024 * 1024
        assert host["RestartPolicy"]["Name"] in ("", "no")

    def test_frozen_settings_that_do_not_fit_are_refused(self, docker_lab: DockerLab, intent: LaunchIntent) -> None:
        with pytest.raises(InvalidSpec, match="colour"):
            docker_lab.platform.launch(dataclasses.replace(intent, settings={"network": "x", "colour": "red"}))

    @pytest.mark.parametrize(
        "change",
        [
            lambda reference, digest: (reference.partition("@")[0] + ":2026.11-1-candidate", digest),
            lambda reference, digest: (reference, f"sha256:{'1' * 64}"),
            lambda reference, digest: ("registry.example/" + reference.partition("/")[2], digest),
            lambda reference, digest: (reference.replace("/", "/../", 1), digest),
            lambda reference, digest: (reference + "\n", digest),
            lambda reference, digest: ("", digest),
        ],
        ids=["by tag", "another digest", "another registry", "path", "newline", "empty"],
    )
    def test_only_by_digest_from_our_registry(
        self, docker_lab: DockerLab, intent: LaunchIntent, change: object
    ) -> None:
        assert callable(change)
        reference, digest = change(intent.artefact.reference, intent.artefact.digest)

        with pytest.raises(InvalidSpec):
            docker_lab.platform.launch(dataclasses.replace(intent, artefact=Artefact("docker", reference, digest)))

        assert docker_lab.count(intent.token) == 0

    @pytest.mark.parametrize(
        "key", ["ssh-ed25519 AAAA\nssh-ed25519 BBBB", 'command="x" ssh-ed25519 AAAA', "AAAA", "\n"]
    )
    def test_one_plain_public_key_or_none(self, docker_lab: DockerLab, intent: LaunchIntent, key: str) -> None:
        with pytest.raises(InvalidSpec):
            docker_lab.platform.launch(dataclasses.replace(intent, authorized_key=key))
        assert docker_lab.count(intent.token) == 0

    @pytest.mark.parametrize("slot", ["../web", "web 01", "-web", "w" * 60, "Web", "", "web;id", "web\n"])
    def test_odd_names_are_refused(self, docker_lab: DockerLab, intent: LaunchIntent, slot: str) -> None:
        with pytest.raises(InvalidSpec):
            docker_lab.platform.launch(dataclasses.replace(intent, slot=slot))

    def test_the_token_is_found_under_another_name(self, docker_lab: DockerLab, intent: LaunchIntent) -> None:
        instance = docker_lab.platform.launch(intent)
        docker_lab.api.rename(instance.id, f"{intent.name}-renamed")

        assert docker_lab.platform.launch(intent).id == instance.id
        assert docker_lab.count(intent.token) == 1

    def test_a_name_of_ours_under_another_token_is_no_take_over(
        self, docker_lab: DockerLab, intent: LaunchIntent
    ) -> None:
        other = docker_lab.platform.launch(dataclasses.replace(intent, attempt=2))
        docker_lab.api.rename(other.id, intent.name)

        with pytest.raises(IntentMismatch):
            docker_lab.platform.launch(intent)

        assert docker_lab.count(intent.token) == 0

    def test_without_a_registry_it_is_for_later(self, docker_lab: DockerLab, intent: LaunchIntent) -> None:
        port = machinery.free_port()
        connections = machinery.KnownConnections(
            docker_lab.connections("docker"), Connection("registry", host="127.0.0.1", port=port)
        )
        platform = driver.Driver(docker_lab.platform.settings, connections)
        digest = f"sha256:{'2' * 64}"
        artefact = Artefact("docker", f"127.0.0.1:{port}/lab@{digest}", digest)

        with pytest.raises(Unavailable):
            platform.launch(dataclasses.replace(intent, artefact=artefact))
        for call in (lambda: platform.list_images("lab"), lambda: platform.tag_image(artefact, Rung.TESTED)):
            with pytest.raises(Unavailable):
                call()

        assert docker_lab.count(intent.token) == 0


class TestMachines:
    def test_a_reboot_brings_it_back_as_itself(self, docker_lab: DockerLab, intent: LaunchIntent) -> None:
        before = in_state(docker_lab, docker_lab.platform.launch(intent), InstanceState.RUNNING)
        started = docker_lab.api.inspect_container(before.id)["State"]["StartedAt"]
        order = docker_lab.api.exec_create(before.id, ["kill", "-TERM", "1"])
        docker_lab.api.exec_start(order["Id"])

        wait_for(
            lambda: docker_lab.api.inspect_container(before.id)["State"]["StartedAt"] != started, "it to start again"
        )

        after = in_state(docker_lab, before, InstanceState.RUNNING)
        assert dataclasses.replace(after, address=before.address) == before
        assert docker_lab.platform.launch(intent).id == before.id

    def test_one_that_keeps_ending_is_starting_and_never_failed(
        self, docker_lab: DockerLab, intent: LaunchIntent, fleet: str
    ) -> None:
        artefact = docker_lab.artefact(fleet, "2026.11-1", command="exit 3")
        launched = docker_lab.platform.launch(dataclasses.replace(intent, artefact=artefact))

        instance = in_state(docker_lab, launched, InstanceState.STARTING)

        assert docker_lab.platform.list_instances(fleet)[0].id == instance.id
        docker_lab.platform.terminate(instance.id)
        with pytest.raises(NotFound):
            docker_lab.platform.get_instance(instance.id)

    def test_one_that_may_not_restart_fails_with_its_status(
        self, docker_lab: DockerLab, intent: LaunchIntent, fleet: str
    ) -> None:
        artefact = docker_lab.artefact(fleet, "2026.11-1", command="exit 3")
        settings = {**docker_lab.settings, "restart": False}
        launched = docker_lab.platform.launch(dataclasses.replace(intent, artefact=artefact, settings=settings))

        assert "3" in in_state(docker_lab, launched, InstanceState.FAILED).message
        assert "(3)" in docker_lab.platform.list_instances(fleet)[0].message

    def test_a_paused_one_is_failed(self, docker_lab: DockerLab, intent: LaunchIntent) -> None:
        instance = docker_lab.platform.launch(intent)
        docker_lab.api.pause(instance.id)

        assert docker_lab.platform.get_instance(instance.id).state is InstanceState.FAILED
        docker_lab.platform.terminate(instance.id)

    def test_one_started_by_hand_from_an_image_of_ours_is_not_ours(
        self, docker_lab: DockerLab, intent: LaunchIntent
    ) -> None:
        ours = docker_lab.platform.launch(intent)
        host = docker_lab.api.create_host_config(network_mode=docker_lab.network)
        by_hand = docker_lab.api.create_container(
            intent.artefact.reference, labels={"phoenix.fleet": intent.fleet}, host_config=host
        )["Id"]
        docker_lab.api.start(by_hand)
        assert docker_lab.marks(by_hand)["phoenix.owner"] == OWNER

        assert [instance.id for instance in docker_lab.platform.list_instances(intent.fleet)] == [ours.id]
        with pytest.raises(NotOurs):
            docker_lab.platform.terminate(by_hand)
        assert docker_lab.is_alive(by_hand)

    def test_host_keys_are_read_with_distrust(self, docker_lab: DockerLab, intent: LaunchIntent) -> None:
        instance = in_state(docker_lab, docker_lab.platform.launch(intent), InstanceState.RUNNING)
        tricks = {
            "a link": "ln -s /etc/passwd {key}",
            "a folder": "mkdir {key}",
            "endless": "head -c 200000 /dev/zero > {key}",
            "words": "echo nonsense > {key}",
            "an authority": "echo '@cert-authority * ssh-ed25519 AAAA' > {key}",
            "no text": r"printf '\377\376' > {key}",
            "no key": "true",
        }

        for name, trick in tricks.items():
            line = f"rm -rf {{key}}; {trick}".format(key="/etc/ssh/ssh_host_ed25519_key.pub")
            docker_lab.api.exec_start(docker_lab.api.exec_create(instance.id, ["sh", "-c", line])["Id"])

            assert docker_lab.platform.get_instance(instance.id).host_keys == (), name

    def test_every_kind_of_host_key_is_seen_without_its_comment(
        self, docker_lab: DockerLab, intent: LaunchIntent
    ) -> None:
        instance = in_state(docker_lab, docker_lab.platform.launch(intent), InstanceState.RUNNING)
        more = {"rsa": f"ssh-rsa {'A' * 372}", "ecdsa": f"ecdsa-sha2-nistp256 {'B' * 138}=="}
        for kind, key in more.items():
            line = f"echo '{key} root@x' > /etc/ssh/ssh_host_{kind}_key.pub"
            docker_lab.api.exec_start(docker_lab.api.exec_create(instance.id, ["sh", "-c", line])["Id"])

        assert docker_lab.platform.get_instance(instance.id).host_keys == (
            *instance.host_keys,
            more["ecdsa"],
            more["rsa"],
        )

    def test_listing_while_others_come_and_go_never_fails(self, docker_lab: DockerLab, intent: LaunchIntent) -> None:
        stays = docker_lab.platform.launch(intent)
        done = threading.Event()
        problems: list[PhoenixError] = []

        def churn() -> None:
            for attempt in range(2, 5):
                going = docker_lab.again().launch(dataclasses.replace(intent, attempt=attempt))
                docker_lab.again().terminate(going.id)
            done.set()

        thread = threading.Thread(target=churn)
        thread.start()
        while not done.is_set():
            try:
                assert stays.id in [instance.id for instance in docker_lab.platform.list_instances(intent.fleet)]
            except PhoenixError as error:
                problems.append(error)
        thread.join()
        assert problems == []


class TestImages:
    def test_one_is_found_in_whatever_repository(self, docker_lab: DockerLab, fleet: str) -> None:
        artefact = docker_lab.artefact(fleet, "2026.11-1", repository=f"team/{fleet}/deep")

        assert [found for found, _ in docker_lab.platform.list_images(fleet)] == [artefact]

    def test_releasing_adds_the_plain_tag_and_keeps_the_others(self, docker_lab: DockerLab, fleet: str) -> None:
        artefact = docker_lab.artefact(fleet, "2026.11-1")
        docker_lab.platform.tag_image(artefact, Rung.STAGED)

        docker_lab.platform.tag_image(artefact, Rung.RELEASED)

        assert tags(docker_lab, fleet) == {
            "2026.11-1": artefact.digest,
            "2026.11-1-candidate": artefact.digest,
            "2026.11-1-staged": artefact.digest,
            "2026.11-1-released": artefact.digest,
        }

    def test_a_released_tag_never_moves(self, docker_lab: DockerLab, fleet: str) -> None:
        first = docker_lab.artefact(fleet, "2026.11-1")
        docker_lab.platform.tag_image(first, Rung.RELEASED)
        second = docker_lab.artefact(fleet, "2026.11-1")

        with pytest.raises(Refused, match=first.digest):
            docker_lab.platform.tag_image(second, Rung.RELEASED)

        seen = tags(docker_lab, fleet)
        assert (seen["2026.11-1"], seen["2026.11-1-released"]) == (first.digest, first.digest)
        assert docker_lab.platform.tag_image(first, Rung.CANDIDATE) == first
        assert tags(docker_lab, fleet)["2026.11-1-candidate"] == first.digest

    def test_images_of_others_are_neither_tagged_nor_deleted(self, docker_lab: DockerLab, fleet: str) -> None:
        artefact = docker_lab.artefact(fleet, "2026.11-1", ours=False)

        with pytest.raises(NotOurs):
            docker_lab.platform.tag_image(artefact, Rung.TESTED)
        with pytest.raises(NotOurs):
            docker_lab.platform.delete_image(artefact)
        assert tags(docker_lab, fleet) == {"2026.11-1-candidate": artefact.digest}

    def test_deleting_frees_the_engine_s_copy_too(
        self, docker_lab: DockerLab, intent: LaunchIntent, fleet: str
    ) -> None:
        artefact = docker_lab.artefact(fleet, "2026.11-1")
        instance = docker_lab.platform.launch(dataclasses.replace(intent, artefact=artefact))
        docker_lab.platform.terminate(instance.id)
        docker_lab.api.inspect_image(artefact.reference)

        docker_lab.platform.delete_image(artefact)

        with pytest.raises(docker.errors.ImageNotFound):
            docker_lab.api.inspect_image(artefact.reference)
        assert tags(docker_lab, fleet) == {}

    def test_a_registry_that_does_not_delete_says_so(self, docker_lab: DockerLab, stubborn: DockerLab) -> None:
        artefact = stubborn.artefact("lab", "2026.11-3")

        with pytest.raises(NotSupported) as caught:
            stubborn.platform.delete_image(artefact)
        assert caught.value.remedy


@pytest.fixture
def stubborn(docker_lab: DockerLab, tmp_path: Path) -> Iterator[DockerLab]:
    """The same engine with a registry that lets nobody delete."""
    with machinery.registry(tmp_path, deletion=False) as port:
        lab = DockerLab(docker_lab.api, docker_lab.root, port, docker_lab.network)
        yield lab


def tags(lab: DockerLab, repository: str) -> dict[str, str]:
    """Every tag of the repository with its digest, as another tool sees them."""
    argv = ["skopeo", "list-tags", "--tls-verify=false", f"docker://{lab.authority}/{repository}"]
    listed = machinery.output(argv, check=False)
    found = {}
    for tag in json.loads(listed or "{}").get("Tags") or []:
        argv = ["skopeo", "inspect", "--tls-verify=false", f"docker://{lab.authority}/{repository}:{tag}"]
        found[tag] = str(json.loads(machinery.output(argv))["Digest"])
    return found
