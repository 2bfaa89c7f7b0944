"""How control connects to a target: with the account of its flows, on a connection that nobody else shares."""

from __future__ import annotations

import psycopg
from psycopg.conninfo import make_conninfo

from appliance.credentials.vault import Secret, Vault
from appliance.errors import UnavailableError
from appliance.settings import ResourceSettings

CONNECT_SECONDS = 5

Connection = psycopg.AsyncConnection[tuple[str]]


async def connect(resource: ResourceSettings, database: str, vault: Vault, name: str) -> Connection:
    """A connection that commits by itself, at the first address that answers. `name` is what the target shows it by. Raises
    psycopg.Error or UnavailableError."""
    user = vault.user_of(resource.name)
    password = vault.password_of(resource.name)
    tls = resource.tls
    failure: psycopg.Error | None = None
    for endpoint in resource.addresses:
        described = make_conninfo(
            host=tls.server_names[0] if tls.server_names else endpoint.address,
            hostaddr=endpoint.address,
            port=endpoint.port,
            user=user,
            dbname=database,
            sslmode=tls.target.value,
            # libpq's own default folder is no place of ours.
            **({"sslrootcert": tls.authorities} if tls.authorities else {}),
            **({"password": _as_text(password)} if password else {}),
            gssencmode="disable",
            client_encoding="UTF8",
            application_name=name,
            connect_timeout=CONNECT_SECONDS,
            passfile="/dev/null",
        )
        try:
            return await Connection.connect(described, autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            failure = error
    assert failure is not None
    raise failure


def _as_text(password: Secret) -> str:
    try:
        return password.reveal().decode()
    except UnicodeDecodeError:
        raise UnavailableError("the account's password is not UTF-8, which control's own connections need") from None
