"""What only libvirt can get wrong with machines: lost replies, volumes that stay, copies by hand, one name for two."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libvirt
import pytest

from phoenix_fleet.domain.errors import (
    CapacityExhausted,
    InvalidSpec,
    NotOurs,
    Unavailable,
)
from phoenix_fleet.domain.models import Artefact, InstanceState, LaunchIntent
from tests.contract.libvirt_troubles import broken, fails, once, running
from tests.contract.platforms_libvirt import LibvirtLab, leases

pytestmark = pytest.mark.libvirt
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0000000000000000000000000000000000000000000 someone@here"


@pytest.fixture
def fleet() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def intent(libvirt_lab: LibvirtLab, fleet: str) -> LaunchIntent:
    return LaunchIntent(
        fleet=fleet,
        slot=f"{fleet}-01",
        purpose="rollout-1",
        attempt=1,
        family="lab",
        version="2026.11-1",
        artefact=libvirt_lab.standard,
        authorized_key=KEY,
        settings=libvirt_lab.settings,
    )


class TestLaunch:
    @pytest.mark.parametrize(
        "change",
        [
            {"kernel": "/nowhere/vmlinuz"},
            {"interface": "network", "network": "nowhere"},
            {"machine": "nothing-1.0"},
            {"domain": "xen", "kernel": "/nowhere/vmlinuz"},
        ],
        ids=["kernel", "network", "machine", "xen"],
    )
    def test_what_can_never_start_is_said_and_leaves_nothing(
        self, libvirt_lab: LibvirtLab, intent: LaunchIntent, change: dict[str, str]
    ) -> None:
        with pytest.raises(InvalidSpec):
            libvirt_lab.platform.launch(dataclasses.replace(intent, settings={**libvirt_lab.settings, **change}))

        assert libvirt_lab.count(intent.token) == 0
        assert libvirt_lab.left() == set()

    def test_xen_without_a_way_to_know_the_host_key_is_refused(
        self, libvirt_lab: LibvirtLab, intent: LaunchIntent
    ) -> None:
        settings = {**libvirt_lab.settings, "domain": "xen", "kernel": "/boot/vmlinuz"}
        with pytest.raises(InvalidSpec, match="host_key_secret"):
            libvirt_lab.platform.launch(dataclasses.replace(intent, settings=settings))

        assert libvirt_lab.count(intent.token) == 0
        assert libvirt_lab.left() == set()

    def test_a_zone_is_refused_since_a_host_has_none(self, libvirt_lab: LibvirtLab, intent: LaunchIntent) -> None:
        with pytest.raises(InvalidSpec, match="eu-west-1a"):
            libvirt_lab.platform.launch(dataclasses.replace(intent, zone="eu-west-1a"))

        assert libvirt_lab.count(intent.token) == 0

    @pytest.mark.parametrize("method", ["defineXML", "createXML", "upload", "create", "setMetadata"])
    def test_no_room_anywhere_leaves_nothing(self, libvirt_lab: LibvirtLab, intent: LaunchIntent, method: str) -> None:
        meddle = once(method, fails("SYSTEM_ERROR", "cannot write to file: No space left on device"))

        with pytest.raises(CapacityExhausted, match="No space"):
            libvirt_lab.again(meddle).launch(intent)

        if method == "setMetadata":  # it runs already: the next launch goes on from there
            assert libvirt_lab.platform.launch(intent).state is InstanceState.RUNNING
        else:
            assert libvirt_lab.count(intent.token) == 0
            assert libvirt_lab.left() == set()

    @pytest.mark.parametrize("method", ["defineXML", "createXML", "upload", "create", "setMetadata"])
    @pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
    def test_a_lost_reply_undoes_nothing_and_the_token_goes_on(
        self, libvirt_lab: LibvirtLab, intent: LaunchIntent, method: str, done: bool
    ) -> None:
        lost: list[str] = []

        def meddle(real: Any, name: str, call: Callable[[], Any], args: list[Any]) -> Any:
            if lost:
                if name == "isAlive":
                    return False
                raise broken("INTERNAL_ERROR", "client socket is closed")
            if name == method:
                if done:
                    call()
                lost.append(name)
                raise broken("RPC", "End of file while reading data: Input/output error")
            return leases(real, name, call, args)

        with pytest.raises(Unavailable):
            libvirt_lab.again(meddle).launch(intent)

        instance = libvirt_lab.again().launch(intent)
        assert libvirt_lab.count(intent.token) == 1
        running(libvirt_lab, instance)
        libvirt_lab.platform.terminate(instance.id)
        assert libvirt_lab.left() == set()

    def test_the_settings_frozen_with_the_intent_hold(self, libvirt_lab: LibvirtLab, intent: LaunchIntent) -> None:
        frozen = dataclasses.replace(intent, settings={**libvirt_lab.settings, "memory": "24m", "autostart": True})

        instance = libvirt_lab.again(memory="32m").launch(frozen)

        domain = libvirt_lab.api.lookupByUUIDString(instance.id)
        assert (domain.maxMemory(), domain.autostart()) == (24 * 1024, 1)

    @pytest.mark.parametrize("change", [{"colour": "red"}, {"pool": "../x"}, {"memory": "lots"}], ids=str)
    def test_frozen_settings_that_do_not_fit_are_refused(
        self, libvirt_lab: LibvirtLab, intent: LaunchIntent, change: dict[str, str]
    ) -> None:
        with pytest.raises(InvalidSpec, match=next(iter(change))):
            libvirt_lab.platform.launch(dataclasses.replace(intent, settings={**libvirt_lab.settings, **change}))

    def test_a_pool_that_is_not_there_is_named(self, libvirt_lab: LibvirtLab, intent: LaunchIntent) -> None:
        elsewhere = dataclasses.replace(
            intent,
            settings={**libvirt_lab.settings, "pool": "nowhere"},
            artefact=dataclasses.replace(
                intent.artefact, reference=intent.artefact.reference.replace("phoenix/", "nowhere/", 1)
            ),
        )
        with pytest.raises(InvalidSpec, match="nowhere"):
            libvirt_lab.platform.launch(elsewhere)

    @pytest.mark.parametrize(
        "change",
        [
            lambda reference, digest: (reference.partition("@")[0], digest),
            lambda reference, digest: (reference, f"sha256:{'1' * 64}"),
            lambda reference, digest: ("other/" + reference.partition("/")[2], digest),
            lambda reference, digest: (reference.replace("/", "/../", 1), digest),
            lambda reference, digest: (reference + "\n", digest),
            lambda reference, digest: ("", digest),
        ],
        ids=["no digest", "another digest", "another pool", "path", "newline", "empty"],
    )
    def test_only_by_digest_from_our_pool(self, libvirt_lab: LibvirtLab, intent: LaunchIntent, change: Any) -> None:
        reference, digest = change(intent.artefact.reference, intent.artefact.digest)
        with pytest.raises(InvalidSpec):
            libvirt_lab.platform.launch(dataclasses.replace(intent, artefact=Artefact("libvirt", reference, digest)))
        assert libvirt_lab.count(intent.token) == 0

    @pytest.mark.parametrize("key", ["ssh-ed25519 AAAA\nssh-ed25519 BBBB", 'command="x" ssh-ed25519 AAAA', "\n"])
    def test_one_plain_public_key_or_none(self, libvirt_lab: LibvirtLab, intent: LaunchIntent, key: str) -> None:
        with pytest.raises(InvalidSpec):
            libvirt_lab.platform.launch(dataclasses.replace(intent, authorized_key=key))

    @pytest.mark.parametrize("slot", ["../web", "web 01", "-web", "w" * 60, "Web", "web;id", "web\n", "<web/>"])
    def test_odd_names_are_refused(self, libvirt_lab: LibvirtLab, intent: LaunchIntent, slot: str) -> None:
        with pytest.raises(InvalidSpec):
            libvirt_lab.platform.launch(dataclasses.replace(intent, slot=slot))

    def test_marks_are_data_and_never_markup(self, libvirt_lab: LibvirtLab, intent: LaunchIntent) -> None:
        purpose = """</metadata><name a='b'>&lt;"é]]>"""

        instance = libvirt_lab.platform.launch(dataclasses.replace(intent, purpose=purpose))

        assert libvirt_lab.marks(instance.id)["phoenix.purpose"] == purpose

    def test_the_guest_never_says_what_its_disk_is(self, libvirt_lab: LibvirtLab, intent: LaunchIntent) -> None:
        instance = libvirt_lab.platform.launch(intent)

        text = libvirt_lab.api.lookupByUUIDString(instance.id).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)

        assert "type='qcow2'" in text
        volume = libvirt_lab.pool.storageVolLookupByName(f"{instance.id}.qcow2").XMLDesc(0)
        assert "<format type='raw'/>" in volume

    def test_no_two_machines_have_one_card(self, libvirt_lab: LibvirtLab, intent: LaunchIntent) -> None:
        first = libvirt_lab.platform.launch(intent)
        document = libvirt_lab.api.lookupByUUIDString(first.id).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        mac = re.search("52:54:00:[0-9a-f:]{8}", document)
        assert mac
        libvirt_lab.platform.terminate(first.id)
        theirs = document.replace(first.id, str(uuid.uuid4())).replace(f"<name>{first.name}", "<name>theirs")
        libvirt_lab.api.defineXML(theirs)

        again = libvirt_lab.platform.launch(intent)

        assert mac[0] not in libvirt_lab.api.lookupByUUIDString(again.id).XMLDesc(0)


class TestMachines:
    def test_a_copy_made_by_hand_is_not_ours(self, libvirt_lab: LibvirtLab, intent: LaunchIntent) -> None:
        ours = libvirt_lab.platform.launch(intent)
        text = libvirt_lab.api.lookupByUUIDString(ours.id).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        other = str(uuid.uuid4())
        libvirt_lab.api.defineXML(text.replace(ours.id, other, 1).replace(f"<name>{ours.name}", "<name>copy", 1))

        assert [each.id for each in libvirt_lab.platform.list_instances(intent.fleet)] == [ours.id]
        with pytest.raises(NotOurs):
            libvirt_lab.platform.terminate(other)

    def test_only_volumes_that_were_made_for_it_go(
        self, libvirt_lab: LibvirtLab, intent: LaunchIntent, tmp_path: Path
    ) -> None:
        instance = libvirt_lab.platform.launch(intent)
        base = intent.artefact.reference.partition("/")[2].partition("@")[0]
        libvirt_lab.volume("somebodys.qcow2", b"x" * 512)
        domain = libvirt_lab.api.lookupByUUIDString(instance.id)
        domain.destroy()
        text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        own = re.search(rf"<(\w+:volume)>{instance.id}\.log</\1>", text)
        assert own
        claimed = ("somebodys.qcow2", base, f"{uuid.uuid4()}.qcow2", "../../etc/passwd", str(tmp_path / "x"))
        more = "".join(f"<{own[1]}>{name}</{own[1]}>" for name in claimed)
        libvirt_lab.api.defineXML(text.replace(own[0], own[0] + more))

        libvirt_lab.platform.terminate(instance.id)

        assert (libvirt_lab.host.pool_folder / base).exists()
        assert libvirt_lab.left() == {"somebodys.qcow2"}
        assert libvirt_lab.count(intent.token) == 0

    def test_terminating_leaves_no_volume(self, libvirt_lab: LibvirtLab, intent: LaunchIntent) -> None:
        instance = running(libvirt_lab, libvirt_lab.platform.launch(intent))
        assert {name.partition(".")[2] for name in libvirt_lab.left()} == {"qcow2", "iso", "log"}
        # What virtlogd makes of a console's log that has grown.
        (libvirt_lab.host.pool_folder / f"{instance.id}.log.0").write_text("")

        libvirt_lab.platform.terminate(instance.id)

        assert libvirt_lab.left() == set()

    @pytest.mark.parametrize("method", ["destroy", "delete", "undefineFlags"])
    def test_a_crash_in_terminate_shows_as_stopping_and_is_finished_later(
        self, libvirt_lab: LibvirtLab, intent: LaunchIntent, method: str
    ) -> None:
        instance = libvirt_lab.platform.launch(intent)

        def after(call: Callable[[], Any]) -> Any:
            if method == "destroy":
                call()
            raise broken("RPC", "End of file while reading data: Input/output error")

        with pytest.raises(Unavailable):
            libvirt_lab.again(once(method, after)).terminate(instance.id)
        (seen,) = libvirt_lab.platform.list_instances(intent.fleet)
        assert seen.state is InstanceState.STOPPING
        assert libvirt_lab.platform.launch(intent).state is InstanceState.STOPPING

        libvirt_lab.platform.terminate(instance.id)

        assert libvirt_lab.count(intent.token) == 0
        assert libvirt_lab.left() == set()

    def test_a_domain_that_vanishes_while_listed_is_looked_at_again(
        self, libvirt_lab: LibvirtLab, intent: LaunchIntent
    ) -> None:
        stays = libvirt_lab.platform.launch(intent)

        gone = fails("NO_DOMAIN", "Domain not found")
        listed = libvirt_lab.again(once("state", gone)).list_instances(intent.fleet)

        assert [each.id for each in listed] == [stays.id]

    @pytest.mark.parametrize("method", ["listAllDomains", "XMLDesc", "state"])
    def test_an_error_while_listing_is_never_none(
        self, libvirt_lab: LibvirtLab, intent: LaunchIntent, method: str
    ) -> None:
        libvirt_lab.platform.launch(intent)

        with pytest.raises(Unavailable):
            libvirt_lab.again(once(method, fails("INTERNAL_ERROR", "so sorry"))).list_instances(intent.fleet)

    def test_listing_while_others_come_and_go_never_fails(self, libvirt_lab: LibvirtLab, intent: LaunchIntent) -> None:
        stays = libvirt_lab.platform.launch(intent)
        done = threading.Event()

        def churn() -> None:
            try:
                for attempt in range(2, 5):
                    going = libvirt_lab.again().launch(dataclasses.replace(intent, attempt=attempt))
                    libvirt_lab.again().terminate(going.id)
            finally:
                done.set()

        looks = 0
        with ThreadPoolExecutor(1) as pool:
            churning = pool.submit(churn)
            while not done.is_set():
                assert stays.id in [each.id for each in libvirt_lab.platform.list_instances(intent.fleet)]
                looks += 1
        churning.result()
        assert looks > 3

    def test_it_knows_the_image_that_really_runs(self, libvirt_lab: LibvirtLab, intent: LaunchIntent) -> None:
        instance = libvirt_lab.platform.launch(intent)
        other = libvirt_lab.artefact("lab", "2026.11-9")
        disk = libvirt_lab.host.pool_folder / f"{instance.id}.qcow2"
        base = libvirt_lab.host.pool_folder / other.reference.partition("/")[2].partition("@")[0]
        domain = libvirt_lab.api.lookupByUUIDString(instance.id)
        domain.destroy()
        subprocess.run(["qemu-img", "rebase", "-u", "-F", "raw", "-b", str(base), str(disk)], check=True)
        domain.create()

        assert libvirt_lab.platform.get_instance(instance.id).digest == other.digest

    def test_a_stopped_host_is_unavailable_in_time(
        self, libvirt_lab: LibvirtLab, intent: LaunchIntent, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from phoenix_fleet.platforms import _libvirt_host

        monkeypatch.setattr(_libvirt_host, "KEEPALIVE", (1, 2))
        monkeypatch.setattr(_libvirt_host, "TIMEOUT", 2)
        pid = libvirt_lab.host.pid

        def stop(call: Callable[[], Any]) -> Any:
            os.kill(pid, signal.SIGSTOP)
            return call()

        begun = time.monotonic()
        try:
            with pytest.raises(Unavailable):
                libvirt_lab.again(once("listAllDomains", stop)).list_instances(intent.fleet)
            with pytest.raises(Unavailable, match="does not answer within"):
                libvirt_lab.platform.list_instances(intent.fleet)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert time.monotonic() - begun < 30
