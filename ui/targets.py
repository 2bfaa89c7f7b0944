"""How a target is tried from here: reached, its TLS as configured, and a login with its account.

The trials say who they are (application name), run nothing, and never give a password to a server that is not known to be
the one that was meant.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from appliance.parties import Endpoint
from appliance.settings import CredentialSettings, ResourceSettings, Settings, TargetTls
from appliance.tls.contexts import target_context
from kernel.doctor import Finding, State

SECONDS_MAX: Final = 5.0
"""For each step. A target in reach answers in milliseconds."""

DAYS_LEFT_MIN: Final = 14
"""A certificate with less left is called near its end: renewing takes people some days."""

_AT_ONCE: Final = 8
_SSL_REQUEST: Final = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"  # PostgreSQL's SSLRequest: length 8, code 80877103
_PASSWORD_BYTES_MAX: Final = 4096


def try_targets(settings: Settings, names: frozenset[str] | None = None) -> Iterator[Finding]:
    """What came of trying the resources (all, or those named), in the configuration's order."""
    wanted = [one for one in settings.resources if names is None or one.name in names]
    accounts = {one.name: one for one in settings.credentials}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for found in pool.map(lambda one: list(_try_resource(one, accounts)), wanted):
            yield from found


def expiry(certificate: x509.Certificate, what: str) -> tuple[State, str, str]:
    """State, sentence and advice of a certificate's end; `what` begins the sentence."""
    ends = certificate.not_valid_after_utc
    now = datetime.now(UTC)
    left = (ends - now).days
    day = ends.date().isoformat()
    if certificate.not_valid_before_utc > now:
        starts = certificate.not_valid_before_utc.date().isoformat()
        return State.BAD, f"{what} is not valid before {starts}.", "Check this machine's clock and the certificate."
    if ends < now:
        return State.BAD, f"{what} ended on {day}.", "Renew it."
    if left < DAYS_LEFT_MIN:
        return State.BAD, f"{what} ends on {day}, in {left} days.", "Renew it now."
    return State.GOOD, f"{what} is valid until {day}.", ""


def _try_resource(resource: ResourceSettings, accounts: dict[str, CredentialSettings]) -> Iterator[Finding]:
    reached: Endpoint | None = None
    for endpoint in resource.addresses:
        finding = _reach(resource, endpoint)
        if finding.state is State.GOOD:
            reached = reached or endpoint
        yield finding
    if reached is not None:
        yield _log_in(resource, reached, accounts)


def _reach(resource: ResourceSettings, endpoint: Endpoint) -> Finding:
    name = f"{resource.name} at {endpoint}"
    try:
        raw = socket.create_connection((endpoint.address, endpoint.port), SECONDS_MAX)
    except OSError as error:
        reason = error.strerror or str(error)
        return Finding(
            "targets",
            name,
            State.BAD,
            f"{endpoint} of {resource.name} does not take a connection from here: {reason}.",
            "Check address and port, that the target runs, and routes and firewalls between this machine and it.",
        )
    with closing(raw):
        raw.settimeout(SECONDS_MAX)
        if resource.protocol == "postgres":
            try:
                raw.sendall(_SSL_REQUEST)
                answer = raw.recv(1)
            except OSError as error:
                answer = b""
                reason = f" ({error.strerror or error})"
            else:
                reason = ""
            if answer not in (b"S", b"N"):
                return Finding(
                    "targets",
                    name,
                    State.BAD,
                    f"What listens at {endpoint} does not answer as a PostgreSQL server does{reason}.",
                    "Check the port, and whether something stands before the server.",
                )
            if resource.tls.target is TargetTls.DISABLE:
                offered = " It offers TLS, which is not used." if answer == b"S" else ""
                return Finding(
                    "targets", name, State.GOOD, f"PostgreSQL answers at {endpoint}, without TLS as set.{offered}"
                )
            if answer == b"N":
                return Finding(
                    "targets",
                    name,
                    State.BAD,
                    f"The server at {endpoint} offers no TLS, and tls.target is {resource.tls.target.value}.",
                    "Switch TLS on at the server; `disable` would send everything in clear.",
                )
        elif resource.tls.target is TargetTls.DISABLE or resource.protocol == "redis":
            return Finding("targets", name, State.GOOD, f"{endpoint} takes connections.")
        return _secure(resource, endpoint, name, raw)


def _secure(resource: ResourceSettings, endpoint: Endpoint, name: str, raw: socket.socket) -> Finding:
    server_name = resource.tls.server_names[0] if resource.tls.server_names else endpoint.address
    try:
        context = target_context(resource.tls, ())
        with context.wrap_socket(raw, server_hostname=server_name) as secured:
            shown, version = secured.getpeercert(True), secured.version()
    except ssl.SSLCertVerificationError as error:
        return Finding(
            "targets",
            name,
            State.BAD,
            f"The certificate shown at {endpoint} is not accepted ({resource.tls.target.value}): {error.verify_message}.",
            "Give the authority that signed it as tls.authorities and the name in it as tls.server_names.",
        )
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        return Finding(
            "targets",
            name,
            State.BAD,
            f"TLS with {endpoint} fails: {reason}.",
            "Check the server's TLS and tls.authorities.",
        )
    if shown is None:
        return Finding("targets", name, State.BAD, f"{endpoint} shows no certificate.", "Check the server's TLS.")
    state, sentence, advice = expiry(x509.load_der_x509_certificate(shown), "The certificate shown there")
    how = "as it is checked" if resource.tls.target in (TargetTls.VERIFY_CA, TargetTls.VERIFY_FULL) else "unchecked"
    return Finding("targets", name, state, f"{endpoint} answers over {version}, {how}. {sentence}", advice)


def _log_in(resource: ResourceSettings, endpoint: Endpoint, accounts: dict[str, CredentialSettings]) -> Finding:
    name = f"login at {resource.name}"
    if resource.credential is None:
        return Finding("targets", name, State.NOT_NEEDED, f"{resource.name} has no account; its clients log in nowhere.")
    account = accounts[resource.credential]
    if resource.protocol != "postgres":
        return Finding("targets", name, State.UNKNOWN, f"A login at {resource.protocol} is not tried.")
    password = None
    if account.password_file is not None:
        try:
            with Path(account.password_file).open("rb") as file:
                password = file.readline(_PASSWORD_BYTES_MAX).rstrip(b"\r\n").decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            return Finding(
                "targets",
                name,
                State.UNKNOWN,
                f"The password in {account.password_file} can't be read here: {reason}.",
                "Run this as root.",
            )
    return _log_in_at_postgres(resource, endpoint, account, password, name)


def _log_in_at_postgres(
    resource: ResourceSettings, endpoint: Endpoint, account: CredentialSettings, password: str | None, name: str
) -> Finding:
    # A fifth of a second to import, which only a real trial may cost.
    import psycopg
    from psycopg.conninfo import make_conninfo

    is_verified = resource.tls.target in (TargetTls.VERIFY_CA, TargetTls.VERIFY_FULL)
    described = make_conninfo(
        host=resource.tls.server_names[0] if resource.tls.server_names else endpoint.address,
        hostaddr=endpoint.address,
        port=endpoint.port,
        user=account.user,
        dbname="postgres",
        sslmode=resource.tls.target.value,
        # A password in clear goes to nobody but a server whose certificate was checked.
        require_auth="scram-sha-256,md5,none" + (",password" if is_verified else ""),
        gssencmode="disable",
        connect_timeout=int(SECONDS_MAX),
        passfile="/dev/null",
        application_name="sluicegate doctor",
        **({"password": password} if password is not None else {}),
        **({"sslrootcert": resource.tls.authorities} if resource.tls.authorities else {}),
    )
    try:
        psycopg.connect(described).close()
    except psycopg.Error as error:
        return _login_failure(str(error), account, name)
    return Finding("targets", name, State.GOOD, f"{account.user} can log in at {resource.name}.")


def _login_failure(said: str, account: CredentialSettings, name: str) -> Finding:
    reason = " ".join(said.split())
    # The server looks for the database after it has let the user in; which databases there are is not configured.
    if 'database "postgres" does not exist' in said:
        return Finding("targets", name, State.GOOD, f"{account.user} is let in; there is no database postgres to look at.")
    if "no pg_hba.conf entry" in said or "permission denied for database" in said:
        return Finding(
            "targets",
            name,
            State.UNKNOWN,
            f"{account.user} is not let into the database postgres, which says nothing about others: {reason}",
            "Watch `sluicegate status`: its catalogue lines tell of real logins.",
        )
    return Finding(
        "targets",
        name,
        State.BAD,
        f"{account.user} can't log in: {reason}",
        "Check the user and the password file of this credential, and the server's pg_hba.conf.",
    )
