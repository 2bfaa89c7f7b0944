"""Every way a client or a target may ask for encryption and a login: what works, and what is told where it does not."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.database import OWNER, PORT
from lab.laboratory import AGENT, CONTROL_UID, Lab
from lab.machines import EXECUTOR, PLANNER, TARGET, Place

pytestmark = pytest.mark.real

IPV4, IPV6 = f"{TARGET.ipv4}:{PORT}", f"[{TARGET.ipv6}]:{PORT}"

# libpq of psycopg is newer than the machine's psql and knows require_auth and sslnegotiation.
_CONNECT = """
import json, sys
import psycopg
try:
    with psycopg.connect(**json.loads(sys.argv[1])) as connection:
        row = connection.execute("select current_user::text, pg_backend_pid()").fetchone()
        print(json.dumps([*row, connection.pgconn.ssl_in_use]))
except psycopg.OperationalError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(f"test-{secrets.token_hex(4)}") as one:
        one.admin("alter system set log_connections = on")
        one.admin("select pg_reload_conf()")
        yield one


def connect(lab: Lab, **options: Any) -> Any:
    """[account, whether the target's leg is encrypted, whether the client's is], or the client's error."""
    words = [sys.executable, "-c", _CONNECT, json.dumps(options)]
    done = lab.run_in(Place.EXECUTOR, words, "executor")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found if isinstance(found, str) else [found[0], is_encrypted_at_the_target(lab, found[1]), found[2]]


def is_encrypted_at_the_target(lab: Lab, process: int) -> bool:
    """What the target's own log says of the connection that this process of its serves."""
    deadline = time.monotonic() + 20
    while True:
        told = [entry["message"] for entry in lab.logged() if entry["pid"] == process]
        for message in told:
            if message.startswith("connection authorized: "):
                return "SSL enabled" in message
        assert time.monotonic() < deadline, told
        time.sleep(0.02)


def psql(lab: Lab, options: str) -> tuple[int, str]:
    done = lab.run_in(Place.EXECUTOR, ["psql", "--no-psqlrc", "-Atc", "select 'in'", options], "executor")
    return done.returncode, done.stdout + done.stderr


def resource(addresses: list[str], credential: str, **tls: Any) -> dict[str, Any]:
    return {"protocol": "postgres", "addresses": addresses, "credential": credential, "tls": tls}


def start(
    lab: Lab, resources: dict[str, Any], credentials: dict[str, Any] | None = None, placeholder: str | None = None
) -> None:
    phases = {"plan": {"sources": list(PLANNER)}, "execute": {"sources": list(EXECUTOR)}}
    agent: dict[str, Any] = {"owner": "shop@lab.example", "phases": phases}
    if placeholder is not None:
        agent["placeholder"] = placeholder
    sections: dict[str, Any] = {"resources": resources, "agents": {AGENT: agent}}
    if credentials is not None:
        sections["credentials"] = credentials
    # Each value written out: the configuration knows no anchors.
    lab.start_appliance(lab.configure(workers=1, **json.loads(json.dumps(sections))))


def readable(lab: Lab, name: str, text: str) -> str:
    """A file that the executor may read."""
    file = lab.folder / "homes" / name
    file.write_text(text)
    file.chmod(0o644)
    return str(file)


def secret(lab: Lab, name: str, text: str) -> str:
    """A file that the control process alone may read."""
    file: Path = lab.appliance_folder / name
    file.touch(mode=0o600)
    file.write_text(text)
    os.chown(file, CONTROL_UID, CONTROL_UID)
    return str(file)


@pytest.fixture(scope="module")
def offering(lab: Lab) -> Lab:
    """TLS offered to the client, the target verified in full."""
    authorities = str(lab.database.authorities)
    start(lab, {"shop": resource([IPV4, IPV6], "shop-owner", target="verify-full", authorities=authorities)})
    return lab


def test_each_sslmode_gets_what_it_asks_for(offering: Lab) -> None:
    ours = readable(offering, "ours.pem", offering.run_sluicegate("authority", "show").stdout)
    for mode, is_encrypted in (("disable", False), ("allow", False), ("prefer", True), ("require", True)):
        assert connect(offering, sslmode=mode) == [OWNER, True, is_encrypted], mode
        assert psql(offering, f"sslmode={mode}") == (0, "in\n"), mode
    for mode in ("verify-ca", "verify-full"):
        assert connect(offering, sslmode=mode, sslrootcert=ours) == [OWNER, True, True], mode
        assert psql(offering, f"sslmode={mode} sslrootcert={ours}") == (0, "in\n"), mode
        assert "certificate verify failed" in connect(offering, sslmode=mode, sslrootcert=str(offering.database.authorities))


def test_direct_tls_ipv6_and_keepalives_need_nothing(offering: Lab) -> None:
    ours = readable(offering, "ours.pem", offering.run_sluicegate("authority", "show").stdout)
    verified = {"sslmode": "verify-full", "sslrootcert": ours}
    assert connect(offering, sslnegotiation="direct", **verified) == [OWNER, True, True]
    assert connect(offering, host=TARGET.ipv6, **verified) == [OWNER, True, True]
    assert connect(offering, host=TARGET.ipv6, sslnegotiation="direct", **verified) == [OWNER, True, True]
    assert connect(offering, keepalives=1, keepalives_idle=1, keepalives_interval=1, tcp_user_timeout=5000) == [
        OWNER,
        True,
        True,
    ]
    assert connect(offering, host=f"{TARGET.ipv6},{TARGET.ipv4}", load_balance_hosts="random") == [OWNER, True, True]
    assert connect(offering, target_session_attrs="read-write") == [OWNER, True, True]
    assert connect(offering, min_protocol_version="3.0", max_protocol_version="latest") == [OWNER, True, True]
    assert connect(offering, gssencmode="prefer") == [OWNER, True, True]


def test_without_a_placeholder_any_password_will_do_and_none_is_asked_for(offering: Lab) -> None:
    assert connect(offering, user="anybody", password="anything") == [OWNER, True, True]
    assert connect(offering, require_auth="none") == [OWNER, True, True]
    assert "channel binding" in connect(offering, channel_binding="require", password="x")
    assert "authentication" in connect(offering, require_auth="scram-sha-256", password="x")


def test_the_target_is_logged_in_at_with_channel_binding_where_it_speaks_tls(offering: Lab) -> None:
    assert connect(offering) == [OWNER, True, True]
    offering.run_sluicegate("drain")
    assert "SCRAM-SHA-256-PLUS" in offering.run_sluicegate("export", "--all").stdout


def test_a_placeholder_serves_clients_that_insist_on_a_proof(lab: Lab) -> None:
    made = json.loads(lab.run_sluicegate("agents", "placeholder", "--json").stdout)
    password, verifier = made["password"], made["placeholder"]
    authorities = str(lab.database.authorities)
    shop = {"shop": resource([IPV4, IPV6], "shop-owner", target="verify-full", authorities=authorities)}
    start(lab, shop, placeholder=verifier)
    assert connect(lab, password=password) == [OWNER, True, True]
    assert connect(lab, password=password, channel_binding="require") == [OWNER, True, True]
    assert connect(lab, password=password, require_auth="scram-sha-256", sslmode="disable") == [OWNER, True, False]
    assert connect(lab, password=password, require_auth="scram-sha-256", channel_binding="disable") == [OWNER, True, True]
    assert psql(lab, f"channel_binding=require password={password}") == (0, "in\n")
    wrong = connect(lab, password="wrong")
    assert f'password authentication failed for user "{OWNER}"' in wrong
    assert "no password supplied" in connect(lab)


def test_the_target_is_verified_as_far_as_the_resource_says(lab: Lab) -> None:
    other = readable(lab, "other.pem", lab.run_sluicegate("authority", "show").stdout)
    right = str(lab.database.authorities)
    start(
        lab,
        {
            "plain": resource([IPV4], "shop-owner", target="disable"),
            "unverified": resource([IPV6], "shop-owner", target="require"),
        },
    )
    assert connect(lab) == [OWNER, False, True]
    assert connect(lab, host=TARGET.ipv6) == [OWNER, True, True]
    start(
        lab,
        {
            "right": resource([IPV4], "shop-owner", target="verify-ca", authorities=right),
            "wrong": resource([IPV6], "shop-owner", target="verify-ca", authorities=other),
        },
    )
    assert connect(lab) == [OWNER, True, True]
    assert "the target cannot be reached" in connect(lab, host=TARGET.ipv6)
    start(
        lab,
        {
            "wrong": resource([IPV4], "shop-owner", target="verify-full", authorities=other),
            "misnamed": resource(
                [IPV6], "shop-owner", target="verify-full", authorities=right, server_names=["elsewhere.lab"]
            ),
        },
    )
    assert "the target cannot be reached" in connect(lab)
    assert "the target cannot be reached" in connect(lab, host=TARGET.ipv6)
    # The client is told no more; who operates it reads why.
    lab.run_sluicegate("drain")
    told = lab.run_sluicegate("export", "--all").stdout
    assert "certificate is not accepted" in told


def test_every_login_a_target_asks_for_is_answered_but_a_password_in_clear(lab: Lab) -> None:
    lab.admin("set password_encryption = 'md5'; create role by_md5 superuser login password 'the secret'")
    lab.admin("create role by_password superuser login password 'the secret'; create role by_trust superuser login")
    rules = lab.folder / "target" / "data" / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text("host all by_md5 all md5\nhost all by_password all password\nhost all by_trust all trust\n" + before)
    lab.admin("select pg_reload_conf()")
    file = {"file": secret(lab, "password", "the secret\n")}
    credentials = {name: {"user": name, "password": file} for name in ("by_md5", "by_password", "by_trust")}
    start(
        lab,
        {"a": resource([IPV4], "by_md5", target="require"), "b": resource([IPV6], "by_password", target="require")},
        credentials,
    )
    assert connect(lab) == ["by_md5", True, True]
    assert connect(lab, host=TARGET.ipv6) == ["by_password", True, True]
    start(
        lab,
        {"a": resource([IPV4], "by_md5", target="disable"), "b": resource([IPV6], "by_password", target="disable")},
        credentials,
    )
    assert connect(lab) == ["by_md5", False, True]
    assert "a password in clear on a connection without TLS" in connect(lab, host=TARGET.ipv6)
    wrong = {"user": "by_md5", "password": {"file": secret(lab, "wrong", "not it\n")}}
    start(lab, {"a": resource([IPV4], "by_md5", target="require")}, {"by_md5": wrong})
    told = connect(lab)
    assert "the target refused the gateway's login" in told
    assert "not it" not in told


def test_with_the_targets_own_certificate_a_verifying_client_needs_nothing(lab: Lab) -> None:
    folder = lab.folder / "target"
    own = {
        "certificate": readable(lab, "server.pem", (folder / "server.pem").read_text()),
        "key": secret(lab, "server.key", (folder / "server.key").read_text()),
    }
    authorities = str(lab.database.authorities)
    start(
        lab,
        {
            "own": resource([IPV4], "shop-owner", client="require", target="verify-full", authorities=authorities, **own),
            "clear": resource([IPV6], "shop-owner", client="refuse", target="verify-full", authorities=authorities),
        },
    )
    verified = {"sslmode": "verify-full", "sslrootcert": authorities}
    assert connect(lab, **verified) == [OWNER, True, True]
    assert connect(lab, sslnegotiation="direct", **verified) == [OWNER, True, True]
    assert psql(lab, f"sslmode=verify-full sslrootcert={authorities}") == (0, "in\n")
    # Required of clients, and refused to them.
    assert "TLS" in connect(lab, sslmode="disable")
    assert connect(lab, sslmode="allow") == [OWNER, True, True]
    assert connect(lab, host=TARGET.ipv6) == [OWNER, True, False]
    assert "does not support SSL" in connect(lab, host=TARGET.ipv6, sslmode="require")
