"""Root file systems, kernels and disks for the lab's virtual machines, made from scratch and kept in the cache.

What is made lies in ``<cache>/machines/<name>-<hash of its recipe>``; another recipe is another folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import lzma
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phoenix_fleet import processes
from phoenix_fleet.domain.errors import Unavailable

Log = Callable[[str], None]
SUITE = "bookworm"
BUSYBOX = "bin/busybox"
_LESS = tuple(f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "info", "locale", "man", "lintian"))


def cached(cache: Path, name: str, recipe: Any, make: Callable[[Path], None], log: Log) -> Path:
    """The folder of that name and recipe, filled by ``make`` unless it is there; others wait for whoever makes it."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    home = cache / "machines"
    home.mkdir(parents=True, exist_ok=True)
    found = home / f"{name}-{digest}"
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            for stale in home.iterdir():  # of another recipe, or half made by a run that was killed
                if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{16}}(\.part)?", stale.name):
                    shutil.rmtree(stale)
            log(f"Making {name}; the next time it is in the cache")
            part = home / f"{name}-{digest}.part"
            part.mkdir()
            make(part)
            part.rename(found)
    return found


@contextmanager
def root(packages: Sequence[str], *, variant: str) -> Iterator[Path]:
    """A root file system with these packages in a folder of its own, which is gone afterwards. Needs root.

    :raises Unavailable: it cannot be made, with what mmdebstrap said.
    """
    with tempfile.TemporaryDirectory(prefix="phoenix-root-") as folder:
        target = Path(folder) / "root"
        run("mmdebstrap", "--quiet", f"--variant={variant}", *_LESS, f"--include={','.join(packages)}", SUITE, target)
        yield target


def lay(root: Path, files: Mapping[str, str]) -> None:
    """Write these files; those that begin with ``#!`` may be run."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)


def start_by_busybox(root: Path) -> None:
    """Let ``/lab/init``, which the initrd goes over to, be busybox's init: it does what ``/etc/inittab`` says."""
    shutil.rmtree(root / "dev", ignore_errors=True)  # the kernel fills it; and who copies a device has no end to read
    for folder in ("lab", "dev", "proc", "sys", "run", "tmp", "root"):
        (root / folder).mkdir(exist_ok=True)
    (root / "lab" / "init").symlink_to(f"/{BUSYBOX}")


def disk(root: Path, image: Path, size: str) -> None:
    """The root file system as a compressed qcow2 image of a disk of that size."""
    raw = image.with_suffix(".raw")
    run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", "root", "-d", root, raw, size)
    run("qemu-img", "convert", "-q", "-c", "-O", "qcow2", raw, image)
    raw.unlink()


def kernel(cache: Path, modules: Sequence[str], log: Log) -> Path:
    """A folder with Debian's kernel, unpacked (``vmlinux``), these modules and what they need, and busybox."""
    recipe = [sorted(modules), SUITE, 1]
    return cached(cache, "kernel", recipe, lambda folder: _make_kernel(folder, modules), log)


def _make_kernel(folder: Path, modules: Sequence[str]) -> None:
    with root(["linux-image-amd64", "busybox-static"], variant="extract") as made:
        (packed,) = (made / "boot").glob("vmlinuz-*")
        (folder / "vmlinux").write_bytes(unpacked(packed.read_bytes()))
        shutil.copy(made / BUSYBOX, folder / "busybox")
        known = {_module(path.name): path for path in (made / "lib" / "modules").rglob("*.ko")}
        (folder / "modules").mkdir()
        for each in ordered(known, modules):
            shutil.copy(known[each], folder / "modules" / f"{each}.ko")


def load_order(kernel: Path, modules: Sequence[str]) -> list[bytes]:
    """These modules of that kernel and what they need, in the order in which they can be loaded."""
    known = {path.stem: path for path in (kernel / "modules").iterdir()}
    return [known[each].read_bytes() for each in ordered(known, modules)]


def ordered(known: Mapping[str, Path], wanted: Sequence[str]) -> list[str]:
    """The names of these modules, each after those that it needs."""
    found: list[str] = []

    def need(name: str) -> None:
        if name in found:
            return
        if name not in known:
            raise Unavailable(f"The kernel has no module {name}.", remedy="See whether it is built in now.")
        # What a module needs is told in its own section of strings: ``depends=mbcache,jbd2``.
        match = re.search(rb"\0depends=([^\0]*)\0", known[name].read_bytes())
        for below in (match[1] if match else b"").decode().split(","):
            if below:
                need(_module(below))
        found.append(name)

    for name in wanted:
        need(_module(name))
    return found


def _module(name: str) -> str:
    return name.removesuffix(".ko").replace("-", "_")


def unpacked(image: bytes) -> bytes:
    """The kernel inside a compressed one, so that nobody has to unpack it in an emulated processor.

    Where it lies: https://docs.kernel.org/arch/x86/boot.html (``setup_sects``, ``payload_offset``, ``payload_length``).
    """
    setup = (image[0x1F1] or 4) + 1
    begin = setup * 512 + int.from_bytes(image[0x248:0x24C], "little")
    payload = image[begin : begin + int.from_bytes(image[0x24C:0x250], "little")]
    if not payload.startswith(b"\xfd7zXZ\0"):
        raise Unavailable("The kernel is not compressed with XZ any more.", remedy="Teach lab/roots.py the new way.")
    return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)


def run(*argv: str | Path) -> str:
    """What a program said. :raises Unavailable: it failed, or is not there."""
    try:
        done = subprocess.run(
            [str(each) for each in argv], capture_output=True, text=True, check=False, env=processes.bare_environment()
        )
    except FileNotFoundError:
        raise Unavailable(f"There is no {argv[0]}.", remedy="Run scripts/setup --dev.") from None
    if done.returncode:
        raise Unavailable(f"{argv[0]} failed: {(done.stderr or done.stdout).strip()[-1000:]}")
    return done.stdout
