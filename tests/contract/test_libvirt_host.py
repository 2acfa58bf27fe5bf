"""What only libvirt can get wrong with hosts and images: keys, pools, errors, kinds of guests, the lab's own host."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from lab import leftovers, temporary
from lab.libvirt_host import POOL, LibvirtHost
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
from phoenix_fleet.domain.models import LaunchIntent
from phoenix_fleet.platforms import _libvirt_host
from phoenix_fleet.platforms import _libvirt_images as images
from phoenix_fleet.platforms import _libvirt_probe as probe
from phoenix_fleet.platforms import libvirt as driver
from tests.contract.libvirt_troubles import broken
from tests.contract.machinery import KnownConnections, killed_when_ready, wait_for
from tests.contract.platforms_libvirt import LibvirtLab, boot_sector

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
        found = _libvirt_host.failure("launch web-01", broken(code, text))

        assert type(found) is expected
        assert str(found).startswith(f"launch web-01: {text}")


class TestReaching:
    @pytest.mark.parametrize("listens", [False, True], ids=["nobody is there", "whoever is there says nothing"])
    def test_a_host_that_ssh_does_not_reach_may_be_reached_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listens: bool
    ) -> None:
        monkeypatch.setattr(_libvirt_host, "TIMEOUT", 14)
        for name in ("key", "hosts"):
            (tmp_path / name).write_text("none")
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            if listens:
                other.listen()
            extra = {
                "uri": f"xen+ssh://root@127.0.0.1:{other.getsockname()[1]}/system",
                "key_file": str(tmp_path / "key"),
                "known_hosts": str(tmp_path / "hosts"),
            }
            with (
                pytest.raises(Unavailable, match=r"127\.0\.0\.1"),
                _libvirt_host.opened(Connection("xen", extra=extra)),
            ):
                pass


class TestLab:
    @pytest.fixture
    def folder(self) -> Iterator[Path]:
        with temporary.folder(temporary.HOSTS) as found:
            found.chmod(0o755)
            try:
                yield found
            finally:
                LibvirtHost(found).stop()

    def test_it_starts_and_stops_as_often_as_one_likes_and_leaves_nothing_running(self, folder: Path) -> None:
        host, again = LibvirtHost(folder), LibvirtHost(folder)
        host.start()
        pid = host.pid
        again.start()
        assert (again.pid, again.running) == (pid, True)
        host.stop()
        again.stop()
        assert not Path(f"/proc/{pid}").exists()

    def test_what_one_leaves_that_is_killed_is_ended_when_it_is_stopped(self, folder: Path) -> None:
        host = LibvirtHost(folder)
        host.start()
        with _libvirt_host.opened(Connection("libvirt", extra={"uri": host.uri})) as api:
            api.createXML(
                "<domain type='qemu'><name>left</name><memory unit='MiB'>16</memory><os><type>hvm</type></os></domain>"
            )
        emulator, daemon = host.qemu("left"), host.pid
        os.kill(daemon, signal.SIGKILL)
        wait_for(lambda: not host.running, "its death")
        assert Path(f"/proc/{emulator}").exists()

        host.stop()

        assert not Path(f"/proc/{emulator}").exists()
        assert not host.running

    def test_a_folder_too_deep_for_sockets_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidConfig, match="too long"):
            LibvirtHost(tmp_path / "much-too-long-a-name").start()


_LAB = """
with temporary.folder(temporary.HOSTS) as made:
    made.chmod(0o755)
    LibvirtHost(made).start()
    tell(made)
"""


class TestLeftovers:
    """A lab whose process was killed, and one whose process lives: libvirt's own processes in both."""

    def test_only_what_a_dead_process_left_is_ended(self, tmp_path: Path) -> None:
        with temporary.folder(temporary.HOSTS) as mine:
            mine.chmod(0o755)
            host = LibvirtHost(mine)
            host.start()
            try:
                left = Path(killed_when_ready(_LAB, tmp_path / "told"))
                assert LibvirtHost(left).running
                said: list[str] = []

                leftovers.sweep(said.append)

                assert not left.exists()
                assert [line for line in said if str(left) in line] == said
                assert (mine.exists(), host.running) == (True, True)
            finally:
                host.stop()
                leftovers.sweep(print)


class TestKind:
    @pytest.fixture
    def host(self, libvirt_lab: LibvirtLab) -> Iterator[Any]:
        yield libvirt_lab.api
        assert not [domain for domain in libvirt_lab.api.listAllDomains(0) if "probe" in domain.name()]

    @pytest.fixture
    def boots(self, libvirt_lab: LibvirtLab, host: Any, fleet: str) -> Callable[..., bool]:
        """Whether a guest of that kind does whose image prints ``said`` before a block of host keys."""

        def ask(kind: str, said: bytes, **settings: Any) -> bool:
            artefact = libvirt_lab.artefact(fleet, "2026.11-1", boot=boot_sector(said))
            disk = libvirt_lab.pool.storageVolLookupByName(images.parse(artefact, POOL).name).path()
            return probe.boots(host, kind, libvirt_lab.again(**settings).settings, disk, "raw")

        return ask

    def test_an_emulated_guest_boots_whose_kernel_speaks(self, boots: Callable[..., bool]) -> None:
        assert boots("qemu", b"[    0.000000] Linux version 6.1.0-41-amd64\r\n")

    @pytest.mark.parametrize(
        "said", [b"", b"SeaBIOS (version 1.16.2)\r\n", b"Welcome to GRUB!\r\nLoading Linux 6.1.0 ...\r\n"]
    )
    def test_one_in_which_only_others_speak_does_not_count(
        self, boots: Callable[..., bool], monkeypatch: pytest.MonkeyPatch, said: bytes
    ) -> None:
        monkeypatch.setattr(probe, "PATIENCE", timedelta(seconds=4))

        assert not boots("qemu", said)

    def test_what_is_not_offered_does_not(self, boots: Callable[..., bool]) -> None:
        assert not boots("hvf", b"Linux version 6\r\n")

    def test_a_kernel_that_is_not_there_does_not(self, boots: Callable[..., bool]) -> None:
        assert not boots("qemu", b"Linux version 6\r\n", kernel="/nowhere/vmlinuz")

    def test_auto_tries_once_for_an_image_and_takes_what_boots(
        self, libvirt_lab: LibvirtLab, host: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[str, str]] = []

        def boots(_host: Any, kind: str, _settings: Any, disk: str, _form: str) -> bool:
            asked.append((kind, disk))
            return disk == "/works"

        monkeypatch.setattr(probe, "boots", boots)
        monkeypatch.setattr(probe, "_known", {})
        settings = libvirt_lab.again(domain="auto").settings

        found = [probe.kind(host, settings, disk, "raw") for disk in ("/works", "/hangs", "/works", "/hangs")]

        assert found == ["kvm", "qemu", "kvm", "qemu"]
        assert asked == [("kvm", "/works"), ("kvm", "/hangs")]

    def test_what_the_settings_say_is_not_tried(self, libvirt_lab: LibvirtLab, host: Any) -> None:
        assert probe.kind(host, libvirt_lab.again(domain="kvm").settings, "/nowhere", "raw") == "kvm"


def connected(lab: LibvirtLab, uri: str) -> driver.Driver:
    return driver.Driver(lab.platform.settings, KnownConnections(Connection("libvirt", extra={"uri": uri})))
