"""Builds for VMware vSphere: a clone of a template that Packer (``vsphere-clone``) makes a template of ours."""

from __future__ import annotations

import hashlib
import re
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import unquote

from pydantic import Field

from phoenix_fleet.builders import _tools as tools
from phoenix_fleet.builders.base import BUILD_ID, BUILD_MARK, NAME, UNTIL_MARK, Builder, Inputs, Log, Run, is_over
from phoenix_fleet.configfields import Frozen
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import BuildFailed, InvalidConfig, InvalidSpec, Unavailable
from phoenix_fleet.domain.models import OWNER
from phoenix_fleet.platforms import _vmware_templates as templates
from phoenix_fleet.platforms import _vmware_view as view
from phoenix_fleet.platforms._vmware_collect import ended, listed
from phoenix_fleet.platforms._vmware_errors import of_fault, passing
from phoenix_fleet.platforms._vmware_places import datacenter, resolve
from phoenix_fleet.platforms._vmware_session import session

Given = TypeVar("Given")

_PATHS = ("name", "config.template", "config.annotation", "config.extraConfig", "runtime.powerState")
_TEMPORARY = re.compile(rf"{NAME}(?P<id>{BUILD_ID})\.(?P<until>\d{{9,12}})")
_LONGEST_NAME = 80
"""Characters of a virtual machine's name: https://kb.vmware.com/s/article/2046088"""
_DONE_WITHIN = 60
SOURCE_MARK = "phoenix.source"
"""In the extra configuration of a template that was imported: ``sha256:`` and the digest of what it was made of."""


class Settings(Frozen):
    """What a template is built from, and how its temporary machine is reached."""

    source: str = Field(description="Name of the template to clone, which lets ssh_username in.", min_length=1)
    source_sha256: str = Field(
        "",
        description="SHA-256 of what it must have been made of, as phoenix.source on it says. Default: any.",
        pattern=r"^$|^[0-9a-f]{64}$",
    )
    ssh_username: str = Field(description="Who may log in there.", pattern=r"^[a-z_][a-z0-9_-]{0,31}$")
    connection: str = Field(
        "phoenix_ssh", description="Airflow connection whose extra.key_file is the key for it. Default: phoenix_ssh."
    )
    snapshot: bool = Field(True, description="Whether a snapshot is left for linked clones. Default: true.")


class Driver(Builder):
    """vSphere. Templates get vCenter's login (from a file of mode 0600), the place, the marks and how to log in.

    What Packer makes bears the build and the end of its time in its name, from birth. ``finish`` renames it, which a
    template allows: before that a sweep takes it, after that none does.
    """

    Settings = Settings

    def check(self) -> None:
        """The key is there, vCenter answers, and every place and the template to clone exist."""
        tools.check_files(self._ssh, "key_file")

        def do(vcenter: Any) -> None:
            center = datacenter(vcenter, self._place.datacenter)
            resolve(vcenter, center, self._place)
            found = [(_name(seen), seen) for _, seen in _machines(vcenter, center.ref) if _is_template(seen)]
            wanted = [seen for name, seen in found if name == self.settings.source]
            if not wanted:
                raise InvalidSpec(
                    f"image.yaml: build.settings.source: vCenter has no template '{self.settings.source}'; "
                    f"there is: {', '.join(sorted(name for name, _ in found if name)[:12]) or 'none'}.",
                    remedy="Import one (docs/platforms/vmware.md), or correct the name.",
                )
            for each in wanted:  # of several with one name in different folders Packer would take any
                self._check_source(each)

        self._ask("look for the template to clone", do)

    def sweep(self, log: Log) -> None:
        """Machines and templates of builds that were never finished."""
        now = time.time()
        self._remove(lambda build_id, until: is_over(build_id, until, now), log)

    def prepare(self, run: Run, log: Log) -> Inputs:
        """Nothing is made here: Packer clones."""
        name = f"{run.name}.{run.until}"
        if len(name) > _LONGEST_NAME:
            raise InvalidConfig(
                f"'{name}' is longer than vSphere's {_LONGEST_NAME} characters.", remedy="Shorten the family's name."
            )
        place, vcenter = self._place, self.connections(self._place.connection)
        host = vcenter.host if (vcenter.port or 443) == 443 else f"{vcenter.host}:{vcenter.port}"
        return Inputs(
            variables={
                "vcenter": host,
                "vcenter_user": vcenter.login,
                "vcenter_password": vcenter.password,
                "datacenter": place.datacenter,
                "cluster": place.cluster,
                "host": place.host,
                "datastore": place.datastore,
                "folder": place.folder,
                "resource_pool": place.resource_pool,
                "network": place.network,
                "source": self.settings.source,
                "snapshot": self.settings.snapshot,
                "ssh_username": self.settings.ssh_username,
                "key_file": str(self._ssh.extra["key_file"]),
                "vm_name": name,
                "notes": _note(run.build_id, str(run.until)),
                "marks": {
                    view.OWNER_MARK: OWNER,
                    view.FAMILY_MARK: run.family,
                    view.VERSION_MARK: run.version,
                    BUILD_MARK: run.build_id,
                },
            },
            environment={"SSL_CERT_FILE": str(self._trusted(vcenter))},
            secrets=(vcenter.password,),
        )

    def finish(self, run: Run, made: str, log: Log) -> str:
        """The template as vCenter itself shows it gets its own name."""
        wanted, name = f"{run.name}.{run.until}", f"{run.family}-{run.version}-{run.build_id[-8:]}"

        def do(vcenter: Any) -> str:
            center = datacenter(vcenter, self._place.datacenter).ref
            found = {_name(each.seen): each for each in templates.ours(vcenter, center)}
            template = found.get(name) or found.get(wanted)  # the first one if this was begun before
            if template is None or template.marks.get(BUILD_MARK) != run.build_id:
                raise BuildFailed(
                    f"Packer says that it made {made!r}, and vCenter shows no template {wanted} of this build.",
                    remedy="See the template's configuration_parameters and convert_to_template.",
                )
            if _name(template.seen) != name:
                info = ended(vcenter, template.ref.Rename_Task(name), _DONE_WITHIN)
                if info.state == "error":
                    raise of_fault(f"rename {wanted}", info.error)
                if info.state != "success":
                    raise Unavailable(f"vCenter is still renaming {wanted}.", remedy="Build again.")
            again = {_name(each.seen): each for each in templates.ours(vcenter, center)}
            if name not in again:
                raise Unavailable(f"vCenter does not show the template {name} yet.", remedy="Build again.")
            return again[name].artefact.reference

        reference = self._ask(f"finish {run.build_id}", do)
        log(f"build: {name} is a template in {self._place.datacenter}")
        return reference

    def clean_up(self, run: Run, log: Log) -> None:
        """The machine or template of this build alone."""
        self._remove(lambda build_id, _: build_id == run.build_id, log)

    # Inside

    def _check_source(self, template: dict[str, Any]) -> None:
        """Whoever imported it has written down what was verified: vSphere keeps no digest of what it was given."""
        pinned, own = self.settings.source_sha256, view.options(template).get(SOURCE_MARK, "")
        if pinned and own != f"sha256:{pinned}":
            raise InvalidSpec(
                f"image.yaml: build.settings.source_sha256 is {pinned}, and the template '{self.settings.source}' says "
                f"that it was made of {own[:80] or 'nothing known'}.",
                remedy="Import what is pinned and write it down there (docs/platforms/vmware.md), or pin another.",
            )

    @property
    def _place(self) -> Any:
        from phoenix_fleet.platforms import vmware

        return vmware.Settings.model_validate(self.target.platform.settings)

    @property
    def _ssh(self) -> Connection:
        return self.connections(self.settings.connection)

    def _ask(self, what: str, do: Callable[[Any], Given]) -> Given:
        return session(self.connections(self._place.connection)).run(what, do)

    def _remove(self, is_due: Callable[[str, str], bool], log: Log) -> None:
        def do(vcenter: Any) -> None:
            center = datacenter(vcenter, self._place.datacenter).ref
            for ref, seen in _machines(vcenter, center):
                match = _TEMPORARY.fullmatch(_name(seen))
                if match and is_due(match["id"], match["until"]) and _is_marked(seen, match["id"], match["until"]):
                    log(f"build: removing {match[0]}, left behind by a build")
                    _destroy(vcenter, ref, seen)

        self._ask("sweep builds", do)

    def _trusted(self, vcenter: Connection) -> Any:
        """File of what Packer may believe: the authority, or the one certificate that is pinned."""
        if authority := str(vcenter.extra.get("ca_cert") or ""):
            return authority
        pin = str(vcenter.extra.get("thumbprint") or "").replace(":", "").lower()
        if not pin:
            return ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
        try:
            shown = ssl.get_server_certificate((vcenter.host, vcenter.port or 443), timeout=10)
        except OSError as error:
            raise Unavailable(f"{vcenter.host} shows no certificate: {error}") from error
        if hashlib.sha256(ssl.PEM_cert_to_DER_cert(shown)).hexdigest() != pin:
            raise InvalidConfig(
                f"{vcenter.host} shows another certificate than the one pinned in '{vcenter.id}'.",
                remedy="Find out who answers there before you pin another.",
            )
        file = self.folder / "vcenter.pem"
        file.write_text(shown)
        return file


def _note(build_id: str, until: str) -> str:
    return f"{BUILD_MARK}={build_id} {UNTIL_MARK}={until}"


def _machines(vcenter: Any, center: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    from pyVmomi import vim

    yield from listed(vcenter, center, {vim.VirtualMachine: _PATHS})


def _name(seen: dict[str, Any]) -> str:
    return unquote(str(seen.get("name", "")))


def _is_template(seen: dict[str, Any]) -> bool:
    return bool(seen.get("config.template"))


def _is_marked(seen: dict[str, Any], build_id: str, until: str) -> bool:
    """Whether it says of itself what its name says: in its notes, as it was cloned, or its configuration, later."""
    own = view.options(seen)
    configured = own.get(view.OWNER_MARK) == OWNER and own.get(BUILD_MARK) == build_id
    cloned = str(seen.get("config.annotation") or "").strip() == _note(build_id, until)
    return (configured or cloned) and not own.get(view.TOKEN_MARK)


def _destroy(vcenter: Any, ref: Any, seen: dict[str, Any]) -> None:
    """Power it off and remove it with its disks; gone already is as good."""
    with passing("ManagedObjectNotFound"):
        if seen.get("runtime.powerState") == "poweredOn":
            ended(vcenter, ref.PowerOffVM_Task(), _DONE_WITHIN)
        info = ended(vcenter, ref.Destroy_Task(), _DONE_WITHIN)
        if info.state == "error":
            raise of_fault(f"remove {seen['name']}", info.error)
