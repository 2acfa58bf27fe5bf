"""What a pod asks for, in the engine's words: environment, files, and what the stand-in cannot do."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.kubeapi import Object
from phoenix_fleet.domain.errors import NotFound

Fetch = Callable[[str, str], Object]
"""The object of that kind (``secrets``, ``configmaps``) and name in the pod's namespace; raises NotFound."""
_VOLUMES = {"name", "emptyDir", "secret", "configMap"}
_REFERENCE = re.compile(r"\$\(([-._A-Za-z][-._A-Za-z0-9]*)\)|\$\$")


class Unusable(Exception):
    """The pod cannot be run as it is written, with what is wrong."""


def check(pod: Object) -> None:
    """Return if the stand-in can run it as a kubelet would.

    :raises Unusable: it needs something that is left out here.
    """
    spec = pod["spec"]
    wanted = [each for each in ("hostNetwork", "hostPID", "hostIPC") if spec.get(each)]
    for volume in spec.get("volumes", []):
        wanted += [f"a volume of kind {kind}" for kind in volume if kind not in _VOLUMES]
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        if container.get("securityContext", {}).get("privileged"):
            wanted.append("privileged")
    if wanted:
        raise Unusable(f"the lab's kubelet does not know {', '.join(wanted)}")


def key_of(pod: Object) -> str:
    """How Kubernetes names it in messages: ``web-0_default(<uid>)``."""
    meta = pod["metadata"]
    return f"{meta['name']}_{meta['namespace']}({meta['uid']})"


def hostname(pod: Object) -> str:
    """The name that it has for itself."""
    return str(pod["spec"].get("hostname") or pod["metadata"]["name"])[:63].rstrip("-.")


def environment(pod: Object, container: Object, given: Mapping[str, str], fetch: Fetch) -> dict[str, str]:
    """A container's variables: those of the kubelet, then those of its spec, with ``$(NAME)`` put in.

    :raises Unusable: something that it refers to is not there.
    """
    found = dict(given)
    for source in container.get("envFrom", []):
        for kind, resource in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
            if kind in source:
                data = _data(fetch, resource, source[kind]["name"], optional=source[kind].get("optional", False))
                found |= {source.get("prefix", "") + key: value.decode() for key, value in data.items()}
    for entry in container.get("env", []):
        if "valueFrom" in entry:
            value = _from(entry["valueFrom"], pod, fetch)
            if value is not None:
                found[entry["name"]] = value
        else:
            found[entry["name"]] = expanded(entry.get("value", ""), found)
    return found


def expanded(text: str, known: Mapping[str, str]) -> str:
    """``$(NAME)`` is what it stands for, if it is known; ``$$`` is one dollar."""
    return _REFERENCE.sub(lambda match: known.get(match[1], match[0]) if match[1] else "$", text)


def lay_volumes(pod: Object, folder: Path, fetch: Fetch) -> dict[str, Path]:
    """The pod's volumes as folders below that one, by name. What is there already stays as it is.

    :raises Unusable: a secret or config map is not there.
    """
    made = {}
    for volume in pod["spec"].get("volumes", []):
        place = made[volume["name"]] = folder / volume["name"]
        if place.exists():
            continue
        files: dict[str, bytes] = {}
        for kind, resource, named in (("secret", "secrets", "secretName"), ("configMap", "configmaps", "name")):
            if kind in volume:
                wanted = volume[kind]
                data = _data(fetch, resource, wanted[named], optional=wanted.get("optional", False))
                items = wanted.get("items") or [{"key": key, "path": key} for key in data]
                files = {each["path"]: data[each["key"]] for each in items if each["key"] in data}
        _fill(place, files)
    return made


def mounts(container: Object, volumes: Mapping[str, Path]) -> list[str]:
    """What the engine binds into it: ``from:to:mode``.

    :raises Unusable: a path leads out of its volume.
    """
    found = []
    for mount in container.get("volumeMounts", []):
        source = volumes[mount["name"]]
        if below := mount.get("subPath"):
            if not (source / below).resolve().is_relative_to(source.resolve()):
                raise Unusable(f"subPath {below} leads out of the volume {mount['name']}")
            source = source / below
        found.append(f"{source}:{mount['mountPath']}:{'ro' if mount.get('readOnly') else 'rw'}")
    return found


def port_of(container: Object, wanted: int | str) -> int:
    """The number of a port that may be named. :raises Unusable: no port has that name."""
    if isinstance(wanted, int):
        return wanted
    for port in container.get("ports", []):
        if port.get("name") == wanted:
            return int(port["containerPort"])
    raise Unusable(f"container {container['name']} has no port named {wanted}")


def _fill(place: Path, files: Mapping[str, bytes]) -> None:
    """The folder with these files, whole or not at all."""
    fresh = place.with_name(f"{place.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for path, content in files.items():
        file = fresh / path
        if not file.resolve().is_relative_to(fresh.resolve()):
            raise Unusable(f"{path} leads out of the volume {place.name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    fresh.chmod(0o777 if not files else 0o755)
    fresh.rename(place)


def _data(fetch: Fetch, resource: str, name: str, *, optional: bool) -> dict[str, bytes]:
    try:
        found = fetch(resource, name)
    except NotFound:
        if optional:
            return {}
        raise Unusable(f"{resource.removesuffix('s')} {name!r} not found") from None
    plain = {key: value.encode() for key, value in (found.get("data") or {}).items()}
    if resource == "secrets":
        return {key: base64.b64decode(value) for key, value in plain.items()}
    return plain | {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}


def _from(source: Object, pod: Object, fetch: Fetch) -> str | None:
    for kind, resource in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
        if kind in source:
            wanted, optional = source[kind], source[kind].get("optional", False)
            data = _data(fetch, resource, wanted["name"], optional=optional)
            if wanted["key"] in data:
                return data[wanted["key"]].decode()
            if optional:
                return None
            raise Unusable(f"couldn't find key {wanted['key']} in {resource.removesuffix('s')} {wanted['name']}")
    if "fieldRef" in source:
        return field(pod, source["fieldRef"]["fieldPath"])
    raise Unusable(f"the lab's kubelet does not know valueFrom {', '.join(source)}")


def field(pod: Object, path: str) -> str:
    """A field of the pod as text: ``metadata.name``, ``metadata.labels['app']``, ``status.podIP``."""
    match = re.fullmatch(r"(.*)\['(.*)'\]", path)
    steps = [*(match[1] if match else path).split("."), *([match[2]] if match else [])]
    found: Any = pod
    for step in steps:
        found = (found or {}).get(step)
    return "" if found is None else str(found)
