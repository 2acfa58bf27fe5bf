"""One retry policy for every task: permanent errors fail at once, transient ones are tried again."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

RETRY_DELAY = timedelta(seconds=15)
POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(exception="phoenix_fleet.domain.errors.PermanentError", action=RetryAction.FAIL),
        RetryRule(
            exception="phoenix_fleet.domain.errors.TransientError",
            action=RetryAction.RETRY,
            retry_delay=RETRY_DELAY,
        ),
    ]
)
RETRIES = 2
"""A task whose process was killed has no exception to look at: it is tried again, and every task is re-entrant."""
REPLACE_RETRIES = 20
"""A replacement takes minutes where other tasks take seconds, so whatever befalls the machine that Airflow runs on
befalls replacements, and each death and each reset by a restarted scheduler counts as a try. What cannot be mended by
trying again fails at the first try all the same."""
