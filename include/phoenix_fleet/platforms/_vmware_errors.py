"""What vCenter and the way to it report, in the words of ``domain.errors``."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    CapacityExhausted,
    InvalidSpec,
    NotFound,
    PhoenixError,
    Throttled,
    Unavailable,
)

_STATUS = re.compile(r"(\d{3}) ")
_KINDS: tuple[tuple[str, type[PhoenixError], str], ...] = (
    # The first name that the fault's type or one of its ancestors has decides.
    ("InvalidLogin", AuthenticationFailed, "Correct login and password of the connection."),
    ("NotAuthenticated", AuthenticationFailed, "vCenter ends sessions at once: look at its session limits."),
    ("NoPermission", AuthenticationFailed, ""),
    ("PasswordExpired", AuthenticationFailed, "Set a new password, in vCenter and in the connection."),
    ("NoDiskSpace", CapacityExhausted, "Free space on the datastore, or name another in the fleet file."),
    ("InsufficientStorageSpace", CapacityExhausted, "Free space on the datastore, or name another in the fleet file."),
    ("InsufficientResourcesFault", CapacityExhausted, "Free memory or CPU in the cluster, or add a host."),
    ("NoCompatibleHost", CapacityExhausted, "See which hosts reach the datastore and the network and are in service."),
    ("RuleViolation", CapacityExhausted, "The DRS rules leave no host: add one, or set anti_affinity to false."),
    ("HostPowerOpFailed", CapacityExhausted, "See the host's events."),
    ("LimitExceeded", Throttled, "vCenter does as much as it may; try again later."),
    ("TooManyHosts", Throttled, "vCenter does as much as it may; try again later."),
    ("TaskInProgress", Unavailable, "Another task holds the machine; try again later."),
    ("ConcurrentAccess", Unavailable, "Somebody changed it at the same moment; try again."),
    ("ResourceInUse", Unavailable, "Something else holds it; try again later."),
    ("Timedout", Unavailable, "See vCenter's tasks."),
    ("HostCommunication", Unavailable, "vCenter does not reach the host; see its events."),
    ("InvalidHostState", Unavailable, "Take the host out of maintenance, or name another."),
    ("RequestCanceled", Unavailable, "Somebody cancelled the task; try again."),
    ("ManagedObjectNotFound", NotFound, "Look again."),
    ("InvalidDatastore", InvalidSpec, "Correct `datastore` in the fleet file."),
    ("InvalidFolder", InvalidSpec, "Correct `folder` in the fleet file."),
    ("InvalidName", InvalidSpec, ""),
    ("InvalidArgument", InvalidSpec, ""),
    ("InvalidRequest", InvalidSpec, ""),
    ("VmConfigFault", InvalidSpec, "Correct the template, or the fields of the fleet file that change it."),
    ("CustomizationFault", InvalidSpec, "Correct the template's guest tools."),
    ("NotSupported", InvalidSpec, ""),
    ("FileNotFound", InvalidSpec, "The template's files are gone: build the image again."),
)


@contextmanager
def translated(what: str, where: str) -> Iterator[None]:
    """Turn pyvmomi's errors, and those of what it stands on, into ours; ``what`` begins the message."""
    from pyVmomi import vmodl

    try:
        yield
    except vmodl.MethodFault as fault:
        raise of_fault(what, fault) from fault
    except (ssl.SSLError, http.client.HTTPException, OSError) as error:
        raise _of_connection(what, where, error) from error


def of_fault(what: str, fault: Any) -> PhoenixError:
    """Our error for one that vCenter reported, as an answer or at the end of a task."""
    names = [kind.__name__.rpartition(".")[2] for kind in type(fault).__mro__]
    text = f"{what}: {said(fault)}"
    if "NoPermission" in names:
        privilege = getattr(fault, "privilegeId", "") or "one that it does not name"
        return AuthenticationFailed(
            f"{text} The login lacks the privilege {privilege}.",
            remedy="Grant it; docs/platforms/vmware.md lists those of each role.",
        )
    for name, kind, remedy in _KINDS:
        if name in names:
            return kind(text, remedy=remedy)
    # An unknown fault is most often vCenter's own trouble (SystemError, HostConnectFault, …): the same may work later.
    return Unavailable(text, remedy="See vCenter's tasks and events.")


def said(fault: Any) -> str:
    """A fault's own words: its name, its message and the property or object that it complains about."""
    name = type(fault).__name__.rpartition(".")[2]
    message = getattr(fault, "msg", "") or getattr(fault, "localizedMessage", "") or ""
    about = [str(getattr(fault, key)) for key in ("invalidProperty", "property", "name") if getattr(fault, key, None)]
    return (
        " ".join(part for part in (f"{name}:", " ".join(about), str(message).strip()[:400]) if part).rstrip(":") + "."
    )


def is_a(fault: BaseException | None, *names: str) -> bool:
    """Whether the fault is one of those, by the names of its type and its ancestors."""
    return any(kind.__name__.rpartition(".")[2] in names for kind in type(fault).__mro__)


@contextmanager
def passing(*names: str) -> Iterator[None]:
    """Let faults of those names pass: what they say is what was wanted."""
    from pyVmomi import vmodl

    try:
        yield
    except vmodl.MethodFault as fault:
        if not is_a(fault, *names):
            raise


def retried(do: Callable[[], Any], again: Callable[[], None]) -> Any:
    """What ``do`` gives; once more after ``again`` if the session had ended."""
    from pyVmomi import vim

    try:
        return do()
    except vim.fault.NotAuthenticated:
        again()
        return do()


def _of_connection(what: str, where: str, error: BaseException) -> PhoenixError:
    if type(error).__name__ == "ThumbprintMismatchException" or isinstance(error, ssl.SSLCertVerificationError):
        return AuthenticationFailed(
            f"{what}: {where} shows a certificate that is not trusted: {error}",
            remedy="Set extra.ca_cert of the connection to its authority's file, or extra.thumbprint to its SHA-256.",
        )
    status = _STATUS.match(str(error)) if isinstance(error, http.client.HTTPException) else None
    if status and status[1] in ("429", "503"):
        # vCenter's proxy answers 503 when it has too many requests at once as well as when a service restarts.
        return Throttled(f"{what}: {where} answers {error}", remedy="Try again later.")
    if isinstance(error, socket.gaierror):
        return Unavailable(f"{what}: {where} has no address: {error}", remedy="Correct the connection's host.")
    return Unavailable(
        f"{what}: {where} does not answer: {type(error).__name__}: {error}",
        remedy="See that vCenter runs and can be reached from here.",
    )
