"""Amazon's API, for the drivers that need it: a client from an Airflow connection, and its errors in our words.

The connection is one of the type ``aws``, read as the Amazon provider of Airflow reads it
(https://airflow.apache.org/docs/apache-airflow-providers-amazon/stable/connections/aws.html): one that works there
works here, and neither Airflow nor the provider is imported.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from phoenix_fleet.connections import Connection, Connections
from phoenix_fleet.domain.errors import (
    AuthenticationFailed,
    CapacityExhausted,
    IntentMismatch,
    InUse,
    InvalidConfig,
    InvalidSpec,
    NotFound,
    NotSupported,
    PhoenixError,
    Throttled,
    Unavailable,
)

CONNECT_TIMEOUT = 10
READ_TIMEOUT = 60
"""Seconds without an answer, after which Amazon counts as not answering."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LONGEST = 400
"""Characters of Amazon's own words in a message of ours."""


def _codes(names: str) -> frozenset[str]:
    return frozenset(names.split())


# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html and the list of common errors of
# https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/CommonErrors.html
_CODES: tuple[tuple[frozenset[str], type[PhoenixError], str], ...] = (
    (
        _codes(
            "RequestLimitExceeded Throttling ThrottlingException ThrottledException RequestThrottled "
            "RequestThrottledException TooManyRequestsException EC2ThrottledException SlowDown "
            "BandwidthLimitExceeded"
        ),
        Throttled,
        "Wait; if it goes on, see who else uses this account in this region.",
    ),
    (
        _codes(
            "InsufficientInstanceCapacity InsufficientCapacity InsufficientHostCapacity "
            "InsufficientAddressCapacity InsufficientReservedInstanceCapacity InsufficientCapacityOnHost "
            "InsufficientFreeAddressesInSubnet InsufficientVolumeCapacity InstanceLimitExceeded "
            "VcpuLimitExceeded VolumeLimitExceeded MaxIOPSLimitExceeded NetworkInterfaceLimitExceeded "
            "TooManyTargets TooManyRegistrationsForTargetId"
        ),
        CapacityExhausted,
        "Try later, name another subnet or instance type, or have the account's limit raised.",
    ),
    (
        _codes(
            "AuthFailure UnauthorizedOperation Blocked InvalidClientTokenId UnrecognizedClientException "
            "ExpiredToken ExpiredTokenException RequestExpired SignatureDoesNotMatch OptInRequired "
            "AccessDenied NotAuthorized AccessDeniedException MissingAuthenticationToken IncompleteSignature "
            "PendingVerification InvalidAccessKeyId UnauthorizedException"
        ),
        AuthenticationFailed,
        "Renew the keys of the connection, or give their holder the shipped policy.",
    ),
    (
        _codes(
            "Unavailable ServiceUnavailable ServiceUnavailableException InternalError InternalFailure "
            "RequestTimeout RequestTimeoutException InvalidAMIID.Unavailable IncorrectInstanceState "
            "IncorrectState InvalidIPAddress.InUse"
        ),
        Unavailable,
        "Try again.",
    ),
    (_codes("IdempotentParameterMismatch"), IntentMismatch, "Launch a new attempt; an intent never changes."),
    (_codes("InvalidSnapshot.InUse DependencyViolation ResourceInUse VolumeInUse"), InUse, "Free it first."),
)
_SILENT = frozenset({"SignatureDoesNotMatch", "IncompleteSignature"})
"""Errors whose words repeat what was signed."""


_MAKING = threading.Lock()


class Clients:
    """Clients of one connection, made when first asked for and kept for as long as the connection stays the same.

    Clients are safe to use from several threads, making them is not
    (https://docs.aws.amazon.com/boto3/latest/guide/clients.html).
    """

    def __init__(self, connections: Connections, conn_id: str) -> None:
        self._connections, self._conn_id = connections, conn_id
        self._made: dict[str, tuple[Connection, Any]] = {}

    def __call__(self, service: str) -> Any:
        """The client of that service (``ec2``, ``elbv2``)."""
        connection = self._connections(self._conn_id)
        with _MAKING:
            made = self._made.get(service)
            if made is None or made[0] != connection:
                made = self._made[service] = connection, _client(connection, service)
            return made[1]


def _client(connection: Connection, service: str) -> Any:
    session = _session(connection)
    _region(session, connection)
    return session.client(
        service, endpoint_url=endpoint(connection, service), config=_config(), verify=_verify(connection)
    )


def environment(connection: Connection) -> dict[str, str]:
    """The variables by which another program reaches Amazon as that connection does, with the keys of this moment.

    Nothing of this machine's own is used behind their back: no files, no metadata service. Keys of a role end with it.
    """
    session = _session(connection)
    found = session.get_credentials()
    if found is None:
        raise AuthenticationFailed(
            f"The connection '{connection.id}' has no keys, and neither has this machine.",
            remedy="Set its login and password.",
        )
    keys, verify = found.get_frozen_credentials(), _verify(connection)
    env = {
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        "AWS_SESSION_TOKEN": keys.token or "",
        "AWS_REGION": _region(session, connection),
        "AWS_CA_BUNDLE": verify if isinstance(verify, str) else "",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return {name: value for name, value in env.items() if value}


def _region(session: Any, connection: Connection) -> str:
    if not session.region_name:
        raise InvalidConfig(
            f"The connection '{connection.id}' names no region.", remedy="Set extra.region_name, eu-central-1 say."
        )
    return str(session.region_name)


def _config() -> Any:
    from botocore.config import Config

    # One attempt: a driver never waits. Whether to ask again is for those to say who know what it was about.
    return Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        user_agent_extra="phoenix-fleet",
    )


def _session(connection: Connection) -> Any:
    import boto3

    extra = connection.extra
    if (method := extra.get("assume_role_method") or "assume_role") != "assume_role":
        raise NotSupported(
            f"The connection '{connection.id}' has assume_role_method '{method}'.",
            remedy="Use assume_role, keys, or an empty connection on a machine with an instance profile.",
        )
    session = boto3.session.Session(
        botocore_session=_core(connection),
        aws_access_key_id=connection.login or extra.get("aws_access_key_id") or None,
        aws_secret_access_key=connection.password or extra.get("aws_secret_access_key") or None,
        aws_session_token=extra.get("aws_session_token") or None,
        region_name=extra.get("region_name") or None,
    )
    return _in_role(session, connection) if extra.get("role_arn") else session


def _core(connection: Connection) -> Any:
    from botocore.session import get_session

    core = get_session()
    if profile := connection.extra.get("profile_name"):
        core.set_config_variable("profile", profile)
    loader = _loader()
    del loader.search_paths[_loader_paths() :]  # every session adds the same folder once more
    core.register_component("data_loader", loader)
    return core


@cache
def _loader() -> Any:
    """What has read the descriptions of the services: that takes most of the time that a client takes, so but once."""
    from botocore.loaders import create_loader

    return create_loader()


@cache
def _loader_paths() -> int:
    return len(_loader().search_paths)


def _in_role(session: Any, connection: Connection) -> Any:
    """A session with the role's credentials, which renews them by itself before they expire."""
    import boto3
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

    where = endpoint(connection, "sts")

    def client_of(service: str, **keys: Any) -> Any:
        return session.client(service, endpoint_url=where, **{**keys, "config": _config()})

    given = connection.extra.get("assume_role_kwargs") or {}
    if not isinstance(given, Mapping):
        raise InvalidConfig(
            f"The connection '{connection.id}' has assume_role_kwargs that are no mapping.", remedy="Write an object."
        )
    own = session.get_credentials()
    if own is None:
        raise AuthenticationFailed(
            f"The connection '{connection.id}' names a role, and there are no keys to take it on with.",
            remedy="Set login and password of the connection.",
        )
    name = re.sub(r"[^\w+=,.@-]", "-", f"phoenix-fleet-{connection.id}", flags=re.ASCII)[:64]
    fetcher = AssumeRoleCredentialFetcher(
        client_of, own, str(connection.extra["role_arn"]), extra_args={"RoleSessionName": name, **given}
    )
    core = _core(connection)
    core._credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")
    return boto3.session.Session(botocore_session=core, region_name=session.region_name)


def endpoint(connection: Connection, service: str) -> str | None:
    """Where to reach the service, if not where Amazon has it; ``service_config`` says more than ``endpoint_url``."""
    configs = connection.extra.get("service_config")
    config = configs.get(service) if isinstance(configs, Mapping) else None
    found = str((config or {}).get("endpoint_url") or connection.extra.get("endpoint_url") or "")
    url = urlsplit(found)
    if found and (url.scheme not in ("http", "https") or not url.hostname):
        raise InvalidConfig(
            f"The connection '{connection.id}' has an endpoint_url that is no URL.", remedy="Write https://host:port."
        )
    if url.scheme == "http" and url.hostname not in _LOOPBACK:
        raise InvalidConfig(
            f"The connection '{connection.id}' reaches {url.hostname} without TLS: whoever is in between could name "
            "host keys of its own.",
            remedy="Use https.",
        )
    return found or None


def _verify(connection: Connection) -> Any:
    """True, or the path of a file with the authorities to believe."""
    found = connection.extra.get("verify", True)
    if found is True or (isinstance(found, str) and found.startswith("/")):
        return found
    raise InvalidConfig(
        f"The connection '{connection.id}' has a verify that is neither true nor a file's path.",
        remedy="Set extra.verify to the absolute path of your authority's certificate, or leave it out.",
    )


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn the SDK's errors into ours; ``what`` begins the message."""
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError  # no kin of the others

    try:
        yield
    except boto.ClientError as error:
        raise error_of(what, error) from error
    except (
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.TokenRetrievalError,
        boto.UnauthorizedSSOTokenError,
    ) as error:
        raise AuthenticationFailed(
            f"{what}: there are no usable credentials.", remedy="Set login and password of the connection."
        ) from error
    except (boto.NoRegionError, boto.ProfileNotFound, boto.InvalidRegionError, boto.ConfigParseError) as error:
        raise InvalidConfig(f"{what}: {error}", remedy="Correct the extra of the connection.") from error
    except boto.ParamValidationError as error:
        raise InvalidSpec(f"{what}: {str(error)[:_LONGEST]}") from error
    except (boto.BotoCoreError, ResponseParserError, OSError) as error:
        raise Unavailable(
            f"{what}: Amazon does not answer: {str(error)[:_LONGEST]}",
            remedy="See that the region's endpoint can be reached.",
        ) from error


def code_of(error: Any) -> str:
    """Amazon's code of an error, ``InvalidAMIID.NotFound`` say."""
    return str((getattr(error, "response", None) or {}).get("Error", {}).get("Code", ""))


def error_of(what: str, error: Any) -> PhoenixError:
    """Our error for one that Amazon reported."""
    code = code_of(error)
    words = "" if code in _SILENT else str(error.response.get("Error", {}).get("Message", "")).strip()[:_LONGEST]
    text = f"{what}: Amazon says {code}: {words}" if words else f"{what}: Amazon says {code}."
    for codes, kind, remedy in _CODES:
        if code in codes:
            return kind(text, remedy=remedy)
    if code.endswith((".NotFound", "NotFound", "NotFoundException")):
        return NotFound(text)
    status = int((error.response.get("ResponseMetadata") or {}).get("HTTPStatusCode") or 0)
    return Unavailable(text, remedy="Try again.") if status >= 500 else InvalidSpec(text)
