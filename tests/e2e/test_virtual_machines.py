"""Fleets of virtual machines, emulated by QEMU and on Xen, refreshed by the real engine under traffic."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lab import qemu_host, tiny, xen_host
from lab.libvirt_host import POOL
from lab.places import Places
from phoenix_fleet import ssh
from phoenix_fleet.domain.errors import AuthenticationFailed, IntentMismatch, NotFound, NotOurs, StepFailed
from phoenix_fleet.domain.models import Instance, InstanceState, LaunchIntent
from phoenix_fleet.platforms.libvirt import Driver
from phoenix_fleet.rollout import sshprobe
from tests.bench.peers.ground import BAD, NEW, OLD, QUICK, SLOW, Visitor
from tests.contract.machinery import KnownConnections, wait_for
from tests.e2e.virtual import FAMILY, World, disks, world
from tests.sampling import WHOLE, machines_of_the_day

pytestmark = [pytest.mark.e2e, pytest.mark.libvirt, pytest.mark.timeout(1500), machines_of_the_day("qemu")]


@dataclass(frozen=True)
class Ground:
    """A fleet that serves, on one kind of host."""

    world: World
    port: int
    console: bool
    """Whether the host keeps what machines print."""
    rate: float
    """Requests per second that are no burden to it."""


@contextmanager
def own_places() -> Iterator[Places]:
    """A lab of this run's own; the cache is everybody's."""
    folder = Path(tempfile.mkdtemp(prefix="phoenix-vm-", dir="/tmp"))
    places = replace(Places.find(), home=folder, run=folder / "run")
    places.make()
    try:
        yield places
    finally:
        shutil.rmtree(folder)


@contextmanager
def qemu() -> Iterator[Ground]:
    with own_places() as places:
        host = qemu_host.of(places, print)
        host.folder.mkdir()
        try:
            host.start()
            with world(host, places.home, places.cache, "kvm", 3) as made, made.filled() as port:
                yield Ground(made, port, console=True, rate=4)
        finally:
            host.stop()


@contextmanager
def xen() -> Iterator[Ground]:
    with own_places() as places:
        images = {
            tiny.volume_of(tiny.artefact(POOL, FAMILY, version, disk)): disk
            for version, disk in disks(places.cache).items()
        }
        host = xen_host.XenHost(places, print, images)
        try:
            host.up()
            with world(host, places.home, places.cache, "xen", 2) as made, made.filled() as port:
                yield Ground(made, port, console=False, rate=1)
        finally:
            host.down()


at_length = pytest.mark.skipif(not WHOLE, reason="many minutes on one emulated processor; scripts/test --whole")


@pytest.fixture(scope="module", params=[pytest.param(qemu, id="qemu"), pytest.param(xen, id="xen", marks=at_length)])
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with ExitStack() as stack:
        begun = time.monotonic()
        found = stack.enter_context(request.param())
        print(f"the fleet serves after {time.monotonic() - begun:.0f} s")
        yield found


def check_census(ground: Ground) -> None:
    """What the host holds is what the platform lists, nothing else, and nothing is owed."""
    assert ground.world.census() == ground.world.expected(console=ground.console)
    assert ground.world.catalog.intents.pending() == []


class TestContract:
    """The promises of ``platforms/base.py`` that only a real machine can show; the others are tests/contract's."""

    @pytest.fixture
    def intent(self, ground: Ground) -> LaunchIntent:
        fleet = f"t{uuid.uuid4().hex[:8]}"
        return LaunchIntent(
            fleet=fleet,
            slot=f"{fleet}-01",
            purpose="rollout-1",
            attempt=1,
            family=FAMILY,
            version=OLD,
            artefact=ground.world.artefacts[OLD],
            authorized_key=(ground.world.folder / "id.pub").read_text().strip(),
            settings=ground.world.host.settings,
        )

    def test_one_token_is_one_machine_from_birth_to_its_end(self, ground: Ground, intent: LaunchIntent) -> None:
        platform, others = ground.world.platform, ground.world.census()

        launched = platform.launch(intent)
        assert ground.world.platform.launch(intent).id == launched.id
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
        assert ground.world.census() == others

    def test_somebody_elses_machine_is_left_alone(self, ground: Ground, intent: LaunchIntent) -> None:
        platform, settings = ground.world.platform, ground.world.host.settings
        kind = ("xen", "linux") if settings["domain"] == "xen" else ("qemu", "hvm")
        document = (
            f"<domain type='{kind[0]}'><name>{intent.name}</name><memory unit='MiB'>64</memory>"
            f"<os><type>{kind[1]}</type><kernel>{settings['kernel']}</kernel></os></domain>"
        )
        with ground.world.host.opened() as api:
            foreign = api.defineXML(document)
            try:
                for call in (lambda: platform.launch(intent), lambda: platform.terminate(foreign.UUIDString())):
                    with pytest.raises(NotOurs):
                        call()
                assert platform.list_instances(intent.fleet) == []
                assert api.lookupByName(intent.name).UUIDString() == foreign.UUIDString()
            finally:
                foreign.undefine()


class TestRefresh:
    def test_a_machine_is_reached_by_the_key_that_the_platform_tells(self, ground: Ground, tmp_path: Path) -> None:
        world, instance = ground.world, ground.world.instances()[0]
        keys = world.platform.get_instance(instance.id).host_keys

        def said(folder: Path, *host_keys: str) -> subprocess.CompletedProcess[str]:
            folder.mkdir()
            config = ssh.trusting_config(
                folder, whose=instance.name, host_keys=host_keys, identity=world.folder / "id"
            )  # fmt: skip
            argv = ["ssh", "-F", str(config), instance.address, "hostname"]
            return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)

        assert said(tmp_path / "own", *keys).stdout == f"{instance.name}\n"
        other = world.platform.get_instance(world.instances()[1].id).host_keys
        refused = said(tmp_path / "other", *other)
        assert (refused.returncode, refused.stdout) == (255, "")
        with pytest.raises(AuthenticationFailed):
            said(tmp_path / "none")

    def test_a_good_release_replaces_every_machine_and_no_request_fails(self, ground: Ground) -> None:
        world, begun = ground.world, time.monotonic()
        before = {each.slot: each.id for each in world.instances()}

        with Visitor(ground.port, (QUICK, QUICK, QUICK, SLOW), per_second=ground.rate) as visitor:
            world.refresh(NEW)

        print(f"{world.size} machines in {time.monotonic() - begun:.0f} s under {visitor.sent} requests")
        assert visitor.answers["failed"] == 0
        assert visitor.answers[OLD] > 0
        assert visitor.answers[NEW] > 0
        assert world.versions() == {NEW: world.size}
        after = {each.slot: each.id for each in world.instances()}
        assert after.keys() == before.keys()
        assert not set(after.values()) & set(before.values())
        (rollout,) = world.catalog.rollouts.list_rollouts(world.fleet)
        assert {each.slot: each.new_instance for each in world.catalog.rollouts.slots(rollout.id)} == after
        check_census(ground)

    def test_a_bad_one_is_halted_at_the_canary_and_the_old_ones_serve_on(self, ground: Ground) -> None:
        world, begun = ground.world, time.monotonic()
        before = world.instances()

        with Visitor(ground.port, (QUICK, QUICK, QUICK, SLOW), per_second=ground.rate) as visitor:
            with pytest.raises(StepFailed, match="verify failed"):
                world.refresh(BAD)
            seen = visitor.sent
            time.sleep(3)
            assert visitor.sent > seen

        print(f"halted after {time.monotonic() - begun:.0f} s under {visitor.sent} requests")
        assert visitor.answers["failed"] == 0
        assert visitor.answers[BAD] == 0
        assert world.instances() == before
        current = world.catalog.rollouts.current(world.fleet)
        assert current is not None
        assert current.state == "halted"
        check_census(ground)

    def test_without_its_fleet_nothing_is_left_on_the_host(self, ground: Ground) -> None:
        ground.world.empty()

        found = ground.world.census()

        assert (found.domains, found.volumes) == ({}, frozenset())
        assert len(found.images) == 3


@pytest.mark.skipif(not WHOLE, reason="two minutes of booting; scripts/test --whole")
@pytest.mark.parametrize("secret", ["", "s" * 40], ids=["key of its own", "key from the seed"])
def test_cloud_init_takes_from_the_seed_what_it_says(ground: Ground, tmp_path: Path, secret: str) -> None:
    world = ground.world
    if not ground.console:
        pytest.skip("once is enough: on QEMU")
    with world.host.opened() as api:
        artefact = tiny.put(api, POOL, "debian", OLD, tiny.debian(Places.find().cache, print))
    connection = replace(world.host.connection, extra={**world.host.connection.extra, "host_key_secret": secret})
    settings = {**world.host.settings, "memory": "512m"}
    platform = Driver(Driver.Settings(**settings), KnownConnections(connection))
    fleet = f"t{uuid.uuid4().hex[:8]}"
    intent = LaunchIntent(
        fleet=fleet,
        slot=f"{fleet}-01",
        purpose="rollout-1",
        attempt=1,
        family="debian",
        version=OLD,
        artefact=artefact,
        authorized_key=(world.folder / "id.pub").read_text().strip(),
        settings=settings,
    )
    launched = platform.launch(intent)
    try:

        def answers() -> Instance | None:
            seen = platform.get_instance(launched.id)
            return seen if seen.address and seen.host_keys and sshprobe.scan(seen.address) else None

        seen = wait_for(answers, "cloud-init", 300)
        assert set(sshprobe.scan(seen.address)) <= set(seen.host_keys)
        config = ssh.trusting_config(tmp_path, whose=seen.name, host_keys=seen.host_keys, identity=world.folder / "id")
        argv = ["ssh", "-F", str(config), seen.address, "hostname"]
        assert subprocess.run(argv, capture_output=True, text=True, check=False).stdout == f"{seen.name}\n"
    finally:
        platform.terminate(launched.id)
        platform.delete_image(artefact)
