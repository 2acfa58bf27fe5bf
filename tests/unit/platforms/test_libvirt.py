"""What the libvirt platform makes of settings, connections, documents and answers, without any libvirt."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import InvalidConfig, PhoenixError, Unavailable
from phoenix_fleet.domain.models import Artefact, InstanceState, LaunchIntent
from phoenix_fleet.platforms import _libvirt_domain, _libvirt_images, _libvirt_probe, _libvirt_view, _libvirt_xml
from phoenix_fleet.platforms._libvirt_settings import Settings
from phoenix_fleet.platforms._libvirt_uri import where

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
DIGEST = f"sha256:{'a' * 64}"


def settings(**more: Any) -> Settings:
    return Settings(**{"pool": "default", "network": "default", **more})


def intent(**more: Any) -> LaunchIntent:
    artefact = Artefact("libvirt", f"default/phoenix-fleet_lab_2026.11-1_{'a' * 64}.qcow2@{DIGEST}", DIGEST)
    fields = {"fleet": "web", "slot": "web-01", "purpose": "rollout-1", "attempt": 1, "family": "lab"}
    return LaunchIntent(**{**fields, "version": "2026.11-1", "artefact": artefact, **more})


def connection(uri: str = "", **extra: str) -> Connection:
    return Connection("libvirt", extra={"uri": uri, **extra})


class TestSettings:
    @pytest.mark.parametrize(
        "change",
        [
            {"colour": "red"},
            {"pool": ""},
            {"pool": "../etc"},
            {"pool": "a/b"},
            {"network": ""},
            {"network": "x'/><y"},
            {"memory": "0m"},
            {"memory": "512"},
            {"memory": "-1g"},
            {"vcpus": 0},
            {"machine": "q35,accel=tcg"},
            {"kernel": "vmlinuz"},
            {"kernel": "/boot/../etc/x y"},
            {"cmdline": "quiet"},
            {"initrd": "/boot/initrd.img"},
            {"kernel": "/vmlinuz", "cmdline": "a\nb"},
            {"domain": "lxc"},
            {"domain": "xen"},
            {"xen": "hvm"},
            {"seed": "yes"},
        ],
        ids=str,
    )
    def test_what_cannot_work_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            settings(**change)

    def test_user_mode_needs_no_network(self) -> None:
        assert settings(network="", interface="user").network == ""

    def test_memory_in_mebibytes(self) -> None:
        assert [settings(memory=text).memory_mib for text in ("512m", "2g")] == [512, 2048]

    def test_every_field_is_described(self) -> None:
        assert all(field.description for field in Settings.model_fields.values())


class TestWhere:
    @pytest.mark.parametrize(
        "uri",
        [
            "qemu:///system",
            "qemu:///session",
            "xen:///system",
            "qemu+tls://kvm-1/system",
            "qemu+tcp://localhost/system",
        ],
    )
    def test_plain_ones_are_taken_as_they_are(self, uri: str) -> None:
        assert where(connection(uri)).uri == uri

    def test_nothing_said_is_this_host(self) -> None:
        assert where(Connection("libvirt")).uri == "qemu:///system"

    @pytest.mark.parametrize("driver", ["qemu", "xen"])
    def test_ssh_always_checks_who_answers(self, tmp_path: Path, driver: str) -> None:
        files = {name: str(tmp_path / name) for name in ("key_file", "known_hosts")}
        for path in files.values():
            Path(path).write_text("")

        found = urlsplit(where(connection(f"{driver}+ssh://root@kvm-1:2222/system", **files)).uri)

        assert (found.scheme, found.netloc, found.path) == (f"{driver}+libssh", "root@kvm-1:2222", "/system")
        assert parse_qs(found.query) == {
            "keyfile": [files["key_file"]],
            "known_hosts": [files["known_hosts"]],
            "known_hosts_verify": ["normal"],
            "sshauth": ["privkey"],
        }

    def test_host_and_login_mean_ssh(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("")
        extra = {"key_file": f"{tmp_path}/x", "known_hosts": f"{tmp_path}/x"}
        found = where(Connection("libvirt", host="kvm-1", login="me", port=22, extra=extra))
        assert found.shown == "qemu+ssh://me@kvm-1:22/system"

    @pytest.mark.parametrize("missing", ["key_file", "known_hosts"])
    def test_ssh_without_its_files_is_refused(self, tmp_path: Path, missing: str) -> None:
        (tmp_path / "x").write_text("")
        files = {name: f"{tmp_path}/x" for name in ("key_file", "known_hosts") if name != missing}
        with pytest.raises(InvalidConfig, match=missing):
            where(connection("qemu+ssh://kvm-1/system", **files))

    @pytest.mark.parametrize(
        "uri",
        [
            "lxc:///system",
            "qemu+ext:///system?command=/bin/sh",
            "qemu+ssh://kvm-1/system?no_verify=1",
            "qemu+ssh://kvm-1/system?known_hosts_verify=ignore",
            "qemu+ssh://kvm-1/system?command=/bin/sh",
            "qemu+ssh://kvm-1/system?netcat=/bin/sh",
            "qemu+ssh://kvm-1/system?keyfile=/x",
            "qemu+tls://kvm-1/system?no_verify=1",
            "qemu+tcp://kvm-1/system",
            "qemu+libssh://kvm-1/system?known_hosts_verify=ignore",
            "qemu+ssh://root:secret@kvm-1/system",
            "qemu+ssh://-oProxyCommand=x/system",
            "qemu+ssh:///system",
            "qemu://kvm-1/system",
            "qemu:///etc",
            "qemu:///system#x",
            "qemu:///system\n",
            "qemu:///system?socket",
            "qemu+ssh://kvm-1:port/system",
            "http://[",
            "::::",
        ],
    )
    def test_what_trusts_anybody_or_runs_a_program_is_refused(self, tmp_path: Path, uri: str) -> None:
        (tmp_path / "x").write_text("")
        with pytest.raises(InvalidConfig) as caught:
            where(connection(uri, key_file=f"{tmp_path}/x", known_hosts=f"{tmp_path}/x"))
        assert "secret" not in str(caught.value)
        assert caught.value.remedy

    @given(st.text(max_size=60))
    def test_any_text_is_a_uri_or_refused(self, text: str) -> None:
        try:
            found = where(connection(text))
        except InvalidConfig:
            return
        assert found.uri.startswith(("qemu:///", "xen:///", "qemu+", "xen+"))
        assert found.uri.isprintable()

    def test_a_password_shows_nowhere(self) -> None:
        found = where(Connection("libvirt", login="me", password="s3cret", extra={"uri": "qemu+tls://kvm-1/system"}))
        assert found.password == "s3cret"
        assert "s3cret" not in repr(found) + found.uri + found.shown


class TestIdentity:
    def test_the_same_intent_has_the_same_domain(self) -> None:
        assert uuid_of(intent()) == uuid_of(intent())

    def test_other_parameters_have_another_domain_under_the_same_name(self) -> None:
        one, other = intent(), intent(version="2026.11-2")
        assert (one.name, one.token) == (other.name, other.token)
        assert uuid_of(one) != uuid_of(other)

    def test_cards_are_in_the_range_of_libvirt(self) -> None:
        macs = {_libvirt_view.mac_of(intent(attempt=number).token) for number in range(200)}
        assert len(macs) == 200
        assert all(mac.startswith("52:54:00:") and len(mac) == 17 for mac in macs)


def uuid_of(which: LaunchIntent) -> str:
    return _libvirt_view.uuid_of(which.token, which.fingerprint)


def document(chosen: Settings, kind: str = "qemu", which: LaunchIntent | None = None) -> str:
    which = which or intent()
    own = uuid_of(which)
    return _libvirt_domain.document(
        chosen,
        kind=kind,
        name=which.name,
        uuid=own,
        mac=_libvirt_view.mac_of(which.token),
        birth=_libvirt_view.birth(which, "default", [f"{own}.qcow2"], "image", NOW),
        paths={each: f"/pool/{own}.{each}" for each in ("qcow2", "iso", "log")},
    )


class TestDocuments:
    def test_marks_come_back_as_they_went(self) -> None:
        which = intent(purpose="""<&"']]>é""")
        seen = _libvirt_view.seen(document(settings(), which=which))

        assert seen.is_ours
        assert (seen.uuid, seen.name) == (uuid_of(which), which.name)
        assert seen.marks["purpose"] == which.purpose
        assert seen.mac == _libvirt_view.mac_of(which.token)

    @pytest.mark.parametrize("mark", ["owner", "fleet", "slot", "token", "fingerprint"])
    @pytest.mark.parametrize("value", ["", "other"])
    def test_no_mark_may_be_missing_or_changed(self, mark: str, value: str) -> None:
        seen = _libvirt_view.seen(document(settings()))
        changed = dataclasses.replace(seen, marks={**seen.marks, mark: value})
        kept = mark in ("fleet", "slot") and value  # moved by hand: it is still ours
        assert changed.is_ours == bool(kept)

    def test_a_copy_is_not_ours(self) -> None:
        seen = _libvirt_view.seen(document(settings()))
        assert not dataclasses.replace(seen, uuid="0" * 36).is_ours

    def test_qemu_prints_into_a_volume_and_a_xen_guest_does_not(self) -> None:
        assert f'log file="/pool/{uuid_of(intent())}.log"' in document(settings())
        assert "log file" not in document(settings(domain="xen", kernel="/k"), "xen")

    @pytest.mark.parametrize(("xen", "type_", "machine"), [("pv", "linux", "xenpv"), ("pvh", "xenpvh", "xenpvh")])
    def test_xen(self, xen: str, type_: str, machine: str) -> None:
        root = _libvirt_xml.parse(
            document(settings(domain="xen", xen=xen, kernel="/k", initrd="/i", cmdline="ro"), "xen")
        )

        os = root.find("os")
        assert os is not None
        kind = os.find("type")
        assert root.get("type") == "xen"
        assert kind is not None
        assert (kind.text, kind.get("machine")) == (type_, machine)
        assert [os.findtext(tag) for tag in ("kernel", "initrd", "cmdline")] == ["/k", "/i", "ro"]
        assert [target.get("dev") for target in root.iterfind("devices/disk/target")] == ["xvda", "xvdb"]

    def test_every_disk_says_its_form(self) -> None:
        for kind, chosen in (("qemu", settings()), ("xen", settings(domain="xen", kernel="/k"))):
            drivers = _libvirt_xml.parse(document(chosen, kind)).findall("devices/disk/driver")
            assert [driver.get("type") for driver in drivers] == ["qcow2", "raw"]

    def test_the_seed_is_read_only_except_on_xen_whose_qemu_cannot(self) -> None:
        assert document(settings()).count("<readonly") == 1
        assert "readonly" not in document(settings(domain="xen", kernel="/k"), "xen")

    def test_a_guest_on_trial_boots_like_the_real_one_and_can_change_nothing(self) -> None:
        chosen = settings(machine="q35", firmware="efi")
        text = _libvirt_domain.trial(
            chosen, kind="kvm", name="probe", disk="/pool/i.qcow2", form="qcow2", memory_mib=64
        )
        root, real = _libvirt_xml.parse(text), _libvirt_xml.parse(document(chosen, "kvm"))
        for tag in ("os", "cpu", "features"):
            assert [_libvirt_xml.text_of(each) for each in root.findall(tag)] == [
                _libvirt_xml.text_of(each) for each in real.findall(tag)
            ]
        (disk,) = root.findall("devices/disk")
        assert disk.find("readonly") is not None
        assert root.find("devices/interface") is None

    def test_with_a_kernel_of_its_own_it_has_no_disk(self) -> None:
        text = _libvirt_domain.trial(
            settings(kernel="/k"), kind="kvm", name="probe", disk="/i", form="raw", memory_mib=64
        )
        root = _libvirt_xml.parse(text)
        assert root.findtext("os/kernel") == "/k"
        assert root.find("devices/disk") is None

    @pytest.mark.parametrize(
        "text",
        [
            '<!DOCTYPE x [<!ENTITY a "b">]><domain/>',
            "<domain>",
            "",
            "<domain>" + "x" * 5_000_000 + "</domain>",
        ],
        ids=["entities", "half", "empty", "huge"],
    )
    def test_hostile_documents_are_not_read(self, text: str) -> None:
        with pytest.raises(Unavailable):
            _libvirt_view.seen(text)

    @given(st.text(max_size=200))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        try:
            assert not _libvirt_view.seen(text).is_ours
        except PhoenixError:
            return


class TestStates:
    @pytest.mark.parametrize(
        ("word", "reason", "life", "expected"),
        [
            (1, 1, "", InstanceState.RUNNING),
            (2, 0, "started", InstanceState.RUNNING),
            (3, 11, "", InstanceState.STARTING),
            (3, 5, "started", InstanceState.FAILED),
            (4, 0, "started", InstanceState.STOPPING),
            (5, 0, "", InstanceState.STARTING),
            (5, 6, "", InstanceState.STARTING),
            (5, 0, "started", InstanceState.FAILED),
            (5, 1, "", InstanceState.FAILED),
            (5, 3, "started", InstanceState.FAILED),
            (5, 2, "terminating", InstanceState.STOPPING),
            (6, 0, "started", InstanceState.FAILED),
            (7, 0, "started", InstanceState.FAILED),
            (0, 0, "", InstanceState.FAILED),
            (99, 1, "", InstanceState.FAILED),
        ],
    )
    def test_libvirts_words(self, word: int, reason: int, life: str, expected: InstanceState) -> None:
        state, message = _libvirt_view.state(word, reason, life)
        assert state is expected
        assert bool(message) == (expected is InstanceState.FAILED)

    def test_there_is_no_state_without_a_word(self) -> None:
        for word, reason, life in itertools.product(range(-1, 12), range(-1, 15), ("", "started", "terminating", "x")):
            state, message = _libvirt_view.state(word, reason, life)
            assert bool(message) == (state is InstanceState.FAILED)


MAC = "52:54:00:00:00:01"


def cards(*addresses: object, mac: str = MAC) -> dict[str, Any]:
    return {"eth0": {"hwaddr": mac, "addrs": [{"addr": address, "prefix": 24, "type": 0} for address in addresses]}}


class TestAddresses:
    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            (cards("10.0.0.7"), "10.0.0.7"),
            (cards("fe80::1", "2001:db8::7", "10.0.0.7"), "10.0.0.7"),
            (cards("fe80::1", "2001:db8::7"), "2001:db8::7"),
            (cards("127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "::"), ""),  # noqa: S104
            (cards("10.0.0.7", mac="52:54:00:00:00:02"), ""),
            (cards("10.0.0.7; rm -rf /", "web.example", None, 7.5), ""),
            ({"lo": {"hwaddr": None, "addrs": None}}, ""),
            ({}, ""),
            (None, ""),
        ],
    )
    def test_only_ones_of_its_card_that_others_reach(self, answer: Any, expected: str) -> None:
        assert _libvirt_view.address(answer, MAC) == expected


ED = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0000000000000000000000000000000000000000000"
BEGIN, END = "-----BEGIN SSH HOST KEY KEYS-----", "-----END SSH HOST KEY KEYS-----"


class TestHostKeys:
    def test_comments_and_console_noise_go(self) -> None:
        rsa = "ssh-rsa " + "A" * 372
        text = f"[ 3.1] boot\r\n{BEGIN}\r\n{ED} root@web\r\n[ 9.2] noise\r\n{rsa} root@web\r\n{END}\r\nlogin:"
        assert _libvirt_view.host_keys(text) == (ED, rsa)

    @pytest.mark.parametrize("text", ["", ED, f"{BEGIN}\n{ED}\n", f"{ED}\n{END}", f"{BEGIN}\nnonsense {ED}\n{END}"])
    def test_half_a_block_shows_none(self, text: str) -> None:
        assert _libvirt_view.host_keys(text) == ()

    def test_the_last_block_counts(self) -> None:
        assert _libvirt_view.host_keys(f"{BEGIN}\n{ED[:-1]}1\n{END}\n{BEGIN}\n{ED}\n{END}\n") == (ED,)

    def test_endless_keys_are_cut(self) -> None:
        many = "\n".join(f"{ED[:-3]}{number:03d}" for number in range(500))
        assert len(_libvirt_view.host_keys(f"{BEGIN}\n{many}\n{END}")) == 8


class TestImageNames:
    def test_a_name_says_all_and_comes_back(self) -> None:
        name = _libvirt_images.volume_name("debian-base", "2026.11-1", DIGEST, "qcow2")
        assert _libvirt_images.base(name) == _libvirt_images.Base(name, "debian-base", "2026.11-1", DIGEST, "qcow2")

    @pytest.mark.parametrize(
        "name",
        [
            "",
            f"phoenix-fleet_lab_2026.11-1_{'a' * 63}.qcow2",
            f"phoenix-fleet_lab_2026.11-1_{'a' * 64}.qcow2.tested",
            f"phoenix-fleet_lab_2026.11-1_{'a' * 64}.iso",
            f"phoenix-fleet-2_lab_2026.11-1_{'a' * 64}.raw",
            f"phoenix-fleet_la_b_2026.11-1_{'a' * 64}.raw",
            f"x/phoenix-fleet_lab_2026.11-1_{'a' * 64}.raw",
            f"phoenix-fleet_lab_2026.11-1_{'a' * 64}.raw\n",
        ],
    )
    def test_look_alikes_are_none_of_ours(self, name: str) -> None:
        assert _libvirt_images.base(name) is None


class TestHearing:
    @pytest.mark.parametrize(
        ("said", "heard"),
        [
            ("", False),
            ("SeaBIOS (version 1.16.2-debian)\r\nBooting from Hard Disk...", False),
            ("Welcome to GRUB!\r\nLoading Linux 6.1.0-41-amd64 ...\r\nLoading initial ramdisk ...", False),
            ("Probing EDD (edd=off to disable)... ok\r\n", False),
            ("Linux version", False),
            ("[    0.000000] Linux version 6.1.0-41-amd64 (debian-kernel@lists.debian.org)", True),
            ("\r\nDebian GNU/Linux 12 web-01 ttyS0\r\n\r\nweb-01 login: ", True),
        ],
    )
    def test_only_a_kernel_counts_or_what_it_has_started(self, said: str, heard: bool) -> None:
        assert _libvirt_probe.kernel_speaks(said) is heard
