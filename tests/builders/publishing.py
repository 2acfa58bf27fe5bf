"""What takes Canonical's place: a cloud image made of Debian, and a server that publishes it.

Like Canonical's it boots by its own GRUB, has cloud-init and lets nobody in.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from phoenix_fleet import seeds
from phoenix_fleet.builders import _libvirt_disk as disks
from phoenix_fleet.config import Project

MIB = 1024 * 1024
_GRUB = "/usr/lib/grub/i386-pc"
_MODULES = ("biosdisk", "part_msdos", "ext2", "normal", "linux", "configfile", "serial", "terminal")
_MENU = """\
serial --unit=0 --speed=115200
terminal_output serial
set timeout=0
menuentry Debian {
    linux /vmlinuz root=LABEL=phoenix-root ro console=ttyS0
    initrd /initrd.img
}
"""
_NETWORK = "network: {config: disabled}\ndatasource_list: [NoCloud, None]\n"


def cloud_image(folder: Path) -> Path:
    """The image, a qcow2 disk of 3 GiB in that folder; a minute. Needs root."""
    seed = Project.find().family("debian-base").target("libvirt").build.seed
    assert seed is not None
    root, tar = folder / "published", folder / "published.tar"
    root.mkdir()
    run("tar", "--numeric-owner", "-xpf", seeds.root_file_system(seed, print), "-C", root)
    (root / "boot/grub").mkdir(parents=True, exist_ok=True)
    (root / "boot/grub/grub.cfg").write_text(_MENU)
    (root / "etc/cloud/cloud.cfg.d/90-published.cfg").write_text(_NETWORK)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    core = "/core.img"
    run("chroot", root, "grub-mkimage", "-O", "i386-pc", "-o", core, "-p", "(hd0,msdos1)/boot/grub", *_MODULES)
    boot = (root / f"{_GRUB}/boot.img".lstrip("/")).read_bytes(), (root / core.lstrip("/")).read_bytes()
    (root / core.lstrip("/")).unlink()
    run("tar", "--numeric-owner", "-cpf", tar, "-C", root, ".")
    shutil.rmtree(root)
    disk = disks.make(tar, Project.find().include / "images/common", "", folder, gib=3, log=print).path
    tar.unlink()
    _embed(disk, *boot)
    image = folder / "published.img"
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", disk, image)
    disk.unlink()
    return image


def _embed(disk: Path, boot: bytes, core: bytes) -> None:
    """GRUB into the gap before the partition: by itself it looks for its core right behind the boot record."""
    assert len(core) < MIB - 512
    with disk.open("r+b") as file:
        file.write(boot[:440])
        file.seek(512)
        file.write(core)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """URL of a server that publishes what is in that folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sha256(file: Path) -> str:
    """Its digest, hex."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def run(*argv: str | Path) -> None:
    """Run a program that must succeed."""
    subprocess.run(list(map(str, argv)), check=True)
