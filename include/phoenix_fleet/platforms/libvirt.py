"""Domains on a libvirt host, KVM, QEMU or Xen: each with a disk of its own laid over an image in a storage pool."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from phoenix_fleet.connections import Connections
from phoenix_fleet.domain.errors import Busy, IntentMismatch, InvalidSpec, NotFound, NotOurs, PhoenixError, Unavailable
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Artefact, Instance, InstanceState, LaunchIntent
from phoenix_fleet.domain.pacing import Quota
from phoenix_fleet.platforms import _libvirt_domain as domains
from phoenix_fleet.platforms import _libvirt_host as hosts
from phoenix_fleet.platforms import _libvirt_identity as identity
from phoenix_fleet.platforms import _libvirt_images as images
from phoenix_fleet.platforms import _libvirt_probe as probe
from phoenix_fleet.platforms import _libvirt_seed as seeds
from phoenix_fleet.platforms import _libvirt_session as sessions
from phoenix_fleet.platforms import _libvirt_settings as chosen
from phoenix_fleet.platforms import _libvirt_view as view
from phoenix_fleet.platforms import _libvirt_volumes as volumes
from phoenix_fleet.platforms._libvirt_copies import ImageDisks
from phoenix_fleet.platforms._libvirt_data import DataVolumes
from phoenix_fleet.platforms._libvirt_host import is_code, library, unless
from phoenix_fleet.platforms.base import Platform

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_PUBLIC_KEY = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}( [^\r\n]*)?")
_MARK = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]{1,512}")
_LOOKS = 5
"""How often a host is listed anew when domains vanish meanwhile."""


class Driver(DataVolumes, ImageDisks, Platform):
    """libvirt. Safe from any thread: every call has a connection of its own."""

    Settings = chosen.Settings
    # So many calls a libvirtd serves at once by default: max_workers in libvirtd.conf.
    limits = Quota(at_once=20)

    def __init__(self, settings: Any, connections: Connections, *, opener: hosts.Opener = sessions.opened) -> None:
        super().__init__(settings, connections)
        self._opener = opener

    # Instances

    def launch(self, intent: LaunchIntent) -> Instance:
        """One domain named ``intent.name``, defined with its marks, then given its volumes, then started.

        Whatever a crash leaves of it is listed as ``starting``, finished here by the same token, or taken away by
        ``terminate``. libvirt forgets a token with its domain: that of a terminated instance launches anew.
        """
        settings = _frozen_settings(intent, self.settings)
        image = _check(intent, settings)
        with self._host(f"launch {intent.name}") as host:
            pool = volumes.pool(host, settings.pool)
            domain = self._find(host, intent) or self._define(host, pool, settings, image, intent)
            if not domain.isActive() and not view.seen(domain.XMLDesc(0)).life:
                self._start(host, pool, settings, domain, image, intent)
            return self._instance(host, domain, view.seen(domain.XMLDesc(0)))

    def get_instance(self, instance_id: str) -> Instance:
        """The domain with exactly that UUID; its host keys are those that it printed on its console."""
        with self._host(f"look at {instance_id}") as host:
            domain, seen = self._ours(host, instance_id)
            return self._instance(host, domain, seen, keys=True)

    def list_instances(self, fleet: str) -> Sequence[Instance]:
        """All domains with the marks of that fleet, in any state; libvirt answers with one whole page."""
        with self._host(f"list {fleet}") as host:
            for _ in range(_LOOKS):
                with unless("NO_DOMAIN"):  # one vanished while it was looked at: look at all of them again
                    return sorted(self._listed(host, fleet), key=lambda instance: instance.name)
            raise Unavailable(
                f"list {fleet}: domains vanished {_LOOKS} times while they were looked at.", remedy="Look again."
            )

    def terminate(self, instance_id: str) -> None:
        """Destroy and undefine the domain with exactly that UUID, with the volumes that were made for it alone.

        It is marked first, so that what a crash leaves of it is ``stopping`` and never starts again.
        """
        with self._host(f"terminate {instance_id}") as host:
            domain, seen = self._ours(host, instance_id)
            with unless("NO_DOMAIN"):
                _live_on(domain, view.TERMINATING)
                with unless("OPERATION_INVALID"):  # it does not run
                    domain.destroy()
                self._remove(host, domain, seen)

    def hostspec(self, instance: Instance) -> str:
        """``ssh://root@<address>/<id>``: SSH takes the address, and people the id."""
        address = instance.address or "address-unknown.invalid"
        return f"ssh://root@{f'[{address}]' if ':' in address else address}/{instance.id}"

    # Images

    def list_images(self, family: str) -> Sequence[tuple[Artefact, dict[str, str]]]:
        """Every volume in the pool that is named as an image of that family, by version."""
        with self._host(f"list images of {family}") as host:
            return images.listed(volumes.pool(host, self.settings.pool), self.settings.pool, family)

    def tag_image(self, artefact: Artefact, status: Rung) -> Artefact:
        """Put an empty volume beside it that is named after the rung; those of rungs before stay."""
        image = images.parse_ours(artefact, self.settings.pool)
        with self._host(f"tag {artefact.reference}") as host:
            images.tag(volumes.pool(host, self.settings.pool), image, status)
        return artefact

    def delete_image(self, artefact: Artefact) -> None:
        """Delete the volume and its marks, unless a disk, ours or not, is laid over it."""
        image = images.parse_ours(artefact, self.settings.pool)
        with self._host(f"delete {artefact.reference}") as host:
            pool = volumes.pool(host, self.settings.pool)
            users = {}
            for domain in host.listAllDomains(0):
                with unless("NO_DOMAIN"):  # gone since, and its disk with it
                    seen = view.seen(domain.XMLDesc(0))
                    if seen.is_ours:
                        users[seen.uuid] = (seen.name, seen.marks.get("image", ""))
            images.delete(host, pool, image, users)

    # Inside

    @contextmanager
    def _host(self, what: str) -> Iterator[Any]:
        with hosts.translated(what), self._opener(self.connections(self.settings.connection)) as host:
            yield host

    def _find(self, host: Any, intent: LaunchIntent) -> Any:
        """The domain of exactly this intent, or None."""
        uuid = view.uuid_of(intent.token, intent.fingerprint)
        with unless("NO_DOMAIN"):
            domain = host.lookupByUUIDString(uuid)
            if not view.seen(domain.XMLDesc(0)).is_ours:
                raise NotOurs(f"The domain {domain.name()} ({uuid}) is not ours.", remedy="Ask whose it is.")
            return domain
        return self._of_that_name(host, intent)

    def _of_that_name(self, host: Any, intent: LaunchIntent) -> Any:
        """The domain that has the intent's name: of exactly this intent by another caller, an error, or None."""
        with unless("NO_DOMAIN"):
            domain = host.lookupByName(intent.name)
            seen = view.seen(domain.XMLDesc(0))
            if not seen.is_ours:
                raise NotOurs(
                    f"A domain named {intent.name} exists and is not ours.", remedy="Ask whose it is, and rename it."
                )
            if seen.uuid != view.uuid_of(intent.token, intent.fingerprint):
                raise IntentMismatch(
                    f"{intent.name} was launched for {seen.marks.get('purpose')} with other parameters.",
                    remedy="Launch a new attempt; parameters are frozen with an intent.",
                )
            return domain
        return None

    def _define(self, host: Any, pool: Any, settings: chosen.Settings, image: images.Base, intent: LaunchIntent) -> Any:
        if (below := volumes.find(pool, image.name)) is None:
            volumes.refresh(pool)
            if (below := volumes.find(pool, image.name)) is None:
                raise InvalidSpec(
                    f"launch {intent.name}: there is no volume {image.name} in the pool '{settings.pool}'.",
                    remedy="Build the image again, or restore the pool.",
                )
        uuid = view.uuid_of(intent.token, intent.fingerprint)
        kind = probe.kind(host, settings, below.path(), image.form)
        own = volumes.names(uuid, seed=settings.seed == "nocloud", console=kind != "xen")
        where = volumes.folder(pool)
        key = self._host_key(settings, uuid)
        if kind == "xen" and key is None:
            raise InvalidSpec(
                f"launch {intent.name}: on Xen nobody reads what a machine prints, so its host key would stay unknown.",
                remedy="Set 'seed: nocloud', and extra.host_key_secret of the connection.",
            )
        document = domains.document(
            settings,
            kind=kind,
            name=intent.name,
            uuid=uuid,
            mac=_free_mac(host, intent.token, uuid),
            birth=view.birth(intent, settings.pool, own, image.name, datetime.now(UTC), key.public if key else ""),
            paths={name.partition(".")[2]: f"{where}/{name}" for name in own},
        )
        try:
            return host.defineXML(document)
        except library().libvirtError as error:
            # libvirt itself lets no two domains have one name: whoever came in between has it.
            if is_code(error, "OPERATION_FAILED", "DOM_EXIST") and (found := self._of_that_name(host, intent)):
                return found
            raise _refusal(intent, error) from error

    def _start(
        self, host: Any, pool: Any, settings: chosen.Settings, domain: Any, image: images.Base, intent: LaunchIntent
    ) -> None:
        """Give it its volumes and start it; a refusal undoes the launch."""
        lib = library()
        try:
            self._make_volumes(pool, settings, view.seen(domain.XMLDesc(0)), image, intent)
            if settings.autostart:
                domain.setAutostart(1)
            try:
                domain.create()
            except lib.libvirtError:
                if not domain.isActive():  # another caller of the same intent may have been quicker
                    raise
            _live_on(domain, view.STARTED)
        except lib.libvirtError as error:
            # When the reply was lost nothing is undone: the next launch with this token goes on from there.
            if host.isAlive():
                self._undo(host, domain)
            raise _refusal(intent, error) from error
        except Busy:  # another caller is at it
            raise
        except PhoenixError:
            self._undo(host, domain)
            raise
        if volumes.find(pool, f"{domain.UUIDString()}.{volumes.DISK}") is None or not domain.isPersistent():
            # Another caller undid the same launch while this one started it.
            with suppress(lib.libvirtError):
                domain.destroy()
            raise Unavailable(f"{intent.name} vanished while it was launched.", remedy="Launch it again.")

    def _make_volumes(
        self, pool: Any, settings: chosen.Settings, seen: view.Seen, image: images.Base, intent: LaunchIntent
    ) -> None:
        below = volumes.find(pool, image.name)
        if below is None:
            raise InvalidSpec(f"launch {intent.name}: {image.name} has gone.", remedy="Build the image again.")
        uuid, size = seen.uuid, volumes.capacity(below)
        disk = volumes.make(pool, f"{uuid}.{volumes.DISK}", size, "qcow2", (below.path(), image.form))
        if volumes.backing(disk) != below.path():
            raise Unavailable(f"launch {intent.name}: its disk was not finished.", remedy="Launch it again.")
        if f"{uuid}.{volumes.CONSOLE}" in seen.marks["volumes"].split():
            volumes.make(pool, f"{uuid}.{volumes.CONSOLE}", 0, "raw")
        if settings.seed == "nocloud":
            key = self._host_key(settings, uuid)
            if (key.public if key else "") != seen.marks.get("host_key", ""):
                raise InvalidSpec(
                    f"launch {intent.name}: the secret that its host key follows from has changed since it began.",
                    remedy="Launch a new attempt.",
                )
            content = seeds.seed(intent, key)
            # Filled whoever made it: its maker may have died, or be slower than we are.
            volumes.write(volumes.make(pool, f"{uuid}.{volumes.SEED}", len(content), "raw"), content)

    def _host_key(self, settings: chosen.Settings, uuid: str) -> identity.HostKey | None:
        if settings.seed == "none":
            return None
        return identity.injected(self.connections(self.settings.connection), uuid)

    def _undo(self, host: Any, domain: Any) -> None:
        with suppress(library().libvirtError, PhoenixError):
            if not domain.isActive():
                self._remove(host, domain, view.seen(domain.XMLDesc(0)))

    def _remove(self, host: Any, domain: Any, seen: view.Seen) -> None:
        """Delete the volumes of a domain that does not run, and then undefine it."""
        # The other way round they would be nobody's after a crash in between.
        lib = library()
        pool = volumes.pool(host, seen.marks.get("pool", ""))
        volumes.delete_own(pool, seen.uuid, seen.marks["volumes"].split())
        rest = lib.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | lib.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        try:
            domain.undefineFlags(rest | lib.VIR_DOMAIN_UNDEFINE_NVRAM)
        except lib.libvirtError as error:
            if not is_code(error, "INVALID_ARG", "NO_SUPPORT", "ARGUMENT_UNSUPPORTED"):
                raise
            domain.undefineFlags(lib.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)  # all that Xen's driver knows

    def _ours(self, host: Any, instance_id: str) -> tuple[Any, view.Seen]:
        missing = NotFound(f"There is no domain {instance_id!r} to be seen.", remedy="Look again.")
        if not _ID.fullmatch(instance_id):
            raise missing
        with unless("NO_DOMAIN"):
            domain = host.lookupByUUIDString(instance_id)
            seen = view.seen(domain.XMLDesc(0))
            if not seen.is_ours:
                raise NotOurs(f"The domain {seen.name} ({instance_id}) is not ours.", remedy="Ask whose it is.")
            return domain, seen
        raise missing

    def _listed(self, host: Any, fleet: str) -> list[Instance]:
        found = []
        for domain in host.listAllDomains(0):
            seen = view.seen(domain.XMLDesc(0))
            if seen.is_ours and seen.marks["fleet"] == fleet:
                found.append(self._instance(host, domain, seen))
        return found

    def _instance(self, host: Any, domain: Any, seen: view.Seen, *, keys: bool = False) -> Instance:
        word, reason, *_ = domain.state(0)
        status = view.state(word, reason, seen.life)
        running = status[0] is InstanceState.RUNNING
        image = images.base(_below(host, seen))
        host_keys = self._host_keys(host, seen) if keys and running else ()
        return view.instance(
            seen,
            status,
            _address(host, domain, seen) if running else "",
            image.digest if image else "",
            host_keys,
        )

    def _host_keys(self, host: Any, seen: view.Seen) -> tuple[str, ...]:
        """The key that we put into it, or else those that it printed on its console."""
        if given := seen.marks.get("host_key", ""):
            return (given,)
        return view.host_keys(volumes.console(volumes.pool(host, seen.marks.get("pool", "")), seen.uuid))


def _free_mac(host: Any, token: str, uuid: str) -> str:
    """The token's hardware address, unless a domain of the host has it: with so few bits that happens.

    A second machine with it would get the first one's lease.
    """
    taken = set()
    for domain in host.listAllDomains(0):
        with unless("NO_DOMAIN"):
            seen = view.seen(domain.XMLDesc(0))
            if seen.uuid != uuid:
                taken.add(seen.mac)
    return next(mac for number in itertools.count() if (mac := view.mac_of(token, number)) not in taken)


def _below(host: Any, seen: view.Seen) -> str:
    """The name of the volume that its disk is laid over; empty if it has another disk than it was born with."""
    own = f"{seen.uuid}.{volumes.DISK}"
    if seen.below or seen.disk != own:
        return seen.below if seen.disk == own else ""
    with unless("NO_STORAGE_VOL"):
        disk = volumes.find(volumes.pool(host, seen.marks.get("pool", "")), own)
        return volumes.backing(disk).rpartition("/")[2] if disk else ""
    return ""


def _address(host: Any, domain: Any, seen: view.Seen) -> str:
    """The instance's address as leases, the guest's agent or the host's ARP table tell it, in this order."""
    lib = library()
    sources = [lib.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE]
    if seen.answers:
        sources.append(lib.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
    for source in (*sources, lib.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP):
        try:
            if found := view.address(domain.interfaceAddresses(source, 0), seen.mac):
                return found
        except lib.libvirtError:
            # Not every host has every source: an address that is not known yet is no error, a lost host is one.
            if not host.isAlive():
                raise
    return ""


def _live_on(domain: Any, word: str) -> None:
    """Note what became of a domain, in its definition and, if it runs, in what is running."""
    lib = library()
    note = view.life(word)
    both = lib.VIR_DOMAIN_AFFECT_CONFIG | lib.VIR_DOMAIN_AFFECT_LIVE
    for flags in (both, lib.VIR_DOMAIN_AFFECT_CONFIG):
        # It does not run; or the host's driver cannot note anything, and what libvirt itself remembers must do.
        with unless("OPERATION_INVALID", "NO_SUPPORT"):
            domain.setMetadata(lib.VIR_DOMAIN_METADATA_ELEMENT, note, "phoenix-life", view.LIFE, flags)
            return


def _check(intent: LaunchIntent, settings: chosen.Settings) -> images.Base:
    if not _NAME.fullmatch(intent.name):
        raise InvalidSpec(f"{intent.name!r} is no host name.", remedy="Use letters, digits and dashes, at most 63.")
    if intent.authorized_key and not _PUBLIC_KEY.fullmatch(intent.authorized_key):
        raise InvalidSpec("The authorized key is not one public key.", remedy="Give one line: type, key, comment.")
    if intent.zone:
        raise InvalidSpec(
            f"launch {intent.name}: a libvirt host has no zone {intent.zone[:80]!r}.",
            remedy="Let the fleet stand on a platform with zones.",
        )
    if intent.authorized_key and settings.seed == "none":
        raise InvalidSpec("Without a seed the authorized key comes to no instance.", remedy="Set 'seed: nocloud'.")
    for mark in (intent.fleet, intent.slot, intent.family, intent.version, intent.purpose):
        if not _MARK.fullmatch(mark):
            raise InvalidSpec(f"{mark[:80]!r} cannot be a mark.", remedy="Use at most 512 printable characters.")
    return images.parse(intent.artefact, settings.pool)


def _frozen_settings(intent: LaunchIntent, current: chosen.Settings) -> chosen.Settings:
    """The settings that the intent was stored with: the file may have changed since."""
    try:
        return chosen.Settings.model_validate(dict(intent.settings)) if intent.settings else current
    except ValidationError as error:
        raise InvalidSpec(f"The settings frozen with {intent.name} do not fit: {error}") from None


def _refusal(intent: LaunchIntent, error: Any) -> PhoenixError:
    found = hosts.failure(f"launch {intent.name}", error)
    # What is not found here (a network, a file) is not found the next time either.
    return InvalidSpec(str(found)) if isinstance(found, NotFound) else found
