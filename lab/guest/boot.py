#!/usr/bin/python3
"""Boots a container as if it were a machine: the little of init and cloud-init that the lab's instances need.

It runs as process 1 and takes its user data from wherever the platform puts it: a NoCloud seed (the lab's EC2), or
``guestinfo`` in the environment (the vCenter simulator). Of a ``#cloud-config`` it does what the platforms' drivers
write: host name, host keys, who may log in, files. Its standard output is the machine's console.
"""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SEED = Path("/var/lib/cloud/seed/nocloud/user-data")
BORN = Path("/var/lib/cloud/instance/boot-finished")
EVERY_BOOT = Path("/var/lib/cloud/scripts/per-boot")
GUESTINFO = "VMX_GUESTINFO_"
PORT = 8080


def told() -> tuple[dict[str, Any], str | None]:
    """The user data, and what the platform calls the machine."""
    if GUESTINFO + "USERDATA" in os.environ:
        user, meta = (base64.b64decode(os.environ[f"{GUESTINFO}{name}"]).decode() for name in ("USERDATA", "METADATA"))
        return cloud_config(user), json.loads(meta).get("local-hostname")
    return cloud_config(SEED.read_text() if SEED.exists() else ""), None


def cloud_config(text: str) -> dict[str, Any]:
    """What a ``#cloud-config`` says; nothing for anything else, as cloud-init has it for a script or for nothing."""
    head, _, rest = text.partition("\n")
    found: dict[str, Any] = json.loads(rest) if head.strip() == "#cloud-config" else {}
    return found


def be_born(config: dict[str, Any], name: str | None) -> None:
    """What happens at the first boot alone."""
    Path("/etc/machine-name").write_text(f"{config.get('hostname') or name or socket.gethostname()}\n")
    if config.get("ssh_deletekeys", True):
        for key in Path("/etc/ssh").glob("ssh_host_*"):
            key.unlink()
    for kind in config.get("ssh_genkeytypes", ["ed25519", "ecdsa", "rsa"]):
        made = Path(f"/etc/ssh/ssh_host_{kind}_key")
        if not made.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "root@machine", "-f", made], check=True)
    authorize(config)
    for file in config.get("write_files", []):
        path = Path(file["path"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file["content"])
        path.chmod(int(file.get("permissions", "0644"), 8))
    BORN.parent.mkdir(parents=True, exist_ok=True)
    BORN.touch()


def authorize(config: dict[str, Any]) -> None:
    """Let in as root whoever the user data names: cloud-init keeps root shut unless it says otherwise."""
    keys = list(config.get("ssh_authorized_keys", []))
    for user in config.get("users", []):
        keys += user.get("ssh_authorized_keys", []) if user.get("name") == "root" else []
    if config.get("disable_root", True) or not keys:
        return
    home = Path("/root/.ssh")
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "authorized_keys").write_text("".join(f"{key}\n" for key in keys))
    (home / "authorized_keys").chmod(0o600)


def say_keys() -> None:
    """The host keys between the lines that cloud-init's ``keys_to_console`` writes."""
    print("-----BEGIN SSH HOST KEY KEYS-----")
    for key in sorted(Path("/etc/ssh").glob("ssh_host_*_key.pub")):
        print(key.read_text().strip())
    print("-----END SSH HOST KEY KEYS-----", flush=True)


def serves() -> bool:
    """Whether something listens where the service should."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", PORT)) == 0


def main() -> None:
    """From the first line on the console to the last."""
    print("[    0.000000] The lab's machine boots", flush=True)
    config, name = told()
    if not BORN.exists():
        be_born(config, name)
    service = subprocess.Popen(["/usr/local/bin/service"])
    for _ in range(50):
        if serves() or service.poll() is not None:
            break
        time.sleep(0.1)
    Path("/run/sshd").mkdir(exist_ok=True)
    children = [service, subprocess.Popen(["/usr/sbin/sshd", "-D", "-e"])]
    for script in sorted(EVERY_BOOT.glob("*")) if EVERY_BOOT.is_dir() else []:
        subprocess.run([str(script)], check=False)
    if config.get("ssh", {}).get("emit_keys_to_console", True):
        say_keys()
    print(f"{Path('/etc/machine-name').read_text().strip()} login:", flush=True)
    wait_for_the_end(children)


def wait_for_the_end(children: Sequence[subprocess.Popen[bytes]]) -> None:
    """Reap what ends, until the machine is told to stop."""

    def stop(*_: object) -> None:
        for child in children:
            child.kill()
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.pause()


if __name__ == "__main__":
    main()
