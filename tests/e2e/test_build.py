"""The family ``debian-base`` for real: built by Packer, pushed, booted, checked, configured, tested, broken.

One registry, one network and one build serve the whole module; everything carries this run's own name.
"""

from __future__ import annotations

import dataclasses
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from phoenix_fleet import freshness, packer
from phoenix_fleet.config import ImageFamily
from phoenix_fleet.configurators.ansible import Driver as Ansible
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import BuildFailed, NotFound
from phoenix_fleet.domain.models import Instance, Subject
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.gates import tests as tests_gate
from phoenix_fleet.platforms.docker import Driver as Docker
from tests.e2e.debian_base import (
    BROKEN,
    KILLED,
    PASSWORD,
    RUN,
    TERMED,
    USER,
    VERSION,
    Built,
    checked,
    facts,
    inside,
    own_target,
    ready_now,
    wait_for,
)

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.timeout(600)]


class TestTheImage:
    def test_it_is_in_the_registry_with_its_marks(self, built: Built) -> None:
        assert built.marks == {"version": str(VERSION), "status": "candidate"}
        assert re.fullmatch(rf"127\.0\.0\.1:\d+/e2e-{RUN}@sha256:[0-9a-f]{{64}}", built.artefact.reference)

    def test_the_log_tells_the_build_and_no_secret(self, built: Built) -> None:
        text = "\n".join(built.log)
        assert f"provision: done: debian-base {VERSION}" in text
        assert PASSWORD not in text + (built.workdir / "packer.log").read_text()
        assert [path.name for path in built.workdir.iterdir()] == ["packer.log"]

    def test_what_the_engine_is_told(self, built: Built, engine: Any) -> None:
        config = engine.images.get(built.artefact.reference).attrs["Config"]
        assert config["Entrypoint"] == ["/usr/local/sbin/phoenix-init"]
        assert config["StopSignal"] == "SIGHUP"
        assert config["Labels"]["phoenix.owner"] == "phoenix-fleet"
        # Marks of the build must not be inherited: what carries them may be swept.
        assert not config["Labels"].get("phoenix.build")

    def test_the_build_left_no_container(self, engine: Any, built: Built) -> None:
        assert engine.containers.list(all=True, filters={"name": f"phoenix-build-debian-base-{VERSION}"}) == []

    def test_nothing_personal_is_in_the_image(self, built: Built, engine: Any) -> None:
        container = engine.containers.create(built.artefact.reference, name=f"phoenix-e2e-{RUN}-export")
        try:
            files = _exported(container)
        finally:
            container.remove(v=True)
        assert files["etc/machine-id"].size == 0
        allowed_logs = {name for name in files if name.startswith("var/log/") and files[name].isfile()}
        unwanted = [name for name in files if re.search(r"ssh_host_|authorized_keys|known_hosts|_history$", name)]
        lists = [name for name in files if re.match(r"var/(lib/apt/lists|cache/apt)/", name) and files[name].isfile()]
        temporary = [name for name in files if re.match(r"(tmp|var/tmp|mnt|run)/.", name)]
        assert (allowed_logs, unwanted, lists, temporary) == (set(), [], [], [])
        hostname = files.get("etc/hostname")
        assert hostname is None or hostname.size == 0


def _exported(container: Any) -> dict[str, tarfile.TarInfo]:
    content = io.BytesIO(b"".join(container.export()))
    with tarfile.open(fileobj=content) as archive:
        return {member.name: member for member in archive}


class TestAnInstance:
    def test_it_takes_next_to_nothing_to_be_ready(self, throwaway: Instance, engine: Any) -> None:
        # Processor time, because how long that takes is up to whatever else the machine does.
        used = engine.containers.get(throwaway.id).stats(stream=False)["cpu_stats"]["cpu_usage"]["total_usage"]
        assert 0 < used < 1_000_000_000

    def test_two_have_identities_of_their_own(self, bare: Instance, throwaway: Instance, engine: Any) -> None:
        assert bare.host_keys != throwaway.host_keys
        machine_ids = {inside(engine, instance, "cat", "/etc/machine-id") for instance in (bare, throwaway)}
        assert len(machine_ids) == 2

    def test_the_checks_pass_on_a_bare_one(
        self, family: ImageFamily, platform: Docker, connections: Any, bare: Instance, tmp_path: Path
    ) -> None:
        found = checked(family, platform, connections, bare, tmp_path)
        assert (found.passed, found.error) == (True, ""), found.details

    def test_the_checks_notice_another_version(
        self, family: ImageFamily, platform: Docker, connections: Any, bare: Instance, tmp_path: Path
    ) -> None:
        found = checked(family, platform, connections, bare, tmp_path, version="2026.12-1")
        assert found.passed is False
        assert _failed(found) == ["test_it_was_born_from_the_image_that_it_should"]

    @pytest.mark.parametrize(
        ("fault", "noticed"),
        [
            ("chmod u+s /usr/bin/find", "test_no_program_raises_rights"),
            ("usermod -p '$6$x$y' root", "test_nobody_has_a_password_and_only_root_is_root"),
            ("useradd -o -u 0 toor", "test_nobody_has_a_password_and_only_root_is_root"),
            (
                "sed -i 's/PasswordAuthentication no/PasswordAuthentication yes/' /etc/ssh/sshd_config.d/phoenix.conf",
                "test_ssh_lets_root_in_by_key_and_nobody_else",
            ),
            ("mkdir /tmp/phoenix", "test_nothing_of_the_build_is_left"),
            (
                "echo 'ssh-ed25519 AAAA phoenix-build-x.1' >>/root/.ssh/authorized_keys",
                "test_no_key_of_the_build_lets_anybody_in",
            ),
            ("install -D /etc/hosts /home/admin/.ssh/authorized_keys", "test_no_key_of_the_build_lets_anybody_in"),
            ("mkdir -p /etc/service/broken && sleep 6", "test_runit_supervises_every_service"),
            ("dpkg --force-depends --remove nginx-light", "test_packages_are_installed_whole"),
            ("rm /etc/ssl/certs/ca-certificates.crt", "test_what_the_product_builds_on_works"),
            (": >/etc/machine-id", "test_its_identity_is_its_own"),
            ("nohup python3 -m http.server 9999 >/dev/null 2>&1 & sleep 1", "test_only_what_should_be_reached_listens"),
        ],
        ids=lambda text: re.sub(r"\W+", "-", text)[:40],
    )
    def test_the_checks_notice_what_is_wrong(
        self,
        family: ImageFamily,
        platform: Docker,
        connections: Any,
        throwaway: Instance,
        engine: Any,
        tmp_path: Path,
        fault: str,
        noticed: str,
    ) -> None:
        inside(engine, throwaway, "sh", "-c", fault)
        found = checked(family, platform, connections, throwaway, tmp_path)
        assert found.passed is False, found
        assert noticed in {name.partition("[")[0] for name in _failed(found)}

    def test_it_comes_back_from_a_reboot_as_itself(self, throwaway: Instance, platform: Docker, engine: Any) -> None:
        machine_id = inside(engine, throwaway, "cat", "/etc/machine-id")
        before = engine.containers.get(throwaway.id).attrs["State"]["StartedAt"]
        inside(engine, throwaway, "reboot")
        wait_for(lambda: engine.containers.get(throwaway.id).attrs["State"]["StartedAt"] != before)
        again = wait_for(lambda: ready_now(platform, throwaway.id))
        assert again.host_keys == throwaway.host_keys
        assert inside(engine, throwaway, "cat", "/etc/machine-id") == machine_id

    def test_it_reaps_the_processes_that_others_leave(self, throwaway: Instance, engine: Any) -> None:
        inside(engine, throwaway, "sh", "-c", "(sleep 0.1 &) ; sleep 0.5")
        assert "Z" not in inside(engine, throwaway, "sh", "-c", "ps -eo stat= | cut -c1")

    def test_what_the_archive_offers_is_seen_and_nothing_changed(
        self, throwaway: Instance, platform: Docker, engine: Any
    ) -> None:
        # An image built minutes ago may be behind by what the archive got meanwhile, not more.
        before = freshness.pending_upgrades(platform.hostspec(throwaway))
        inside(
            engine,
            throwaway,
            *("sed", "-i", "/^Package: media-types$/,/^$/ s/^Version: .*/Version: 0.1/", "/var/lib/dpkg/status"),
        )
        lists = inside(engine, throwaway, "find", "/var/lib/apt/lists", "/var/cache/apt", "/tmp")  # noqa: S108
        after = freshness.pending_upgrades(platform.hostspec(throwaway))
        assert [line.partition(" ")[0] for line in after if line not in before] == ["media-types:"]
        assert lists == inside(engine, throwaway, "find", "/var/lib/apt/lists", "/var/cache/apt", "/tmp")  # noqa: S108


def _failed(found: Measurement) -> list[str]:
    return [failure["name"].rpartition("::")[2].partition("[docker")[0] for failure in found.details["failures"]]


class TestTheProduct:
    def test_configuring_again_changes_nothing(self, configured: Any) -> None:
        _, first, second = configured
        assert not first[-1].endswith(" 0 changes.")
        assert second[-1].endswith(" 0 changes.")

    @pytest.mark.parametrize("component", ["shop-api", "shop-front"])
    def test_its_unit_tests_pass_inside(
        self,
        configured: Any,
        family: ImageFamily,
        platform: Docker,
        connections: Any,
        tmp_path: Path,
        component: str,
    ) -> None:
        instance = configured[0]
        subject = Subject(
            name=instance.name,
            workdir=str(tmp_path),
            instance=instance,
            hostspec=platform.hostspec(instance),
            component=family.component(component),
        )
        found = tests_gate.Driver(tests_gate.Settings(unit=True), connections, family.home).measure(subject)
        assert (found.passed, found.error) == (True, ""), found.details
        assert found.details["passed"] >= 10

    def test_the_checks_pass_on_a_configured_one(
        self, configured: Any, family: ImageFamily, platform: Docker, connections: Any, tmp_path: Path
    ) -> None:
        found = checked(family, platform, connections, configured[0], tmp_path)
        assert (found.passed, found.error) == (True, ""), found.details

    @pytest.mark.parametrize("suite", ["integration", "e2e"])
    def test_the_stages_suites_pass_from_outside(
        self, configured: Any, family: ImageFamily, connections: Any, tmp_path: Path, suite: str
    ) -> None:
        found = self._staged(configured[0], family, connections, tmp_path, suite)
        assert (found.passed, found.error) == (True, ""), found.details

    @pytest.mark.parametrize("suite", ["integration", "e2e"])
    @pytest.mark.parametrize(
        "wrong",
        [
            {"version": "2026.12-1"},
            {"environment": "production"},
            {"components": {"shop-api": "9.9", "shop-front": "9.9"}},
        ],
        ids=lambda wrong: next(iter(wrong)),
    )
    def test_the_stages_suites_notice_the_wrong_one(
        self, configured: Any, family: ImageFamily, connections: Any, tmp_path: Path, suite: str, wrong: dict[str, Any]
    ) -> None:
        assert self._staged(configured[0], family, connections, tmp_path, suite, **wrong).passed is False

    @staticmethod
    def _staged(
        instance: Instance, family: ImageFamily, connections: Any, folder: Path, suite: str, **changed: Any
    ) -> Measurement:
        subject = Subject(
            name="stage",
            workdir=str(folder),
            endpoint=f"http://{instance.address}:8080",
            facts=facts(family, **changed),
        )
        return tests_gate.Driver(
            tests_gate.Settings(suite=f"../common/stage/{suite}"), connections, family.home
        ).measure(subject)

    def test_a_component_works_on_an_instance_of_its_own(
        self, throwaway: Instance, connections: Any, family: ImageFamily, platform: Docker, tmp_path: Path
    ) -> None:
        """Certification puts one component at a time on an instance: none may need another's role."""
        environment = family.environment("certify")
        front = next(component for component in environment.components if component.name == "shop-front")
        alone = dataclasses.replace(environment, components=(front,))
        Ansible(Ansible.Settings(), connections).apply(throwaway, alone, print)
        subject = Subject(
            name="front",
            workdir=str(tmp_path),
            instance=throwaway,
            hostspec=platform.hostspec(throwaway),
            component=front,
        )
        found = tests_gate.Driver(tests_gate.Settings(unit=True), connections, family.home).measure(subject)
        assert (found.passed, found.error) == (True, ""), found.details

    def test_it_is_there_again_after_a_reboot_and_finishes_what_is_under_way_when_it_stops(
        self, throwaway: Instance, connections: Any, family: ImageFamily, engine: Any
    ) -> None:
        Ansible(Ansible.Settings(), connections).apply(throwaway, family.environment("certify"), print)
        base = f"http://{throwaway.address}:8080"
        inside(engine, throwaway, "reboot")
        wait_for(lambda: not _healthy(base))
        wait_for(lambda: _healthy(base))
        answers: list[httpx.Response] = []
        slow = [
            threading.Thread(
                target=lambda: answers.append(
                    httpx.get(f"{base}/api/slow?seconds=3", timeout=30, headers={"Connection": "close"})
                )
            )
            for _ in range(5)
        ]
        for thread in slow:
            thread.start()
        time.sleep(0.5)
        engine.containers.get(throwaway.id).stop(timeout=30)
        for thread in slow:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 5
        assert {answer.headers["X-Instance"] for answer in answers} == {throwaway.name}
        assert engine.containers.get(throwaway.id).attrs["State"]["ExitCode"] == 0


def _healthy(base: str) -> bool:
    try:
        return httpx.get(f"{base}/healthz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


class TestABuildThatFails:
    def test_it_says_why_and_leaves_nothing(
        self, overlay: Any, connections: Any, tmp_path: Path, engine: Any, platform: Docker, built: Built
    ) -> None:
        broken = overlay('PACKAGES="', 'PACKAGES="phoenix-no-such-package ')
        with pytest.raises(BuildFailed, match="Unable to locate package phoenix-no-such-package") as failed:
            packer.build(broken, own_target(broken), BROKEN, connections, workdir=tmp_path, log=print)
        assert failed.value.remedy
        assert engine.containers.list(all=True, filters={"name": f"phoenix-build-debian-base-{BROKEN}"}) == []
        assert [artefact for artefact, _ in platform.list_images("debian-base")] == [built.artefact]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
    def test_one_that_is_killed_leaves_no_container(
        self, overlay: Any, registry: Connection, tmp_path: Path, engine: Any, number: signal.Signals, built: Built
    ) -> None:
        hanging = overlay('say "packages"\n', "echo hangs-here\nsleep 600\n")
        version = str(TERMED if number is signal.SIGTERM else KILLED)
        name = f"phoenix-build-debian-base-{version}-"
        with (tmp_path / "output").open("w") as output:
            caller = subprocess.Popen(
                [sys.executable, "-c", CALLER, str(hanging.home.parents[1]), version, str(tmp_path)],
                env={
                    **os.environ,
                    "PYTHONPATH": str(Path(packer.__file__).parents[1]),
                    "AIRFLOW_CONN_REGISTRY": f"http://{USER}:{PASSWORD}@127.0.0.1:{registry.port}",
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for(lambda: "hangs-here" in (tmp_path / "output").read_text(), 60)
            assert engine.containers.list(filters={"name": name})
            caller.send_signal(number)
            assert caller.wait(timeout=20) == -number
            wait_for(lambda: not engine.containers.list(all=True, filters={"name": name}))
        finally:
            caller.kill()
            caller.wait()


CALLER = """
import sys
from pathlib import Path
from phoenix_fleet import packer
from phoenix_fleet.config import Project
from phoenix_fleet.connections import Connection, from_environment
from phoenix_fleet.domain.windows import Version
family = Project(Path(sys.argv[1])).family("debian-base")
known = {"registry": from_environment("registry"), "docker": Connection("docker", "/var/run/docker.sock")}
packer.build(family, family.target("docker"), Version.parse(sys.argv[2]), known.__getitem__,
             workdir=Path(sys.argv[3]), log=lambda line: print(line, flush=True))
"""


def test_an_instance_that_was_terminated_is_gone(launch: Any, platform: Docker) -> None:
    instance = launch("gone")
    platform.terminate(instance.id)
    with pytest.raises(NotFound):
        platform.get_instance(instance.id)
