"""Fleets of virtual machines, emulated by QEMU and on Xen, refreshed by the real engine under traffic."""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import pytest

from lab import leftovers, qemu_host, temporary, tiny, xen_host
from lab.guests import BAD, NEW, OLD
from lab.libvirt_host import POOL
from lab.places import Places
from phoenix_fleet import ssh
from phoenix_fleet.builders import _libvirt_qemu as builds
from phoenix_fleet.domain.errors import AuthenticationFailed, IntentMismatch, InvalidSpec, NotFound, NotOurs
from phoenix_fleet.domain.models import Instance, InstanceState, LaunchIntent
from phoenix_fleet.platforms import _libvirt_host
from phoenix_fleet.platforms import _libvirt_probe as probe
from phoenix_fleet.platforms import _libvirt_session as sessions
from phoenix_fleet.platforms.libvirt import Driver
from phoenix_fleet.rollout import sshprobe
from tests.bench.peers.ground import QUICK, SLOW, Visitor
from tests.contract.machinery import KnownConnections, wait_for
from tests.e2e.refresh import check_halted, make_key
from tests.e2e.virtual import FAMILY, World, disks, world
from tests.sampling import WHOLE, machines_of_the_day

pytestmark = [pytest.mark.e2e, pytest.mark.libvirt, pytest.mark.timeout(1500), machines_of_the_day("qemu")]

DEBIAN = "debian"
"""The family of the image with cloud-init."""


@dataclass(frozen=True)
class Scene:
    """A fleet that serves, on one kind of host."""

    world: World
    port: int
    rate: float
    """Requests per second that are no burden to it."""


@contextmanager
def qemu() -> Iterator[Scene]:
    with temporary.places() as places:
        host = qemu_host.of(places, print)
        host.folder.mkdir()
        try:
            host.start()
            with world(host, places.home, places.cache, "kvm", 3) as made, made.filled() as port:
                yield Scene(made, port, rate=4)
        finally:
            sessions.close_all()
            host.stop()


@contextmanager
def xen() -> Iterator[Scene]:
    with temporary.places() as places:
        debian = {(DEBIAN, OLD): tiny.debian(places.cache, print)}
        releases = {(FAMILY, version): disk for version, disk in disks(places.cache).items()}
        images = {
            tiny.volume_of(tiny.artefact(POOL, family, version, disk)): disk
            for (family, version), disk in {**releases, **debian}.items()
        }
        host = xen_host.XenHost(places, print, images)
        try:
            host.up()
            with world(host, places.home, places.cache, "xen", 2, frozenset(images)) as made, made.filled() as port:
                yield Scene(made, port, rate=1)
        finally:
            sessions.close_all()
            host.down()


at_length = pytest.mark.skipif(not WHOLE, reason="many minutes on one emulated processor; scripts/test --whole")


@pytest.fixture(scope="module", params=[pytest.param(qemu, id="qemu"), pytest.param(xen, id="xen", marks=at_length)])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    leftovers.sweep(print)
    with ExitStack() as stack:
        begun = time.monotonic()
        found = stack.enter_context(request.param())
        print(f"the fleet serves after {time.monotonic() - begun:.0f} s")
        yield found


def check_census(scene: Scene) -> None:
    """What the host holds is what the catalog promises and the platform lists, nothing else, and nothing is owed."""
    ground = scene.world.ground
    assert scene.world.census() == scene.world.expected()
    assert {each.id for each in scene.world.instances()} == ground.promised()
    assert ground.catalog.intents.pending() == []


class TestContract:
    """The promises of ``platforms/base.py`` that only a real machine can show; the others are tests/contract's."""

    @pytest.fixture
    def intent(self, scene: Scene) -> LaunchIntent:
        fleet = f"t{uuid.uuid4().hex[:8]}"
        return LaunchIntent(
            fleet=fleet,
            slot=f"{fleet}-01",
            purpose="rollout-1",
            attempt=1,
            family=FAMILY,
            version=OLD,
            artefact=scene.world.ground.artefacts[OLD],
            authorized_key=scene.world.public_key,
            settings=scene.world.host.settings,
        )

    def test_one_token_is_one_machine_from_birth_to_its_end(self, scene: Scene, intent: LaunchIntent) -> None:
        platform, others = scene.world.platform, scene.world.census()

        launched = platform.launch(intent)
        assert scene.world.platform.launch(intent).id == launched.id
        with pytest.raises(IntentMismatch):
            platform.launch(replace(intent, version=NEW))

        def serves() -> Instance | None:
            seen = platform.get_instance(launched.id)
            assert seen.state in (InstanceState.STARTING, InstanceState.RUNNING), seen.message
            return seen if seen.address and seen.host_keys and sshprobe.scan(seen.address) else None

        seen = wait_for(serves, "the machine to answer SSH", 400)
        assert sshprobe.scan(seen.address) == seen.host_keys
        assert (seen.name, seen.digest) == (intent.name, intent.artefact.digest)
        assert platform.list_instances(intent.fleet) == [replace(seen, host_keys=())]
        assert platform.hostspec(seen) == f"ssh://root@{seen.address}/{seen.id}"

        platform.terminate(seen.id)
        assert platform.list_instances(intent.fleet) == []
        with pytest.raises(NotFound):
            platform.terminate(seen.id)
        assert scene.world.census() == others

    def test_platform_and_builds_hear_the_same_kernel(self, scene: Scene) -> None:
        if scene.world.is_xen:
            pytest.skip("auto on a Xen host is xen: there is no KVM to try")
        kernel = tiny.boot(Places.find().cache, print).kernel
        settings = scene.world.platform.settings
        with scene.world.host.opened() as api:
            assert probe.boots(api, "qemu", settings, "", "")
            kind = probe.kind(api, settings.model_copy(update={"domain": "auto"}), "", "")
            assert {domain.UUIDString() for domain in api.listAllDomains(0)} == scene.world.census().domains.keys()

        prints = ("-kernel", str(kernel), "-append", probe.CMDLINE)
        assert builds.boots(prints, "tcg")
        assert kind == {"kvm": "kvm", "tcg": "qemu"}[builds.accelerator(prints)]

    def test_somebody_elses_machine_is_left_alone(self, scene: Scene, intent: LaunchIntent) -> None:
        platform, settings = scene.world.platform, scene.world.host.settings
        kind = ("xen", "linux") if settings["domain"] == "xen" else ("qemu", "hvm")
        document = (
            f"<domain type='{kind[0]}'><name>{intent.name}</name><memory unit='MiB'>64</memory>"
            f"<os><type>{kind[1]}</type><kernel>{settings['kernel']}</kernel></os></domain>"
        )
        with scene.world.host.opened() as api:
            foreign = api.defineXML(document)
            try:
                for call in (lambda: platform.launch(intent), lambda: platform.terminate(foreign.UUIDString())):
                    with pytest.raises(NotOurs):
                        call()
                assert platform.list_instances(intent.fleet) == []
                assert api.lookupByName(intent.name).UUIDString() == foreign.UUIDString()
            finally:
                foreign.undefine()


class TestLogin:
    """One login over SSH serves call after call; another follows when it has died, to the host that is known alone."""

    @pytest.fixture
    def host(self, scene: Scene) -> xen_host.XenHost:
        if not isinstance(scene.world.host, xen_host.XenHost):
            pytest.skip("a connection to this machine itself needs no login")
        sessions.close_all()
        return scene.world.host

    def test_it_is_used_until_it_dies(self, host: xen_host.XenHost, scene: Scene) -> None:
        with mock.patch.object(_libvirt_host, "connected", wraps=_libvirt_host.connected) as logins:
            before = [scene.world.instances() for _ in range(3)]
            assert logins.call_count == 1
            host.ssh("busybox", "killall", "virt-ssh-helper")
            after = scene.world.instances()

        assert logins.call_count == 2
        assert before == [after] * 3

    def test_another_host_key_is_refused_though_the_right_one_is_logged_in(
        self, host: xen_host.XenHost, scene: Scene, tmp_path: Path
    ) -> None:
        assert scene.world.instances()
        other = make_key(tmp_path).with_suffix(".pub").read_text()
        (tmp_path / "known_hosts").write_text(f"{xen_host.FAR} {other}")
        extra = {**host.connection.extra, "known_hosts": str(tmp_path / "known_hosts")}
        impostor = Driver(scene.world.platform.settings, KnownConnections(replace(host.connection, extra=extra)))

        with pytest.raises(AuthenticationFailed):
            impostor.list_instances(scene.world.fleet)


class TestRefresh:
    def test_a_machine_is_reached_by_the_key_that_the_platform_tells(self, scene: Scene, tmp_path: Path) -> None:
        world, instance = scene.world, scene.world.instances()[0]
        keys = world.platform.get_instance(instance.id).host_keys

        def said(folder: Path, *host_keys: str) -> subprocess.CompletedProcess[str]:
            folder.mkdir()
            config = ssh.trusting_config(
                folder, whose=instance.name, host_keys=host_keys, identity=world.ground.key
            )  # fmt: skip
            argv = ["ssh", "-F", str(config), instance.address, "hostname"]
            return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)

        assert said(tmp_path / "own", *keys).stdout == f"{instance.name}\n"
        other = world.platform.get_instance(world.instances()[1].id).host_keys
        refused = said(tmp_path / "other", *other)
        assert (refused.returncode, refused.stdout) == (255, "")
        with pytest.raises(AuthenticationFailed):
            said(tmp_path / "none")

    def test_a_good_release_replaces_every_machine_and_no_request_fails(self, scene: Scene) -> None:
        world, begun = scene.world, time.monotonic()
        before = {each.slot: each.id for each in world.instances()}

        with Visitor(scene.port, (QUICK, QUICK, QUICK, SLOW), per_second=scene.rate) as visitor:
            world.ground.refresh(world.fleet, NEW)

        print(f"{len(before)} machines in {time.monotonic() - begun:.0f} s under {visitor.sent} requests")
        assert visitor.answers["failed"] == 0
        assert visitor.answers[OLD] > 0
        assert visitor.answers[NEW] > 0
        assert world.versions() == {NEW: len(before)}
        after = {each.slot: each.id for each in world.instances()}
        assert after.keys() == before.keys()
        assert not set(after.values()) & set(before.values())
        (rollout,) = world.ground.catalog.rollouts.list_rollouts(world.fleet)
        assert {each.slot: each.new_instance for each in world.ground.catalog.rollouts.slots(rollout.id)} == after
        check_census(scene)

    def test_a_bad_one_is_halted_at_the_canary_and_the_old_ones_serve_on(self, scene: Scene) -> None:
        world, begun = scene.world, time.monotonic()
        before = world.instances()

        with Visitor(scene.port, (QUICK, QUICK, QUICK, SLOW), per_second=scene.rate) as visitor:
            check_halted(world.ground, world.fleet, "verify", lambda: world.ground.refresh(world.fleet, BAD))
            seen = visitor.sent
            time.sleep(3)
            assert visitor.sent > seen

        print(f"halted after {time.monotonic() - begun:.0f} s under {visitor.sent} requests")
        assert visitor.answers["failed"] == 0
        assert visitor.answers[BAD] == 0
        assert world.instances() == before
        check_census(scene)

    def test_without_its_fleet_nothing_is_left_on_the_host(self, scene: Scene) -> None:
        scene.world.empty()

        found = scene.world.census()

        assert (found.domains, found.volumes) == ({}, frozenset())
        assert found.images == scene.world.images


@pytest.mark.skipif(not WHOLE, reason="minutes of booting; scripts/test --whole")
class TestCloudInit:
    """What the real one makes of the seed, in a whole Debian; the lab's small guests have a stand-in for it."""

    @pytest.fixture
    def platform(self, scene: Scene, secret: str) -> Driver:
        """A driver whose machines' host keys follow from that secret, if there is one."""
        world = scene.world
        connection = replace(world.host.connection, extra={**world.host.connection.extra, "host_key_secret": secret})
        settings = {**world.host.settings, "memory": "512m"}
        return Driver(Driver.Settings(**settings), KnownConnections(connection))

    @pytest.fixture
    def intent(self, scene: Scene, platform: Driver) -> LaunchIntent:
        with scene.world.host.opened() as api:
            artefact = tiny.put(api, POOL, DEBIAN, OLD, tiny.debian(Places.find().cache, print))
        fleet = f"t{uuid.uuid4().hex[:8]}"
        return LaunchIntent(
            fleet=fleet,
            slot=f"{fleet}-01",
            purpose="rollout-1",
            attempt=1,
            family=DEBIAN,
            version=OLD,
            artefact=artefact,
            authorized_key=scene.world.public_key,
            settings=platform.settings.model_dump(),
        )

    @pytest.mark.parametrize("secret", ["", "s" * 40], ids=["key of its own", "key from the seed"])
    def test_it_takes_name_and_keys_from_the_seed(
        self, scene: Scene, platform: Driver, intent: LaunchIntent, tmp_path: Path, secret: str
    ) -> None:
        if scene.world.is_xen and not secret:
            with pytest.raises(InvalidSpec, match="host_key_secret"):
                platform.launch(intent)
            return
        begun = time.monotonic()
        launched = platform.launch(intent)
        try:

            def answers() -> Instance | None:
                seen = platform.get_instance(launched.id)
                return seen if seen.address and seen.host_keys and sshprobe.scan(seen.address) else None

            seen = wait_for(answers, "cloud-init", 1200 if scene.world.is_xen else 300)
            print(f"cloud-init has brought SSH up after {time.monotonic() - begun:.0f} s")
            assert set(sshprobe.scan(seen.address)) <= set(seen.host_keys)
            config = ssh.trusting_config(
                tmp_path, whose=seen.name, host_keys=seen.host_keys, identity=scene.world.ground.key
            )
            argv = ["ssh", "-F", str(config), seen.address, "hostname"]
            assert subprocess.run(argv, capture_output=True, text=True, check=False).stdout == f"{seen.name}\n"
        finally:
            platform.terminate(launched.id)
