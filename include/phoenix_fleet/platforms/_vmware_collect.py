"""What vCenter's property collector gives: whole listings, single objects, the ends of tasks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from phoenix_fleet.domain.errors import AuthenticationFailed, Unavailable
from phoenix_fleet.platforms._vmware_errors import is_a

PAGE = 500
"""Objects in one answer; vCenter may give fewer and then says that there are more."""
_LONGEST_WAIT = 30
"""Seconds that one call waits in vCenter for a change; less than the time-out of the connection."""

Seen = tuple[Any, dict[str, Any]]
"""A managed object and its properties; those that are not set are not there."""


def listed(content: Any, container: Any, paths: Mapping[Any, Sequence[str]]) -> list[Seen]:
    """Every object of those types below the container, with those properties: all pages, or an error."""
    view = content.viewManager.CreateContainerView(container, list(paths), True)
    try:
        from pyVmomi import vmodl

        collector = vmodl.query.PropertyCollector
        traverse = collector.TraversalSpec(name="view", path="view", skip=False, type=type(view))
        start = collector.ObjectSpec(obj=view, skip=True, selectSet=[traverse])
        return _retrieved(content, [start], paths)
    finally:
        view.DestroyView()


def looked_at(content: Any, found: Any, paths: Mapping[Any, Sequence[str]], then: str = "") -> list[Seen]:
    """One object with those properties, and the one that its property ``then`` names.

    :raises vmodl.fault.ManagedObjectNotFound: it is gone.
    """
    from pyVmomi import vmodl

    collector = vmodl.query.PropertyCollector
    along = [collector.TraversalSpec(name="then", path=then, skip=False, type=type(found))] if then else []
    return _retrieved(content, [collector.ObjectSpec(obj=found, skip=False, selectSet=along)], paths)


def _retrieved(content: Any, start: list[Any], paths: Mapping[Any, Sequence[str]]) -> list[Seen]:
    from pyVmomi import vmodl

    collector = vmodl.query.PropertyCollector
    wanted = [collector.PropertySpec(type=kind, pathSet=list(names), all=False) for kind, names in paths.items()]
    spec = collector.FilterSpec(objectSet=start, propSet=wanted)
    service = content.propertyCollector
    answer = service.RetrievePropertiesEx([spec], collector.RetrieveOptions(maxObjects=PAGE))
    found: list[Seen] = []
    while answer is not None:
        found += [_read(each) for each in answer.objects]
        if not answer.token:
            break
        answer = service.ContinueRetrievePropertiesEx(answer.token)
        if answer is None:
            raise Unavailable("vCenter broke a listing off in the middle.", remedy="List it again.")
    return found


def _read(told: Any) -> Seen:
    for missing in told.missingSet or ():
        if is_a(missing.fault, "NoPermission"):
            raise AuthenticationFailed(
                f"vCenter does not show {missing.path} of {told.obj._moId}: the login lacks System.Read.",
                remedy="Grant the role on the datacenter, and let it propagate.",
            )
    return told.obj, {entry.name: entry.val for entry in told.propSet or ()}


def ended(content: Any, task: Any, seconds: float) -> Any:
    """The ``TaskInfo`` of the task when it ends, or as it is after so many seconds. No polling: vCenter says when."""
    paths = ("info",)
    return waited(content, task, paths, lambda seen: seen["info"].state in ("success", "error"), seconds)["info"]


def waited(
    content: Any, found: Any, paths: Sequence[str], enough: Callable[[dict[str, Any]], bool], seconds: float
) -> dict[str, Any]:
    """The object's properties once they are ``enough``, or as they are after so many seconds."""
    end = time.monotonic() + seconds
    seen: dict[str, Any] = {}
    with _watching(content, found, paths) as changes:
        for seen in changes(lambda: end - time.monotonic()):
            if enough(seen):
                break
    return seen


@contextmanager
def _watching(content: Any, found: Any, paths: Sequence[str]) -> Iterator[Any]:
    from pyVmomi import vmodl

    query = vmodl.query.PropertyCollector
    # One of our own for each wait: the session's common one has one version that every thread would move on.
    collector = content.propertyCollector.CreatePropertyCollector()
    try:
        wanted = query.PropertySpec(type=type(found), pathSet=list(paths), all=False)
        spec = query.FilterSpec(objectSet=[query.ObjectSpec(obj=found, skip=False)], propSet=[wanted])
        collector.CreateFilter(spec, True)
        yield lambda left: _changes(content, collector, found, paths, left)
    finally:
        collector.DestroyPropertyCollector()


def _changes(
    content: Any, collector: Any, found: Any, paths: Sequence[str], left: Callable[[], float]
) -> Iterator[dict[str, Any]]:
    from pyVmomi import vmodl

    version = ""
    while True:
        wait = max(0, min(_LONGEST_WAIT, int(left() + 0.5)))
        options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=wait)
        update = collector.WaitForUpdatesEx(version, options)
        if update is not None:
            version = update.version
            # Read whole: the update of a part may come under the path of the part alone.
            yield looked_at(content, found, {type(found): paths})[0][1]
        if left() <= 0:
            return
