"""What must be true at the very moment of a call that changes something, by the catalog and by the world itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from phoenix_fleet.catalog.records import RolloutState, SlotState
from phoenix_fleet.domain.models import OWNER, InstanceState
from phoenix_fleet.domain.windows import Version
from phoenix_fleet.rollout.planning import shape_of

if TYPE_CHECKING:
    from tests.rollout.scene import Scene

VOLUMES = {"snapshot_volume": "snapshot", "detach_volume": "detach", "attach_volume": "attach"}
"""The platform's calls on data volumes that intents have a shorter word for."""
MUTATIONS = (
    *("launch", "terminate", "admit", "drain", "remove", "stop"),
    *("create_volume", "delete_snapshot", *VOLUMES),
)


def action_of(method: str) -> str:
    """The word that intents have for a call that changes something; empty for a read."""
    return VOLUMES.get(method, method) if method in MUTATIONS else ""


def check_before(scene: Scene, method: str, subject: str) -> None:
    """The call may be made: what it takes out can be done without, and in strict scenes it is meant."""
    if method == "terminate":
        _check_floor(scene, scene.platform.machines()[subject]["name"], f"terminate {subject}")
    elif method in ("drain", "remove"):
        _check_floor(scene, subject, f"{method} {subject}")
    if scene.fleet.volumes:
        check_data(scene, method, subject)
    if scene.strict:
        check_meant(scene, method, subject)


def check_data(scene: Scene, method: str, subject: str) -> None:
    """A volume leaves a machine that is down, after a snapshot of all that it wrote; who serves has its data."""
    volumes = scene.platform.volumes()
    machines = scene.platform.machines()
    if method == "detach_volume" and volumes[subject]["attached_to"]:
        volume = volumes[subject]
        down = machines[volume["attached_to"]]["state"] in (InstanceState.FAILED, InstanceState.GONE)
        assert down, f"detach {subject} from a machine that runs"
        kept = [each for each in volume["snapshots"] if each["holds"] == volume["written_by"] and each["clean"]]
        assert kept, f"detach {subject} without a snapshot of what is on it: {volume}"
    if method in ("terminate", "launch", "admit"):
        own = {each["attached_to"]: each for each in volumes.values()}
        if method == "terminate":
            assert subject not in own, f"terminate {subject}, which has {own[subject]['id']}"
        if method == "admit":
            machine = next(each for each in machines.values() if each["name"] == subject)
            assert machine["id"] in own, f"admit {subject} without its data"


def check_kept(scene: Scene) -> None:
    """No volume was lost or made in the place of another, and each is with the machine of its slot."""
    volumes = scene.platform.volumes()
    ours = [each for each in volumes.values() if each["owner"] == OWNER and each["fleet"] == scene.fleet.name]
    assert sorted(each["slot"] for each in ours) == sorted(scene.fleet.slots), "a volume too many, or one too few"
    for each in ours:
        holder = scene.platform.machines()[each["attached_to"]]
        assert holder["slot"] == each["slot"], f"{each['id']} of {each['slot']} is at {holder['name']}"
        if scene.data.get(each["slot"]):
            assert each["id"] == scene.data[each["slot"]], f"{each['slot']} has another volume than before"
    refused = [call for call in scene.platform.calls("attach_volume") if call.outcome in ("InUse", "NotOurs")]
    assert not refused, f"tried to attach what another machine has: {refused}"


def _check_floor(scene: Scene, name: str, what: str) -> None:
    """Floor, and never the last healthy one: by the truth, not by what reads show."""
    serving = scene.serving()
    if name in serving:
        left = len(serving) - 1
        floor = max(1, scene.fleet.size - shape_of(scene.fleet).budget.max_unavailable)
        assert left >= floor, f"{what}: only {left} would serve, and the floor is {floor}"


def check_room(scene: Scene) -> None:
    """Surge bound, and one living machine per token."""
    living = [each for each in scene.living().values() if each["fleet"] == scene.fleet.name]
    most = scene.fleet.size + shape_of(scene.fleet).budget.max_surge
    assert len(living) <= most, f"{len(living)} machines live, and {most} may: {[m['name'] for m in living]}"
    tokens = [machine["token"] for machine in living]
    assert len(tokens) == len(set(tokens)), f"two machines carry the same token: {tokens}"


def check_meant(scene: Scene, method: str, subject: str) -> None:
    """There is an intent, begun under the newest ticket of a slot that is under way in an open rollout."""
    if method not in MUTATIONS:
        return
    what = f"{method} {subject}"
    begun = [
        each
        for each in scene.catalog.intents.pending()
        if each.action == VOLUMES.get(method, method) and subject in (each.token, each.target, each.params.get("name"))
    ]
    assert begun, f"{what}: no intent was begun"
    intent = begun[-1]
    assert intent.rollout_id is not None
    rollout = scene.catalog.rollouts.get(intent.rollout_id)
    slot = next(each for each in scene.catalog.rollouts.slots(rollout.id) if each.slot == intent.slot)
    assert rollout.state is RolloutState.OPEN, f"{what}: the rollout is {rollout.state}"
    assert (intent.fence, SlotState.RUNNING) == (slot.token, slot.state), f"{what}: {intent} against {slot}"
    if method in ("drain", "remove", "terminate") and not slot.facts.get("failing"):
        _check_replaced(scene, what, intent.params)


def _check_replaced(scene: Scene, what: str, gone: Mapping[str, Any]) -> None:
    """What serves is taken out only once something newer serves in its slot, if there is room for both.

    Of several that serve in one slot, which nobody meant, one may also make room for a launch (decision 0041).
    """
    serving = scene.serving()
    if gone["name"] not in serving or not shape_of(scene.fleet).budget.max_surge:
        return
    slot, version = gone["slot"], Version.parse(gone["version"])
    beside = [m for m in scene.living().values() if m["slot"] == slot and m["name"] in serving]
    newer = [m for m in beside if Version.parse(m["version"]) > version and m["digest"] == m["artefact"]]
    makes_room = len(beside) > 1 and len(serving) > scene.fleet.size
    assert newer or makes_room, f"{what}: nothing newer serves in {slot}"
