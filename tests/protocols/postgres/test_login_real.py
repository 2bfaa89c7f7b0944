"""A login between a real client (libpq under psycopg) and a real PostgreSQL, over sockets, without TLS."""

from __future__ import annotations

import base64
import selectors
import socket
import threading

import psycopg
import pytest

from appliance.credentials.scram import Derivation, ScramClient, salted_password, verifier
from appliance.decisions import Forward
from appliance.events import NeedData
from appliance.parties import Side
from appliance.protocols.inspector import Act, Ask, ChallengeQuestion, Close, OpenTarget, Question, Send
from appliance.protocols.postgres import messages
from appliance.protocols.postgres.login import Login
from appliance.protocols.postgres.scram import Verifier
from appliance.settings import ClientTls, TargetTls
from tests.scratch_postgres import ScratchPostgres

PLACEHOLDER = verifier(b"anything", Derivation(b"0123456789abcdef", 4096))


class Gateway:
    """One caught connection: a login, and behind it the bytes as they are."""

    def __init__(self, target: tuple[str, int], user: str, password: bytes, placeholder: str | None) -> None:
        self._target_address = target
        self._user = user
        self._password = password
        self._scram = ScramClient("0123456789", None)
        self._login = Login(
            client_tls=ClientTls.REFUSE,
            target_tls=TargetTls.DISABLE,
            placeholder=placeholder,
            random=lambda size: b"\1" * size,
            own_key=b"\0\0\0\1ours",
        )
        self._sockets: dict[Side, socket.socket] = {}
        self._is_closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(20)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        with self._listener:
            self._sockets[Side.CLIENT], _ = self._listener.accept()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._sockets[Side.CLIENT], selectors.EVENT_READ, Side.CLIENT)
                while not self._is_closed:
                    if Side.TARGET in self._sockets and len(selector.get_map()) == 1:
                        selector.register(self._sockets[Side.TARGET], selectors.EVENT_READ, Side.TARGET)
                    for key, _ in selector.select(20):
                        self._take(key.data)
        finally:
            for each in self._sockets.values():
                each.close()

    def _take(self, side: Side) -> None:
        data = self._sockets[side].recv(65536)
        if self._login.is_done:
            self._is_closed = not data
            if data:
                self._sockets[side.other].sendall(data)
            return
        if data:
            self._login.receive(side, data)
        else:
            self._login.end(side)
        is_quiet = False
        while not is_quiet and not self._is_closed:
            is_quiet = True
            for each in Side:
                while not self._is_closed and not isinstance(event := self._login.next_event(each), NeedData):
                    is_quiet = False
                    self._perform(self._login.carry_out(event, Forward(None)))
        if self._login.is_done:
            self._sockets[Side.CLIENT].sendall(messages.ReadyForQuery("I").build())

    def _perform(self, acts: list[Act]) -> None:
        for act in acts:
            match act:
                case Send(side, _, data):
                    self._sockets[side].sendall(data)
                case OpenTarget():
                    self._sockets[Side.TARGET] = socket.create_connection(self._target_address, 20)
                    self._perform(self._login.target_opened())
                case Ask(question):
                    self._perform(self._login.answer(question, self._answer(question)))
                case Close():
                    self._is_closed = True

    def _answer(self, question: Question) -> object:
        match question:
            case ChallengeQuestion(step="first"):
                return self._scram.first()
            case ChallengeQuestion(step="final", challenge=challenge):
                return self._scram.final(salted_password(self._password, self._scram.derivation(challenge)))
            case ChallengeQuestion(step="verify", challenge=challenge):
                self._scram.verify(challenge)
                return b""
            case _:
                return self._user


@pytest.fixture(scope="module")
def account(scratch_postgres: ScratchPostgres) -> str:
    """A role that has to prove its password over TCP."""
    scratch_postgres.run("create role by_scram login password 'real secret'")
    rules = scratch_postgres.folder / "pg_hba.conf"
    rules.write_text("host all by_scram 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    scratch_postgres.run("select pg_reload_conf()")
    return "by_scram"


def _gateway(server: ScratchPostgres, account: str, password: bytes, placeholder: str | None = None) -> Gateway:
    return Gateway((server.host, server.port), account, password, placeholder)


@pytest.mark.parametrize("placeholder", [None, PLACEHOLDER])
def test_a_real_client_is_logged_in_at_a_real_server_by_our_account(
    scratch_postgres: ScratchPostgres, account: str, placeholder: str | None
) -> None:
    gateway = _gateway(scratch_postgres, account, b"real secret", placeholder)
    with psycopg.connect(
        f"host=127.0.0.1 port={gateway.port} user=agent dbname=postgres password=anything "
        "options='-c statement_timeout=7s -c search_path=pg_catalog' application_name=test",
        require_auth="scram-sha-256" if placeholder else "none",
    ) as connection:
        row = connection.execute(
            "select current_user::text, current_setting('statement_timeout'), current_setting('search_path'),"
            " current_setting('client_encoding'), current_setting('application_name')"
        ).fetchone()
        assert row == (account, "7s", '"pg_catalog"', "UTF8", "test")
        assert connection.execute("select pg_backend_pid()").fetchone() == (connection.info.backend_pid,)
    gateway.join()


@pytest.mark.parametrize(
    ("words", "password", "placeholder", "told"),
    [
        ("password=wrong", b"real secret", PLACEHOLDER, "password authentication failed"),
        ("", b"wrong secret", None, "the target refused the gateway's login"),
        ("dbname=nowhere", b"real secret", None, 'database "nowhere" does not exist'),
        ("replication=true", b"real secret", None, "replication is not available"),
        ("options='-c role=postgres'", b"real secret", None, 'parameter "role" cannot be set'),
        ("sslmode=require", b"real secret", None, "SSL"),
    ],
)
def test_a_real_client_understands_why_it_is_not_let_in(
    scratch_postgres: ScratchPostgres, account: str, words: str, password: bytes, placeholder: str | None, told: str
) -> None:
    gateway = _gateway(scratch_postgres, account, password, placeholder)
    with pytest.raises(psycopg.OperationalError, match=told):
        psycopg.connect(f"host=127.0.0.1 port={gateway.port} user=agent dbname=postgres sslmode=disable {words}")
    gateway.join()


def test_the_negotiation_is_written_as_a_real_server_writes_it(scratch_postgres: ScratchPostgres) -> None:
    packet = messages.StartupMessage(3, 2, (("user", "postgres"), ("database", "postgres"), ("_pq_.x", "1"))).build()
    with socket.create_connection((scratch_postgres.host, scratch_postgres.port), 20) as connection:
        connection.sendall(packet)
        expected = messages.NegotiateProtocolVersion(0x30000, ("_pq_.x",)).build()
        assert connection.recv(len(expected), socket.MSG_WAITALL) == expected


def test_a_verifier_of_a_real_server_is_read(scratch_postgres: ScratchPostgres, account: str) -> None:
    stored = scratch_postgres.run(f"select rolpassword from pg_authid where rolname = '{account}'")[0][0]
    assert isinstance(stored, str)
    assert len(base64.b64decode(Verifier.read(stored).salt)) == 16
