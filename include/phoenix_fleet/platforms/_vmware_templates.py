"""Templates of ours in one vCenter: found by what they are, their rung shown, removed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from phoenix_fleet.domain.errors import InvalidSpec, NotFound, NotOurs
from phoenix_fleet.domain.ladder import Rung
from phoenix_fleet.domain.models import Artefact
from phoenix_fleet.platforms import _vmware_view as view
from phoenix_fleet.platforms._vmware_collect import Seen, ended, listed, looked_at
from phoenix_fleet.platforms._vmware_errors import of_fault, passing

_REFERENCE = re.compile(r"(?P<name>[^@\s]{1,240})@(?P<digest>sha256:[0-9a-f]{64})")
_PATHS = ("name", "config.template", "config.instanceUuid", "config.extraConfig", "config.hardware.device", "snapshot")
_REMOVED_WITHIN = 60


@dataclass(frozen=True)
class Template:
    """One template with its properties."""

    ref: Any
    seen: dict[str, Any]
    status: str

    @property
    def marks(self) -> dict[str, str]:
        """What its build wrote on it."""
        return view.options(self.seen)

    @property
    def artefact(self) -> Artefact:
        """What an image says of it: ``<name>@sha256:…``."""
        digest = view.template_digest(self.seen)
        return Artefact("vmware", f"{quote(unquote(str(self.seen['name'])), safe='')}@{digest}", digest)


def parse(reference: str) -> tuple[str, str]:
    """Name and digest.

    :raises InvalidSpec: it is no reference of ours.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise InvalidSpec(f"'{reference[:200]}' names no template.", remedy="Write <name>@sha256:<64 hex digits>.")
    return unquote(match["name"]), match["digest"]


def ours(content: Any, center: Any) -> list[Template]:
    """Every template of ours in the datacenter."""
    return [template for template in _read(content, _all(content, center)) if view.is_image(template.seen)]


def get(content: Any, center: Any, artefact: Artefact) -> Template:
    """The template with that name and exactly that digest.

    :raises NotFound: there is none.
    :raises NotOurs: it lacks our marks.
    """
    name, digest = parse(artefact.reference)
    named = [each for each in _all(content, center) if unquote(str(each[1].get("name"))) == name]
    for template in _read(content, named):
        if view.template_digest(template.seen) == digest:
            if not view.is_image(template.seen):
                raise NotOurs(f"{artefact.reference} does not carry our marks.", remedy="Ask whose template it is.")
            return template
    other = " with that digest: the one of that name has been changed or made anew" if named else ""
    raise NotFound(f"vCenter has no template '{name}'{other}.", remedy="Look again, or build the image again.")


def show(content: Any, template: Template, status: str) -> None:
    """Write the rung into the custom attribute, which is made where it is missing."""
    from pyVmomi import vim

    fields = _fields(content)
    if view.custom_values(template.seen, fields).get(view.STATUS_FIELD) == status:
        return
    if not any(field.name == view.STATUS_FIELD for field in fields):
        with passing("DuplicateName"):
            content.customFieldsManager.AddCustomFieldDef(view.STATUS_FIELD, vim.VirtualMachine)
    template.ref.SetCustomValue(view.STATUS_FIELD, status)


def remove(content: Any, template: Template) -> None:
    """Remove it with its disks; gone already is as good."""
    with passing("ManagedObjectNotFound"):
        info = ended(content, template.ref.Destroy_Task(), _REMOVED_WITHIN)
        if info.state == "error":
            raise of_fault(f"delete {template.seen['name']}", info.error)


def _all(content: Any, center: Any) -> list[Seen]:
    from pyVmomi import vim

    found = listed(content, center, {vim.VirtualMachine: ("name", "config.template")})
    return [(ref, seen) for ref, seen in found if seen.get("config.template")]


def _read(content: Any, found: Sequence[Seen]) -> list[Template]:
    from pyVmomi import vmodl

    fields = _fields(content)
    read = []
    for ref, _ in found:
        try:
            ((_, seen),) = looked_at(content, ref, {type(ref): (*_PATHS, "customValue")})
        except vmodl.fault.ManagedObjectNotFound:  # deleted since it was listed
            continue
        read.append(Template(ref, seen, _status(view.custom_values(seen, fields).get(view.STATUS_FIELD, ""))))
    return read


def _status(said: str) -> str:
    return said if said in list(Rung) else str(Rung.CANDIDATE)


def _fields(content: Any) -> list[Any]:
    return list(content.customFieldsManager.field or ())
