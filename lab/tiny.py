"""The lab's virtual machine: a kernel, and a disk for each release with an SSH server and one small web service.

It is up in seconds where a whole Debian needs a minute: busybox is its init. From the NoCloud seed it takes what
cloud-init would: name, key, host key; without one in the seed it makes a host key, and prints it on the console.
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import initrd, roots
from phoenix_fleet.domain.models import Artefact
from phoenix_fleet.platforms import _libvirt_images as images
from phoenix_fleet.platforms import _libvirt_volumes as volumes
from phoenix_fleet.platforms import _libvirt_xml as xml

PORT = 8080
"""Where the service answers: ``/`` with the release, ``/healthz``, and ``/cgi-bin/slow``, which takes two seconds."""
MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_net", "xen_blkfront", "xen_netfront"),
    *("crc32c_generic", "ext4", "isofs"),
)
XEN_MODULES = (
    *("xen_evtchn", "xen_gntdev", "xen_gntalloc", "xenfs", "xen_privcmd", "xen_netback", "xen_blkback"),
    *("bridge", "tun", "loop"),
)
"""What the kernel of a Xen host needs on top."""
CMDLINE = "quiet panic=5 random.trust_cpu=on"
MEMORY = "192m"
_PACKAGES = ("busybox-static", "openssh-server")
_NOT_NEEDED = (
    *("usr/share", "usr/include", "var/lib/apt", "var/lib/dpkg", "var/cache", "etc/systemd", "usr/lib/systemd"),
    *("usr/bin/perl", "usr/bin/perl5.36.0", "usr/lib/python3", "etc/ssh/moduli"),
    *(f"usr/lib/x86_64-linux-gnu/{each}" for each in ("perl", "perl-base", "gconv", "libdb-5.3.so")),
)
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:20000::::::\n",
    "etc/inittab": "::sysinit:/lab/rc\n::respawn:/usr/sbin/sshd -D -f /lab/sshd_config\n",
    "lab/sshd_config": (
        "HostKey /etc/ssh/ssh_host_ed25519_key\nUsePAM no\nUseDNS no\nPermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\nPidFile none\nSubsystem sftp internal-sftp\n"
    ),
    "lab/lease": """\
#!/bin/sh
case $1 in
bound | renew)
    ip addr replace "$ip/$mask" dev "$interface"
    ip route replace default via "$router"
    ;;
esac
""",
    # Hostnames, keys and the like are the only strings asked of the seed; its values are JSON.
    "lab/rc": r"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec </dev/null >/dev/console 2>&1
mkdir -p /dev/pts /run/sshd
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
# A Xen guest's second disk may come later than its first.
tries=0
until [ -b /dev/vdb ] || [ -b /dev/xvdb ] || [ $tries -ge 100 ]; do
    usleep 100000
    tries=$((tries + 1))
done
disk=/dev/xvdb
[ -b /dev/vdb ] && disk=/dev/vdb
mount -t iso9660 -o ro $disk /lab/seed
said() { sed -n "s/.*\"$1\": \[\{0,1\}\"\([^\"]*\)\".*/\1/p" "/lab/seed/$2"; }
hostname "$(said local-hostname meta-data)"
ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -t 20 -T 1 -s /lab/lease
if [ -d /lab/www ]; then httpd -p 8080 -h /lab/www; else echo "the service has nothing to serve"; fi
umask 077
key=/etc/ssh/ssh_host_ed25519_key
if [ ! -s $key ]; then
    mkdir -p /root/.ssh /etc/ssh
    said ssh_authorized_keys user-data >/root/.ssh/authorized_keys
    printf '%b' "$(said ed25519_private user-data)" >$key
    [ -s $key ] || { rm $key; ssh-keygen -q -t ed25519 -N '' -C '' -f $key; }
fi
echo "-----BEGIN SSH HOST KEY KEYS-----"
ssh-keygen -y -f $key
echo "-----END SSH HOST KEY KEYS-----"
""",
}
_SLOW = "#!/bin/sh\nsleep 2\nprintf 'Content-Type: text/plain\\n\\n{release}\\n'\n"


_DEBIAN = ("systemd-sysv", "udev", "cloud-init", "openssh-server", "busybox-static")
_DEBIAN_FILES = {
    "etc/cloud/cloud.cfg.d/90-lab.cfg": "datasource_list: [NoCloud]\nnetwork: {config: disabled}\n",
    "etc/systemd/network/10-lab.network": "[Match]\nName=e*\n[Network]\nDHCP=ipv4\n",
    "etc/machine-id": "uninitialized\n",
}


@dataclass(frozen=True)
class Boot:
    """What every guest is started with."""

    kernel: Path
    initrd: bytes


def kernel(cache: Path, log: roots.Log) -> Path:
    """The folder of the kernel that guests and the Xen host are started with."""
    return roots.kernel(cache, (*MODULES, *XEN_MODULES), log)


def boot(cache: Path, log: roots.Log) -> Boot:
    """The kernel, and an initrd with what a guest needs."""
    home = kernel(cache, log)
    first = initrd.build((home / "busybox").read_bytes(), roots.load_order(home, MODULES))
    return Boot(home / "vmlinux", first)


def disk(cache: Path, release: str, *, serves: bool, log: roots.Log) -> Path:
    """The disk of that release, a qcow2 file; one that does not serve has a service that does not come up."""
    recipe = [_PACKAGES, _NOT_NEEDED, _FILES, _SLOW, release, serves, roots.SUITE, 1]
    name = f"guest-{release}-{'good' if serves else 'bad'}"

    def make(folder: Path) -> None:
        base = roots.cached(cache, "guest", [_PACKAGES, _NOT_NEEDED, _FILES, roots.SUITE, 1], _make_base, log)
        tree = folder / "tree"
        shutil.copytree(base / "root", tree, symlinks=True)
        if serves:
            page = {"index.html": f"{release}\n", "healthz": "ok\n", "cgi-bin/slow": _SLOW.format(release=release)}
            roots.lay(tree, {f"lab/www/{each}": text for each, text in page.items()})
        roots.disk(tree, folder / "disk.qcow2", "128M")
        shutil.rmtree(tree)

    return roots.cached(cache, name, recipe, make, log) / "disk.qcow2"


def _make_base(folder: Path) -> None:
    with roots.root(_PACKAGES, variant="extract") as made:
        for each in _NOT_NEEDED:
            roots.run("rm", "-rf", made / each)
        roots.run("chroot", made, f"/{roots.BUSYBOX}", "--install", "-s", "/bin")
        roots.start_by_busybox(made)
        roots.lay(made, _FILES)
        (made / "lab" / "seed").mkdir()
        shutil.copytree(made, folder / "root", symlinks=True)


def debian(cache: Path, log: roots.Log) -> Path:
    """The disk of a whole small Debian with cloud-init, a qcow2 file; under emulation it takes a minute to boot."""
    recipe = [_DEBIAN, _DEBIAN_FILES, roots.SUITE, 1]
    return roots.cached(cache, "debian", recipe, _make_debian, log) / "disk.qcow2"


def _make_debian(folder: Path) -> None:
    with roots.root(_DEBIAN, variant="minbase") as made:
        for key in (made / "etc" / "ssh").glob("ssh_host_*"):
            key.unlink()
        roots.lay(made, _DEBIAN_FILES)
        roots.run("chroot", made, "systemctl", "enable", "systemd-networkd")
        (made / "lab").mkdir()
        (made / "lab" / "init").symlink_to("/lib/systemd/systemd")
        roots.disk(made, folder / "disk.qcow2", "2G")


def artefact(pool: str, family: str, release: str, file: Path) -> Artefact:
    """What the file is once that pool holds it."""
    with file.open("rb") as content:
        digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
    return Artefact(
        "libvirt", images.reference(pool, images.volume_name(family, release, digest, "qcow2"), digest), digest
    )


def volume_of(artefact: Artefact) -> str:
    """The name of an image's volume."""
    return artefact.reference.partition("/")[2].partition("@")[0]


def put(host: Any, pool_name: str, family: str, release: str, file: Path) -> Artefact:
    """The image in that pool, through libvirt as a build would put it there; it is left alone if it is there."""
    found = artefact(pool_name, family, release, file)
    pool = volumes.pool(host, pool_name)
    volumes.refresh(pool)
    if volumes.find(pool, volume_of(found)) is None:
        volume = pool.createXML(xml.volume(volume_of(found), file.stat().st_size, "raw"), 0)
        try:
            volumes.write(volume, file.read_bytes())
        except BaseException:  # half of it must not be taken for it
            with suppress(Exception):
                volume.delete(0)
            raise
        volumes.refresh(pool)
    return found
