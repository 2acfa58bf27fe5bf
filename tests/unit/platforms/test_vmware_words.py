"""What vCenter says, in our words: states of machines, faults, host keys, digests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pyVmomi import vim, vmodl

from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    CapacityExhausted,
    InvalidSpec,
    NotFound,
    PhoenixError,
    Throttled,
    TransientError,
    Unavailable,
)
from phoenix_fleet.domain.models import InstanceState
from phoenix_fleet.platforms import _vmware_errors as errors
from phoenix_fleet.platforms import _vmware_view as view

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


class TestStates:
    @pytest.mark.parametrize(
        ("power", "connection", "launched", "terminating", "powered", "expected"),
        [
            ("poweredOn", "connected", 0, None, "", InstanceState.RUNNING),
            ("poweredOn", "disconnected", 0, None, "", InstanceState.RUNNING),
            ("poweredOn", "inaccessible", 0, None, "", InstanceState.FAILED),
            ("poweredOn", "orphaned", 0, None, "", InstanceState.FAILED),
            ("suspended", "connected", 0, None, "", InstanceState.FAILED),
            ("poweredOff", "connected", 10, None, "", InstanceState.STARTING),
            ("poweredOff", "connected", 61, None, "", InstanceState.FAILED),
            ("poweredOff", "connected", 10, None, "powered off by somebody", InstanceState.FAILED),
            ("poweredOn", "connected", 60, 1, "", InstanceState.STOPPING),
            ("poweredOff", "connected", 60, 4, "powered off", InstanceState.STOPPING),
            ("poweredOn", "connected", 60, 6, "", InstanceState.RUNNING),
        ],
    )
    def test_are_ours(
        self,
        power: str,
        connection: str,
        launched: int,
        terminating: int | None,
        powered: str,
        expected: InstanceState,
    ) -> None:
        def ago(minutes: int) -> str:
            return (NOW - timedelta(minutes=minutes)).isoformat()

        options = [SimpleNamespace(key="phoenix.launched", value=ago(launched))]
        if terminating is not None:
            options.append(SimpleNamespace(key="phoenix.terminating", value=ago(terminating)))
        seen = {
            "runtime.powerState": power,
            "runtime.connectionState": connection,
            "config.extraConfig": options,
        }

        assert view.state(seen, powered, NOW) is expected


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            (vim.fault.InvalidLogin(), AuthenticationFailed),
            (vim.fault.NotAuthenticated(), AuthenticationFailed),
            (vim.fault.NoPermission(privilegeId="VirtualMachine.Interact.PowerOn"), AuthenticationFailed),
            (vim.fault.NoDiskSpace(), CapacityExhausted),
            (vim.fault.InsufficientStorageSpace(), CapacityExhausted),
            (vim.fault.InsufficientResourcesFault(), CapacityExhausted),
            (vim.fault.InsufficientMemoryResourcesFault(), CapacityExhausted),
            (vim.fault.InsufficientFailoverResourcesFault(), CapacityExhausted),
            (vim.fault.NoCompatibleHost(), CapacityExhausted),
            (vmodl.fault.HostCommunication(), Unavailable),
            (vim.fault.TaskInProgress(), Unavailable),
            (vim.fault.ConcurrentAccess(), Unavailable),
            (vim.fault.ResourceInUse(), Unavailable),
            (vim.fault.InvalidHostState(), Unavailable),
            (vim.fault.Timedout(), Unavailable),
            (vmodl.fault.SystemError(reason="vpxd"), Unavailable),
            (vmodl.fault.RequestCanceled(), Unavailable),
            (vim.fault.LimitExceeded(property="sessions"), Throttled),
            (vmodl.fault.ManagedObjectNotFound(), NotFound),
            (vmodl.fault.InvalidArgument(invalidProperty="spec.location.pool"), InvalidSpec),
            (vim.fault.InvalidDatastorePath(), InvalidSpec),
            (vim.fault.InvalidName(name="a/b"), InvalidSpec),
            (vim.fault.InvalidVmConfig(property="guestId"), InvalidSpec),
            (vmodl.fault.NotSupported(), InvalidSpec),
        ],
        ids=lambda each: type(each).__name__ if isinstance(each, Exception) else "",
    )
    def test_are_told_by_their_kind(self, fault: Any, kind: type[PhoenixError]) -> None:
        found = errors.of_fault("launch web-01", fault)

        assert type(found) is kind
        assert str(found).startswith(f"launch web-01: {type(fault).__name__.rpartition('.')[2]}")

    def test_a_privilege_a_property_and_a_name_are_said(self) -> None:
        privilege = "VirtualMachine.Interact.PowerOn"
        assert privilege in str(errors.of_fault("x", vim.fault.NoPermission(privilegeId=privilege)))
        argument = vmodl.fault.InvalidArgument(invalidProperty="spec.location.pool")
        assert "spec.location.pool" in str(errors.of_fault("x", argument))
        assert "guestId" in str(errors.of_fault("x", vim.fault.InvalidVmConfig(property="guestId")))

    def test_a_kind_that_nobody_knows_is_worth_another_try(self) -> None:
        assert isinstance(errors.of_fault("x", vim.fault.VimFault()), TransientError)

    def test_only_what_was_named_passes(self) -> None:
        with errors.passing("TaskInProgress"):
            raise vim.fault.TaskInProgress()
        with pytest.raises(vim.fault.InvalidState), errors.passing("InvalidPowerState"):
            raise vim.fault.InvalidState()


class TestDigests:
    def template(self, **change: Any) -> dict[str, Any]:
        disk = {"capacityInKB": 4194304, "uuid": "6000C29a", "contentId": "1ae0b5a2", "key": 2000, **change}
        backing = SimpleNamespace(uuid=disk["uuid"], contentId=disk["contentId"])
        device = SimpleNamespace(key=disk["key"], capacityInKB=disk["capacityInKB"], backing=backing)
        card = SimpleNamespace(key=4000, backing=SimpleNamespace(deviceName="VM Network"))
        return {"config.instanceUuid": change.get("instance", "50"), "config.hardware.device": [device, card]}

    @pytest.mark.parametrize(
        "change", [{"contentId": "ffffffff"}, {"uuid": "7"}, {"capacityInKB": 1}, {"instance": "51"}]
    )
    def test_change_with_what_the_template_is(self, change: dict[str, Any]) -> None:
        digest = view.template_digest(self.template())

        assert digest == view.template_digest(self.template())
        assert digest != view.template_digest(self.template(**change))
