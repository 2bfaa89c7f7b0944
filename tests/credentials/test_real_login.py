"""The vault logs in to a real PostgreSQL, step by step, the way a worker relays it."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import os
import pwd
import shutil
import socket
import ssl
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.credentials.vault import Vault
from appliance.errors import PeerError
from appliance.ipc.messages import ChallengeSet
from appliance.parties import Endpoint
from appliance.settings import CredentialSettings, NetworkSettings, ResourceSettings, Settings
from appliance.tls.authority import open_authority
from tests.scratch_postgres import ScratchPostgres, start, stop

PASSWORDS = {"plain": "pencil", "accented": "cafe\u0301 \u2168", "old": "pencil", "clear": "pencil"}


@dataclass
class Target:
    """A server that wants passwords, and offers TLS."""

    server: ScratchPostgres
    folder: Path

    def settings(self, user: str, password: str | None = None) -> Settings:
        file = self.folder / f"password of {user}"
        file.write_text((PASSWORDS[user] if password is None else password) + "\n")
        return Settings(
            agents=(),
            resources=(ResourceSettings("shop", "postgres", (Endpoint("127.0.0.1", self.server.port),), "app"),),
            credentials=(CredentialSettings("app", user, str(file)),),
            networks=NetworkSettings(("eth0",)),
            policies=(),
        )


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    folder, own = Path(tempfile.mkdtemp(prefix="real-login-")), Path(tempfile.mkdtemp(prefix="real-login-own-"))
    try:
        leaf = open_authority(own / "authority", lambda: datetime.datetime.now(datetime.UTC)).leaf(("127.0.0.1",))
        server = start(folder)
        try:
            server.run(
                "set password_encryption = 'scram-sha-256';"
                + "".join(
                    f"create role {user} login password '{PASSWORDS[user]}';" for user in ("plain", "accented", "clear")
                )
                + "set password_encryption = 'md5'; create role old login password 'pencil';"
            )
            for name, content in (("server.crt", leaf.chain), ("server.key", leaf.key)):
                file = server.folder / name
                file.write_bytes(content)
                file.chmod(0o600)
                owner = pwd.getpwnam("postgres")
                if os.geteuid() == 0:
                    os.chown(file, owner.pw_uid, owner.pw_gid)
            (server.folder / "pg_hba.conf").write_text(
                "host all postgres 127.0.0.1/32 trust\n"
                "host all old 127.0.0.1/32 md5\n"
                "host all clear 127.0.0.1/32 password\n"
                "host all all 127.0.0.1/32 scram-sha-256\n"
            )
            server.run("alter system set ssl = on")
            server.run("select pg_reload_conf()")
            yield Target(server, own)
        finally:
            stop(server)
    finally:
        shutil.rmtree(folder)
        shutil.rmtree(own)


class Login:
    """A worker's part of a login: it relays challenges and never sees the password."""

    def __init__(self, target: Target, user: str, over_tls: bool) -> None:
        self.stream: socket.socket | ssl.SSLSocket = socket.create_connection(("127.0.0.1", target.server.port), 10)
        self.binding = b""
        self.over_tls = over_tls
        if over_tls:
            self.stream.sendall(struct.pack("!II", 8, 80877103))
            assert self.stream.recv(1) == b"S"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            wrapped = context.wrap_socket(self.stream)
            shown = wrapped.getpeercert(binary_form=True)
            assert shown is not None
            assert x509.load_der_x509_certificate(shown).public_bytes(Encoding.DER) == shown
            self.binding = hashlib.sha256(shown).digest()
            self.stream = wrapped
        words = b"user\0" + user.encode() + b"\0database\0postgres\0\0"
        self.stream.sendall(struct.pack("!II", len(words) + 8, 196608) + words)

    def receive(self) -> tuple[bytes, bytes]:
        head = self._exactly(5)
        return head[:1], self._exactly(struct.unpack("!I", head[1:])[0] - 4)

    def send(self, body: bytes) -> None:
        self.stream.sendall(b"p" + struct.pack("!I", len(body) + 4) + body)

    async def run(self, vault: Vault, mechanism: str) -> bytes:
        """The type of the message with which the login ended: R is AuthenticationOk, E a refusal."""

        async def answer(mechanism: str, step: str, challenge: bytes) -> bytes:
            binding = self.binding if mechanism.endswith("-PLUS") else b""
            return await vault.answer(1, ChallengeSet(1, "shop", "flow", mechanism, step, challenge, binding, self.over_tls))

        kind, body = self.receive()
        assert kind == b"R"
        (asked,) = struct.unpack_from("!I", body)
        if asked == 3:
            self.send(await answer("cleartext", "only", b"") + b"\0")
        elif asked == 5:
            self.send(await answer("md5", "only", body[4:8]) + b"\0")
        else:
            assert asked == 10
            assert mechanism.encode() in body[4:].split(b"\0")
            first = await answer(mechanism, "first", b"")
            self.send(mechanism.encode() + b"\0" + struct.pack("!I", len(first)) + first)
            kind, body = self.receive()
            self.send(await answer(mechanism, "final", body[4:]))
            kind, body = self.receive()
            if kind == b"E":
                return kind
            assert await answer(mechanism, "verify", body[4:]) == b""
        kind, body = self.receive()
        assert kind == b"E" or body == b"\0\0\0\0"
        return kind

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            more = self.stream.recv(count - len(found))
            assert more
            found += more
        return found


def log_in(target: Target, user: str, mechanism: str, over_tls: bool, password: str | None = None) -> bytes:
    vault = Vault(target.settings(user, password), lambda: 0.0)
    login = Login(target, user, over_tls)
    try:
        return asyncio.run(login.run(vault, mechanism))
    finally:
        login.stream.close()


@pytest.mark.parametrize("user", ["plain", "accented"])
@pytest.mark.parametrize(
    ("mechanism", "over_tls"), [("SCRAM-SHA-256", False), ("SCRAM-SHA-256", True), ("SCRAM-SHA-256-PLUS", True)]
)
def test_scram_is_answered(target: Target, user: str, mechanism: str, over_tls: bool) -> None:
    assert log_in(target, user, mechanism, over_tls) == b"R"


def test_md5_is_answered(target: Target) -> None:
    assert log_in(target, "old", "", False) == b"R"


def test_a_password_in_clear_is_answered_under_tls(target: Target) -> None:
    assert log_in(target, "clear", "", True) == b"R"


@pytest.mark.parametrize(("user", "mechanism"), [("plain", "SCRAM-SHA-256"), ("old", "")])
def test_a_wrong_password_is_refused_by_the_server(target: Target, user: str, mechanism: str) -> None:
    assert log_in(target, user, mechanism, False, "another") == b"E"


def test_a_binding_of_another_certificate_is_refused_by_the_server(target: Target) -> None:
    login = Login(target, "plain", True)
    login.binding = hashlib.sha256(b"the certificate of somebody in between").digest()
    try:
        ended = asyncio.run(login.run(Vault(target.settings("plain"), lambda: 0.0), "SCRAM-SHA-256-PLUS"))
    except PeerError:
        ended = b"E"
    finally:
        login.stream.close()
    assert ended == b"E"
