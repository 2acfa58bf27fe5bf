"""What a lab of libvirt with a network leaves whose process was killed, and who clears it up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import leftovers
from lab.places import REPOSITORY
from lab.qemu_host import BRIDGE
from tests.contract.machinery import killed_when_ready, output, wait_for
from tests.sampling import machines_of_the_day

pytestmark = [pytest.mark.e2e, pytest.mark.libvirt, pytest.mark.timeout(600), machines_of_the_day("qemu")]
LAB = """
import json
with temporary.places() as places:
    host = qemu_host.of(places, print)
    host.folder.mkdir()
    host.start()
    with host.opened() as api:
        api.createXML(
            "<domain type='qemu'><name>left</name><memory unit='MiB'>16</memory><os><type>hvm</type></os></domain>"
        )
    tell(json.dumps({"folder": str(places.home), "pids": [host.pid, host.qemu("left")]}))
"""


@pytest.fixture
def nothing_left() -> Iterator[None]:
    yield
    leftovers.sweep(print)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("libvirtd", ["runs", "was killed too"])
def test_down_ends_what_a_killed_run_has_left(tmp_path: Path, libvirtd: str) -> None:
    told = json.loads(killed_when_ready(LAB, tmp_path / "told", 400))
    if libvirtd == "was killed too":
        os.kill(told["pids"][0], 9)
    leases = int(output(["pgrep", "-f", "-o", "dnsmasq.*libvirt/dnsmasq/phoenix"]))
    assert Path("/sys/class/net", BRIDGE).exists()

    # A lab of another folder is told to stop: it is enough to find this one.
    path = os.pathsep.join(str(REPOSITORY / each) for each in ("", "include"))
    environment = {**os.environ, "PYTHONPATH": path, "PHOENIX_LAB_HOME": str(tmp_path / "other")}
    argv = [sys.executable, "-m", "lab", "libvirt", "down"]
    done = subprocess.run(argv, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert told["folder"] in done.stderr.replace("\n", "")
    assert not Path(told["folder"]).exists()
    assert not Path("/sys/class/net", BRIDGE).exists()
    for pid in (told["pids"][1], leases):
        wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists(), f"init to be told of the end of {pid}")
