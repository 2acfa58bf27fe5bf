"""Every error the product raises, each of which says whether trying again can help.

::

    PhoenixError
    ├── PermanentError            trying again cannot help: a person or a new input must
    │   ├── InvalidConfig         a file, a field or an argument is wrong
    │   ├── InvalidSpec           the platform refuses the request as it stands
    │   ├── NotFound              no such thing, as far as the one asked can see (not proof of gone)
    │   ├── InUse                 it is still needed by something
    │   ├── NotSupported          this driver cannot do that
    │   ├── NotOurs               the thing exists and does not carry our ownership marks
    │   ├── AuthenticationFailed  credentials refused, or an identity that does not match
    │   ├── IllegalTransition     an image may not move from that rung to this one
    │   ├── IntentMismatch        the same token came with other parameters
    │   ├── Refused               a rule of ours forbids it now; nothing was touched
    │   │   ├── Halted            the rollout is halted until a named person resumes it
    │   │   └── Fenced            a newer holder took over; the caller must do nothing more
    │   ├── StepFailed            a step of a replacement failed for good
    │   └── BuildFailed           Packer, or what it ran, failed
    └── TransientError            the same call may work later
        ├── Unavailable           the other side does not answer, or says "not now"
        │   └── Blind             no complete view of the fleet, so nothing may follow from it
        ├── Throttled             the other side asks to slow down: never a sign of bad health
        ├── CapacityExhausted     the platform has no room for another instance
        ├── Busy                  another holder is at it; wait for one's turn
        └── TimedOut              it took longer than it may

Messages say what, where and the remedy. Each driver translates its vendor's errors at its own edge.
"""

from __future__ import annotations


class PhoenixError(Exception):
    """Whatever goes wrong in the product; ``remedy`` says what a person can do about it."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} Remedy: {self.remedy}" if self.remedy else message


class PermanentError(PhoenixError):
    """Trying again cannot help."""


class InvalidConfig(PermanentError):
    """A file, a field or an argument is wrong."""


class InvalidSpec(PermanentError):
    """The platform refuses the request as it stands."""


class NotFound(PermanentError):
    """No such thing, as far as the one asked can see; not proof that it is gone."""


class InUse(PermanentError):
    """It is still needed by something."""


class NotSupported(PermanentError):
    """The driver asked cannot do that."""


class NotOurs(PermanentError):
    """The thing exists and does not carry our ownership marks, so it is never touched."""


class AuthenticationFailed(PermanentError):
    """Credentials were refused, or an identity does not match what was expected."""


class IllegalTransition(PermanentError):
    """An image may not move from that rung to this one."""


class IntentMismatch(PermanentError):
    """The same token came with other parameters than those frozen with it."""


class Refused(PermanentError):
    """A rule of ours forbids it now; nothing was touched."""


class Halted(Refused):
    """The rollout is halted or paused until a named person resumes it or rolls it back."""


class Fenced(Refused):
    """A newer holder took over, so the caller must do nothing more."""


class StepFailed(PermanentError):
    """A step of a replacement failed for good."""


class BuildFailed(PermanentError):
    """Packer, or what it ran, failed."""


class TransientError(PhoenixError):
    """The same call may work later."""


class Unavailable(TransientError):
    """The other side does not answer, or answers "not now"."""


class Blind(Unavailable):
    """There is no complete view of the fleet: a read failed, or what it gave cannot be true."""


class Throttled(TransientError):
    """The other side asks to slow down; never a sign of bad health."""


class CapacityExhausted(TransientError):
    """The platform has no room for another instance."""


class Busy(TransientError):
    """Another holder is at it; wait for one's turn."""


class TimedOut(TransientError):
    """It took longer than it may."""
