"""What only libvirt can get wrong: volumes that stay, copies by hand, lost hosts, one name for two, its error codes."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    CapacityExhausted,
    InUse,
    InvalidConfig,
    InvalidSpec,
    NotFound,
    NotOurs,
    NotSupported,
    PhoenixError,
    Refused,
    Unavailable,
)
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Artefact, Instance, InstanceState, LaunchIntent
from phoenix_fleet.platforms import libvirt as driver
from tests.contract.machinery import KnownConnections, wait_for

if TYPE_CHECKING:
    from tests.contract.platforms_libvirt import LibvirtLab

libvirt = pytest.importorskip("libvirt")
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


def running(lab: LibvirtLab, instance: Instance) -> Instance:
    def look() -> Instance | None:
        seen = lab.platform.get_instance(instance.id)
        return seen if seen.state is InstanceState.RUNNING and seen.host_keys else None

    return wait_for(look, f"{instance.name} to run")


def broken(code: str, text: str) -> Exception:
    """An error as libvirt raises it."""
    error: Exception = libvirt.libvirtError(text)
    number = getattr(libvirt, f"VIR_ERR_{code}")
    error.err = (number, 0, text, 2, text, None, None, 0, 0)  # type: ignore[attr-defined]
    return error


def once(method: str, trouble: Callable[[Callable[[], Any]], Any]) -> Callable[..., Any]:
    """Trouble at the first call of that method, and leases as ever."""
    from tests.contract.platforms_libvirt import leases

    left = [method]

    def meddle(real: Any, name: str, call: Callable[[], Any], args: list[Any]) -> Any:
        if name in left:
            left.remove(name)
            return trouble(call)
        return leases(real, name, call, args)

    return meddle


def fails(code: str, text: str) -> Callable[[Callable[[], Any]], Any]:
    def trouble(_call: Callable[[], Any]) -> Any:
        raise broken(code, text)

    return trouble


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
        from tests.contract.platforms_libvirt import leases

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


class TestHostKeys:
    @pytest.fixture
    def secret(self, libvirt_lab: LibvirtLab) -> Iterator[Callable[[str], None]]:
        plain = libvirt_lab.connections

        def use(text: str) -> None:
            extra = {**plain("libvirt").extra, "host_key_secret": text}
            libvirt_lab.connections = libvirt_lab.platform.connections = KnownConnections(
                Connection("libvirt", extra=extra)
            )

        yield use
        libvirt_lab.connections = libvirt_lab.platform.connections = plain

    def test_the_one_that_we_put_into_it_counts_whatever_the_console_says(
        self, libvirt_lab: LibvirtLab, intent: LaunchIntent, secret: Callable[[str], None]
    ) -> None:
        secret("s" * 40)
        instance = libvirt_lab.platform.launch(intent)

        (key,) = libvirt_lab.platform.get_instance(instance.id).host_keys

        user = libvirt_lab.user_data(instance.id)
        assert user["ssh_keys"]["ed25519_public"] == key
        private = load_ssh_private_key(user["ssh_keys"]["ed25519_private"].encode(), None)
        public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        assert public.decode() == key
        assert user["ssh_keys"]["ed25519_private"] not in libvirt_lab.api.lookupByUUIDString(instance.id).XMLDesc(0)
        other = libvirt_lab.platform.launch(dataclasses.replace(intent, attempt=2))
        assert libvirt_lab.platform.get_instance(other.id).host_keys != (key,)

    def test_another_secret_half_way_is_another_attempt(
        self, libvirt_lab: LibvirtLab, intent: LaunchIntent, secret: Callable[[str], None]
    ) -> None:
        secret("s" * 40)
        libvirt_lab.crash_in_launch(intent)
        secret("t" * 40)

        with pytest.raises(InvalidSpec, match="secret"):
            libvirt_lab.platform.launch(intent)

        assert libvirt_lab.count(intent.token) == 0
        assert libvirt_lab.left() == set()

    def test_a_short_secret_is_refused(
        self, libvirt_lab: LibvirtLab, intent: LaunchIntent, secret: Callable[[str], None]
    ) -> None:
        secret("short")
        with pytest.raises(InvalidConfig, match="host_key_secret") as caught:
            libvirt_lab.platform.launch(intent)
        assert "'short'" not in str(caught.value)


class TestImages:
    def test_a_released_version_has_one_digest(self, libvirt_lab: LibvirtLab, fleet: str) -> None:
        first, second = (libvirt_lab.artefact(fleet, "2026.11-1") for _ in range(2))
        libvirt_lab.platform.tag_image(first, Rung.RELEASED)

        with pytest.raises(Refused, match=first.digest):
            libvirt_lab.platform.tag_image(second, Rung.RELEASED)

    def test_images_of_others_are_neither_tagged_nor_deleted(self, libvirt_lab: LibvirtLab, fleet: str) -> None:
        artefact = libvirt_lab.artefact(fleet, "2026.11-1", ours=False)

        for call in (
            lambda: libvirt_lab.platform.tag_image(artefact, Rung.TESTED),
            lambda: libvirt_lab.platform.delete_image(artefact),
        ):
            with pytest.raises(NotOurs):
                call()
        assert any("somebody" in volume.name() for volume in libvirt_lab.pool.listAllVolumes(0))

    def test_a_disk_of_anybody_keeps_its_image(self, libvirt_lab: LibvirtLab, fleet: str) -> None:
        artefact = libvirt_lab.artefact(fleet, "2026.11-1")
        base = artefact.reference.partition("/")[2].partition("@")[0]
        path = libvirt_lab.host.pool_folder / base
        libvirt_lab.pool.createXML(
            "<volume><name>theirs.qcow2</name><capacity>1048576</capacity><target><format type='qcow2'/></target>"
            f"<backingStore><path>{path}</path><format type='raw'/></backingStore></volume>",
            0,
        )
        with pytest.raises(InUse, match=r"theirs\.qcow2"):
            libvirt_lab.platform.delete_image(artefact)
        assert path.exists()

    def test_what_a_build_drops_into_the_folder_is_seen(self, libvirt_lab: LibvirtLab, fleet: str) -> None:
        name = f"phoenix-fleet_{fleet}_2026.11-1_{'a' * 64}.qcow2"
        (libvirt_lab.host.pool_folder / name).write_bytes(b"x")

        ((artefact, marks),) = libvirt_lab.platform.list_images(fleet)

        assert (artefact.reference, marks["status"]) == (f"phoenix/{name}@sha256:{'a' * 64}", "candidate")
        libvirt_lab.platform.delete_image(artefact)
        assert not (libvirt_lab.host.pool_folder / name).exists()


class TestHost:
    def test_a_socket_that_is_not_there(self, libvirt_lab: LibvirtLab, tmp_path: Path) -> None:
        away = connected(libvirt_lab, f"qemu:///system?socket={tmp_path}/none")
        with pytest.raises(Unavailable, match=r"extra\.uri"):
            away.list_instances("web")

    def test_a_host_that_nobody_knows_is_told_without_the_key(self, libvirt_lab: LibvirtLab, tmp_path: Path) -> None:
        for name in ("id", "known"):
            (tmp_path / name).write_text("")
        extra = {"uri": "qemu+ssh://root@127.0.0.1:1/system", "key_file": f"{tmp_path}/id"}
        platform = driver.Driver(
            libvirt_lab.platform.settings,
            KnownConnections(Connection("libvirt", extra={**extra, "known_hosts": f"{tmp_path}/known"})),
        )
        with pytest.raises((Unavailable, InvalidConfig)) as caught:
            platform.list_instances("web")
        assert "key_file" not in str(caught.value)
        assert str(tmp_path / "id") not in str(caught.value)

    def test_libvirt_itself_prints_nothing(self, libvirt_lab: LibvirtLab, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(NotFound):
            libvirt_lab.platform.get_instance(str(uuid.uuid4()))
        assert capfd.readouterr().err == ""


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "text", "expected"),
        [
            ("NO_DOMAIN", "Domain not found", NotFound),
            ("NO_STORAGE_VOL", "Storage volume not found", NotFound),
            ("NO_STORAGE_POOL", "Storage pool not found", InvalidSpec),
            ("NO_NETWORK", "Network not found", InvalidSpec),
            ("XML_ERROR", "XML error: unknown", InvalidSpec),
            ("CONFIG_UNSUPPORTED", "unsupported configuration", InvalidSpec),
            ("AUTH_UNAVAILABLE", "no polkit agent available", AuthenticationFailed),
            ("AUTH_FAILED", "authentication failed", AuthenticationFailed),
            ("ACCESS_DENIED", "access denied", AuthenticationFailed),
            ("SYSTEM_ERROR", "Failed to connect socket to '/x': Permission denied", AuthenticationFailed),
            ("LIBSSH", "internal error: no match for host key", AuthenticationFailed),
            ("INTERNAL_ERROR", "process exited while connecting to monitor: x: Permission denied", InvalidSpec),
            ("INTERNAL_ERROR", "cannot set up guest memory 'pc.ram': Cannot allocate memory", CapacityExhausted),
            ("NO_MEMORY", "out of memory", CapacityExhausted),
            ("SYSTEM_ERROR", "cannot create file: Disk quota exceeded", CapacityExhausted),
            ("NO_SUPPORT", "this function is not supported", NotSupported),
            ("INTERNAL_ERROR", "client socket is closed", Unavailable),
            ("RPC", "End of file while reading data", Unavailable),
            ("INTERNAL_ERROR", "connection closed due to keepalive timeout", Unavailable),
            ("OPERATION_TIMEOUT", "cannot acquire state change lock", Unavailable),
            ("RESOURCE_BUSY", "resource busy", Unavailable),
        ],
    )
    def test_each_has_our_word(self, code: str, text: str, expected: type[PhoenixError]) -> None:
        from phoenix_fleet.platforms import _libvirt_host

        found = _libvirt_host.failure("launch web-01", broken(code, text))

        assert type(found) is expected
        assert str(found).startswith(f"launch web-01: {text}")


class TestLab:
    def test_it_starts_and_stops_as_often_as_one_likes_and_leaves_nothing_running(self) -> None:
        from lab.libvirt_host import LibvirtHost

        folder = Path(tempfile.mkdtemp(prefix="plv-", dir="/tmp"))
        folder.chmod(0o755)
        try:
            host, again = LibvirtHost(folder), LibvirtHost(folder)
            host.start()
            pid = host.pid
            again.start()
            assert (again.pid, again.running) == (pid, True)
            host.stop()
            again.stop()
            assert not Path(f"/proc/{pid}").exists()
        finally:
            LibvirtHost(folder).stop()
            shutil.rmtree(folder)

    def test_a_folder_too_deep_for_sockets_is_refused(self, tmp_path: Path) -> None:
        from lab.libvirt_host import LibvirtHost

        with pytest.raises(InvalidConfig, match="too long"):
            LibvirtHost(tmp_path / "much-too-long-a-name").start()


class TestKind:
    @pytest.fixture
    def host(self, libvirt_lab: LibvirtLab) -> Iterator[Any]:
        yield libvirt_lab.api
        assert not [domain for domain in libvirt_lab.api.listAllDomains(0) if "probe" in domain.name()]

    def test_an_emulated_guest_boots(self, host: Any) -> None:
        from phoenix_fleet.platforms import _libvirt_probe

        assert _libvirt_probe.boots(host, "qemu")

    def test_one_that_runs_and_says_nothing_does_not_count(self, host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from phoenix_fleet.platforms import _libvirt_probe

        document = _libvirt_probe._document("qemu")
        silent = document.replace('<bios useserial="yes" />', "")
        assert silent != document
        monkeypatch.setattr(_libvirt_probe, "_document", lambda _kind: silent)
        monkeypatch.setattr(_libvirt_probe, "PATIENCE", 4)

        assert not _libvirt_probe.boots(host, "qemu")

    def test_what_is_not_offered_does_not(self, host: Any) -> None:
        from phoenix_fleet.platforms import _libvirt_probe

        assert not _libvirt_probe.boots(host, "hvf")

    def test_auto_tries_once_and_takes_what_boots(self, libvirt_lab: LibvirtLab, host: Any) -> None:
        from phoenix_fleet.platforms import _libvirt_probe

        _libvirt_probe._known.clear()
        settings = libvirt_lab.again(domain="auto").settings
        kind = _libvirt_probe.kind(host, settings)
        begun = time.monotonic()

        assert kind == ("kvm" if _libvirt_probe.boots(host, "kvm") else "qemu")
        between = time.monotonic()
        assert _libvirt_probe.kind(host, settings) == kind
        assert time.monotonic() - between < max(0.05, between - begun)


def connected(lab: LibvirtLab, uri: str) -> driver.Driver:
    return driver.Driver(lab.platform.settings, KnownConnections(Connection("libvirt", extra={"uri": uri})))
