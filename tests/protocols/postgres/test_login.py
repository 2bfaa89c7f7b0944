"""Logins as conversations: what each side sends, what it is answered, what is asked and what is done.

Each conversation is run whole and byte by byte, and must go the same way.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.decisions import Forward, Hold, HoldTerms, Refuse, RuleReference, Verdict
from appliance.effects import Action, Kind, effect
from appliance.errors import PeerError
from appliance.events import Cancelling, Event, Left, NeedData, Opening, Own
from appliance.parties import Side
from appliance.protocols.inspector import (
    Act,
    Ask,
    CancelQuestion,
    ChallengeQuestion,
    Close,
    CredentialQuestion,
    OpenTarget,
    Question,
    RegisterKey,
    Send,
    SetTimer,
    StartTls,
    TlsFacts,
)
from appliance.protocols.postgres import messages as m
from appliance.protocols.postgres.login import ALPN, EARLY_SIZE_MAX, Login
from appliance.protocols.postgres.startup import read_search_path, split_options
from appliance.settings import ClientTls, TargetTls

KEY = b"\0\0\0\x2a" + b"ours"
TARGET_KEY = b"\0\0\x10\x01" + b"real"
CLIENTS_KEY = b"\0\0\x10\x01" + b"ours"  # the target's process id, our own secret
CLIENT_FACTS = TlsFacts(b"our certificate", None, "db")
TARGET_FACTS = TlsFacts(b"their certificate", None, None)
RULE = RuleReference("no-entry", "policy.yaml", 7)


def startup(*parameters: tuple[str, str], minor: int = 0) -> bytes:
    return m.StartupMessage(3, minor, (("user", "app"), ("database", "shop"), *parameters)).build()


SETTINGS = (("client_encoding", "UTF8"), ("standard_conforming_strings", "on"), ("server_version", "15.8"))


def ready(settings: tuple[tuple[str, str], ...] = SETTINGS) -> bytes:
    statuses = b"".join(m.ParameterStatus(name, value).build() for name, value in settings)
    return statuses + m.BackendKeyData(TARGET_KEY).build() + m.ReadyForQuery("I").build()


OK = m.AuthenticationOk().build()
WELCOME = (
    OK + b"".join(m.ParameterStatus(name, value).build() for name, value in SETTINGS) + m.BackendKeyData(CLIENTS_KEY).build()
)

Answers = Callable[[Question], object]


def answers(question: Question) -> object:
    match question:
        case CredentialQuestion():
            return "service"
        case ChallengeQuestion(step="verify"):
            return b""
        case ChallengeQuestion(mechanism=mechanism, step=step):
            return f"<{mechanism} {step}>".encode()
        case _:
            return True


@dataclass
class Play:
    """The relay's part, without a network: carries out every event and notes what comes of it."""

    login: Login
    answers: Answers = answers
    verdict: Verdict = field(default_factory=lambda: Forward(None))
    facts: Mapping[Side, TlsFacts] = field(default_factory=lambda: {Side.CLIENT: CLIENT_FACTS, Side.TARGET: TARGET_FACTS})
    sent: dict[Side, bytes] = field(default_factory=lambda: {Side.CLIENT: b"", Side.TARGET: b""})
    events: list[Event] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    asked: list[Question] = field(default_factory=list)
    closed: str | None = None

    def feed(self, side: Side, data: bytes) -> None:
        if self.closed is None:
            self.login.receive(side, data)
            self.pump()

    def feed_all(self, side: Side, chunks: list[bytes]) -> None:
        for data in chunks:
            self.feed(side, data)

    def pump(self) -> None:
        is_quiet = False
        while not is_quiet:
            is_quiet = True
            for side in Side:
                while self.closed is None and not isinstance(event := self.login.next_event(side), NeedData):
                    is_quiet = False
                    self.events.append(event)
                    self.perform(self.login.carry_out(event, self.verdict if isinstance(event, Opening) else Forward(None)))

    def perform(self, acts: list[Act]) -> None:
        for act in acts:
            self.acts.append(act)
            match act:
                case Send(side, _, data):
                    self.sent[side] += bytes(data)
                case StartTls(side):
                    self.perform(self.login.tls_started(side, self.facts[side]))
                case OpenTarget():
                    self.perform(self.login.target_opened())
                case Ask(question):
                    self.asked.append(question)
                    self.perform(self.login.answer(question, self.answers(question)))
                case Close(reason):
                    self.closed = reason

    def fatal(self) -> m.Report:
        """The one error the client got, as the last thing."""
        data = self.sent[Side.CLIENT]
        framer = m.Framer(m.TARGET_BOUNDS, data[1:] if data[:1] in (b"S", b"N") else data)
        found = None
        while (message := framer.next()) is not None:
            found = message
        assert found is not None
        assert found[0] == m.ERROR_RESPONSE
        assert self.closed is not None
        report = m.Report.read(found[1])
        assert report.severity == "FATAL"
        return report


Script = list[tuple[Side, bytes]]
C, T = Side.CLIENT, Side.TARGET


def login(
    client_tls: ClientTls = ClientTls.OFFER,
    target_tls: TargetTls = TargetTls.DISABLE,
    placeholder: str | None = None,
    extra: Mapping[str, str] | None = None,
) -> Login:
    return Login(
        client_tls=client_tls, target_tls=target_tls, placeholder=placeholder, random=bytes, own_key=KEY, extra=extra or {}
    )


def run(script: Script, make: Callable[[], Play]) -> Play:
    """Run a conversation whole and byte by byte; both must end alike."""
    whole, slow = make(), make()
    for side, data in script:
        whole.feed(side, data)
        for at in range(len(data)):
            slow.feed(side, data[at : at + 1])
    assert whole.sent == slow.sent
    assert list(map(_outline, whole.events)) == list(map(_outline, slow.events))
    assert whole.asked == slow.asked
    assert whole.closed == slow.closed
    assert whole.login.is_done == slow.login.is_done
    return whole


def _outline(event: Event) -> tuple[object, ...]:
    return (type(event), event.side, getattr(event, "purpose", None), getattr(event, "shown", None))


def target_startup(play: Play, skip: int = 0) -> dict[str, str]:
    found = m.read_first(play.sent[T][skip:])
    assert found is not None
    packet = found[0]
    assert isinstance(packet, m.StartupMessage)
    assert (packet.major, packet.minor) == (3, 0)
    return dict(packet.parameters)


# --- the plain way ------------------------------------------------------------------------------------------------------


def test_a_client_is_let_in_once_the_target_let_us_in() -> None:
    play = run([(C, startup(("application_name", "psql"))), (T, OK + ready())], lambda: Play(login()))
    assert play.login.is_done
    assert play.sent[C] == WELCOME
    assert target_startup(play) == {
        "user": "service",
        "database": "shop",
        "application_name": "psql",
        "standard_conforming_strings": "on",
        "client_encoding": "UTF8",
    }
    assert play.login.target_key == TARGET_KEY
    assert dict(play.login.parameters) == dict(SETTINGS)
    assert (play.login.user, play.login.database, play.login.account) == ("app", "shop", "service")
    opening = next(event for event in play.events if isinstance(event, Opening))
    assert opening.effects == {effect(Action.CONNECT, Kind.DATABASE, "shop")}
    assert opening.shown == "user=app database=shop application_name=psql"
    assert RegisterKey(CLIENTS_KEY) in play.acts
    assert play.acts[-1] == SetTimer("login", 0)


def test_nothing_reaches_target_or_client_before_the_opening_is_judged() -> None:
    play = Play(login(), verdict=Hold(RULE, "ask", HoldTerms()))
    play.feed(C, startup())
    assert play.acts == []
    play.feed(C, b"more")
    assert play.login.next_event(C) == play.login.next_event(T)
    opening = play.events[0]
    play.perform(play.login.carry_out(opening, Forward(None)))
    play.pump()
    assert OpenTarget() in play.acts


def test_what_a_client_sends_too_early_waits_for_the_session() -> None:
    query = m.Query("select 1").build()
    play = run([(C, startup() + query), (T, OK + ready() + b"extra")], lambda: Play(login()))
    assert play.login.is_done
    assert play.login.leftover(C) == query
    assert play.login.leftover(C) == b""
    assert play.login.leftover(T) == b"extra"


def test_what_waits_is_bounded() -> None:
    play = Play(login(), answers=lambda _: "service")
    play.feed(C, startup())
    with pytest.raises(PeerError):
        play.feed(C, bytes(EARLY_SIZE_MAX + 1))


def test_the_database_defaults_to_the_user() -> None:
    packet = m.StartupMessage(3, 0, (("user", "app"),)).build()
    play = run([(C, packet), (T, OK + ready())], lambda: Play(login()))
    assert target_startup(play)["database"] == "app"


def test_newer_protocols_are_negotiated_down_before_anything_else() -> None:
    packet = startup(("_pq_.feature", "on"), minor=2)
    play = run([(C, packet), (T, OK + ready())], lambda: Play(login()))
    assert play.sent[C] == m.NegotiateProtocolVersion(0x30000, ("_pq_.feature",)).build() + WELCOME
    assert "_pq_.feature" not in target_startup(play)


# --- parameters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "sqlstate", "word"),
    [
        ((("replication", "true"),), "0A000", "replication"),
        ((("replication", "database"),), "0A000", "replication"),
        ((("replication", ""),), "0A000", "replication"),
        ((("user", "root"),), "08P01", "user"),
        ((("database", "other"),), "08P01", "database"),
        ((("DateStyle", "ISO"), ("datestyle", "German")), "08P01", "DateStyle"),
        ((("client_encoding", "LATIN1"),), "42501", "client_encoding"),
        ((("client_encoding", "auto"),), "42501", "client_encoding"),
        ((("standard_conforming_strings", "off"),), "42501", "standard_conforming_strings"),
        ((("role", "postgres"),), "42501", "role"),
        ((("session_preload_libraries", "x"),), "42501", "session_preload_libraries"),
        ((("my.setting", "1"),), "42501", "my.setting"),
        ((("options", "-c role=postgres"),), "42501", "role"),
        ((("options", "--session-replication-role=replica"),), "42501", "session_replication_role"),
        ((("options", "-csearch_path=pg_temp,public"),), "42501", "search_path"),
        ((("options", "-c search_path=a -c search_path=b"),), "08P01", "search_path"),
        ((("options", "-d 5"),), "42501", "options"),
        ((("options", "-c"),), "08P01", "options"),
        ((("options", "-c statement_timeout"),), "08P01", "options"),
        ((("search_path", 'a,"b'),), "42501", "search_path"),
    ],
)
def test_a_parameter_that_could_change_what_text_means_is_refused_by_name(
    parameters: tuple[tuple[str, str], ...], sqlstate: str, word: str
) -> None:
    play = run([(C, startup(*parameters))], lambda: Play(login()))
    report = play.fatal()
    assert report.sqlstate == sqlstate
    assert word.lower() in report.message.lower()
    assert not any(isinstance(event, Opening) for event in play.events)
    assert play.sent[T] == b""


@pytest.mark.parametrize(
    ("parameters", "given_on"),
    [
        ((("replication", "off"),), {}),
        ((("client_encoding", "'utf-8'"),), {}),
        ((("client_encoding", "SQL_ASCII"),), {}),
        ((("DateStyle", "ISO"), ("extra_float_digits", "3")), {"datestyle": "ISO", "extra_float_digits": "3"}),
        (
            (("options", r"-c statement_timeout=5s --DateStyle=ISO,\ MDY"),),
            {"statement_timeout": "5s", "datestyle": "ISO, MDY"},
        ),
        ((("options", "--statement-timeout=1"),), {"statement_timeout": "1"}),
        ((("search_path", '"$user", Public,"Odd ""one"""'),), {"search_path": '"service", "public", "Odd ""one"""'}),
        ((("search_path", ""),), {"search_path": ""}),
        ((("standard_conforming_strings", "ON"),), {}),
    ],
)
def test_a_harmless_parameter_goes_to_the_target_as_it_was_understood(
    parameters: tuple[tuple[str, str], ...], given_on: dict[str, str]
) -> None:
    play = run([(C, startup(*parameters)), (T, OK + ready())], lambda: Play(login()))
    assert play.login.is_done
    fixed = {"user": "service", "database": "shop", "standard_conforming_strings": "on", "client_encoding": "UTF8"}
    assert target_startup(play) == fixed | given_on


def test_a_search_path_is_exposed_as_it_is_at_the_target() -> None:
    play = run([(C, startup(("options", "-csearch_path=$user,B"))), (T, OK + ready())], lambda: Play(login()))
    assert play.login.search_path == ("service", "b")


def test_extra_settings_yield_to_the_clients_own() -> None:
    extra = {"datestyle": "ISO", "timezone": "UTC"}
    play = run([(C, startup(("DateStyle", "German"))), (T, OK + ready())], lambda: Play(login(extra=extra)))
    assert target_startup(play)["datestyle"] == "German"
    assert target_startup(play)["timezone"] == "UTC"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  -c  a=b ", ["-c", "a=b"]),
        (r"-c a=b\ c", ["-c", "a=b c"]),
        (r"a\\b", ["a\\b"]),
        ("a\\", ["a"]),
        (r"\ ", [" "]),
        ("aa  bb\tcc", ["aa", "bb", "cc"]),
    ],
)
def test_options_are_split_as_the_server_does(text: str, words: list[str]) -> None:
    assert split_options(text) == words


@given(st.text(max_size=30))
def test_any_text_is_a_search_path_or_none(text: str) -> None:
    read_search_path(text)


def test_a_startup_message_without_user_is_refused() -> None:
    play = run([(C, m.StartupMessage(3, 0, (("database", "shop"),)).build())], lambda: Play(login()))
    assert play.fatal().sqlstate == "28000"


def test_another_protocol_is_refused() -> None:
    play = run([(C, m.StartupMessage(2, 0, ()).build())], lambda: Play(login()))
    assert play.fatal().sqlstate == "0A000"


# --- verdicts -----------------------------------------------------------------------------------------------------------


def test_a_refused_opening_says_why_by_which_rule_and_what_to_do() -> None:
    play = run([(C, startup())], lambda: Play(login(), verdict=Refuse(RULE, "planners may not", "ask the owner")))
    report = play.fatal()
    assert (report.sqlstate, report.message, report.field("H")) == ("28000", "planners may not", "ask the owner")
    assert "no-entry" in (report.field("D") or "")
    assert OpenTarget() not in play.acts


def test_without_a_credential_the_client_hears_so() -> None:
    play = run([(C, startup())], lambda: Play(login(), answers=lambda _: None))
    assert (
        play.fatal().message
        == "this resource has no credential, or the control process does not answer; try again in a moment"
    )
    assert OpenTarget() not in play.acts


# --- encryption toward the client ---------------------------------------------------------------------------------------


def test_an_ssl_request_is_answered_and_tls_begins() -> None:
    play = run([(C, m.SslRequest().build()), (C, startup()), (T, OK + ready())], lambda: Play(login()))
    assert play.sent[C] == b"S" + WELCOME
    assert StartTls(C, (ALPN,)) in play.acts
    assert play.login.is_over_tls(C)


def test_a_gss_request_is_declined_and_tls_may_follow() -> None:
    script = [(C, m.GssRequest().build()), (C, m.SslRequest().build()), (C, startup()), (T, OK + ready())]
    play = run(script, lambda: Play(login()))
    assert play.sent[C] == b"NS" + WELCOME


def test_where_tls_is_refused_the_client_may_go_on_in_clear() -> None:
    script = [(C, m.SslRequest().build()), (C, startup()), (T, OK + ready())]
    play = run(script, lambda: Play(login(ClientTls.REFUSE)))
    assert play.sent[C] == b"N" + WELCOME


def test_where_tls_is_required_a_startup_in_clear_is_refused() -> None:
    play = run([(C, startup())], lambda: Play(login(ClientTls.REQUIRE)))
    assert play.fatal().sqlstate == "28000"
    assert play.sent[T] == b""


@pytest.mark.parametrize("request_packet", [m.SslRequest().build(), m.GssRequest().build()])
def test_bytes_stuffed_behind_a_request_for_encryption_end_the_flow(request_packet: bytes) -> None:
    play = Play(login())
    with pytest.raises(PeerError):
        play.feed(C, request_packet + startup())
    assert play.sent[C] == b""


def test_bytes_that_come_before_the_answer_is_carried_out_end_the_flow() -> None:
    one = login()
    one.receive(C, m.SslRequest().build())
    event = one.next_event(C)
    assert isinstance(event, Own)
    one.receive(C, b"x")
    with pytest.raises(PeerError):
        one.carry_out(event, Forward(None))


@pytest.mark.parametrize(
    "script",
    [
        [m.SslRequest().build(), m.SslRequest().build()],
        [m.SslRequest().build(), m.GssRequest().build()],
        [m.GssRequest().build(), m.GssRequest().build()],
        [m.GssRequest().build(), b"\x16\x03\x01"],
        [m.SslRequest().build(), b"\x16\x03\x01"],
    ],
)
def test_asking_for_encryption_again_ends_the_flow(script: list[bytes]) -> None:
    play = Play(login())
    with pytest.raises(PeerError):
        play.feed_all(C, script)


def test_direct_tls_begins_with_what_was_read_and_needs_its_alpn() -> None:
    hello = b"\x16\x03\x01\x02\x00rest of the hello"
    play = Play(login(), facts={C: TlsFacts(b"x", ALPN, None)})
    play.feed(C, hello)
    assert play.acts == [StartTls(C, (ALPN,), hello)]
    play.feed(C, startup())
    play.feed(T, OK + ready())
    assert play.sent[C] == WELCOME
    for alpn in (None, "http/1.1"):
        other = Play(login(), facts={C: TlsFacts(b"x", alpn, None)})
        with pytest.raises(PeerError):
            other.feed(C, hello)


def test_direct_tls_where_tls_is_refused_ends_the_flow() -> None:
    with pytest.raises(PeerError):
        Play(login(ClientTls.REFUSE)).feed(C, b"\x16")


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 16, b"SSH-2.0-x\r\n", b"*1\r\n$4\r\nPING\r\n"])
def test_another_protocol_ends_the_flow(garbage: bytes) -> None:
    with pytest.raises(PeerError):
        Play(login()).feed(C, garbage)


# --- a cancel request ---------------------------------------------------------------------------------------------------


def test_a_cancel_request_is_asked_and_never_answered() -> None:
    play = run([(C, m.CancelRequest(KEY).build())], lambda: Play(login()))
    assert isinstance(play.events[0], Cancelling)
    assert play.asked == [CancelQuestion(KEY)]
    assert play.sent == {C: b"", T: b""}
    assert play.closed is not None


# --- a placeholder password ---------------------------------------------------------------------------------------------

SALT = b"0123456789abcdef"
SALTED = hashlib.pbkdf2_hmac("sha256", b"placeholder", SALT, 4096)
CLIENT_KEY = hmac.digest(SALTED, b"Client Key", "sha256")
STORED_KEY = hashlib.sha256(CLIENT_KEY).digest()
SERVER_KEY = hmac.digest(SALTED, b"Server Key", "sha256")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


PLACEHOLDER = f"SCRAM-SHA-256$4096:{b64(SALT)}${b64(STORED_KEY)}:{b64(SERVER_KEY)}"
SERVER_FIRST = f"r=abc{b64(bytes(18))},s={b64(SALT)},i=4096".encode()


def proof(header: bytes, binding: bytes = b"", key: bytes = CLIENT_KEY) -> bytes:
    unproven = b"c=" + base64.b64encode(header + binding) + b"," + SERVER_FIRST.split(b",")[0]
    signature = hmac.digest(STORED_KEY, b"n=,r=abc," + SERVER_FIRST + b"," + unproven, "sha256")
    return unproven + b",p=" + base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True)))


def sasl(mechanism: str, header: bytes, binding: bytes = b"", key: bytes = CLIENT_KEY) -> Script:
    return [
        (C, m.SaslInitialResponse(mechanism, header + b"n=,r=abc").build()),
        (C, m.LoginToken(proof(header, binding, key)).build()),
    ]


def test_a_client_that_insists_on_scram_gets_it() -> None:
    script = [(C, startup()), *sasl("SCRAM-SHA-256", b"n,,"), (T, OK + ready())]
    play = run(script, lambda: Play(login(placeholder=PLACEHOLDER)))
    assert play.login.is_done
    assert play.sent[C].startswith(m.AuthenticationSasl(("SCRAM-SHA-256",)).build())
    assert play.sent[C].endswith(WELCOME)
    assert m.AuthenticationSaslContinue(SERVER_FIRST).build() in play.sent[C]


def test_a_client_on_tls_is_offered_channel_binding_first_and_gets_it() -> None:
    header = b"p=tls-server-end-point,,"
    script = [
        (C, m.SslRequest().build()),
        (C, startup()),
        *sasl("SCRAM-SHA-256-PLUS", header, CLIENT_FACTS.end_point),
        (T, OK + ready()),
    ]
    play = run(script, lambda: Play(login(placeholder=PLACEHOLDER)))
    assert play.sent[C][1:].startswith(m.AuthenticationSasl(("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256")).build())
    assert play.login.is_done


def test_a_wrong_placeholder_never_reaches_the_target() -> None:
    script = [(C, startup()), *sasl("SCRAM-SHA-256", b"n,,", key=bytes(32))]
    play = run(script, lambda: Play(login(placeholder=PLACEHOLDER)))
    assert play.fatal().sqlstate == "28P01"
    assert play.asked == []
    assert play.sent[T] == b""


@pytest.mark.parametrize(
    "token",
    [
        m.SaslInitialResponse("SCRAM-SHA-256", b"y,,n=,r=abc"),
        m.SaslInitialResponse("SCRAM-SHA-256", None),
        m.SaslInitialResponse("PLAIN", b"\0app\0secret"),
        m.Password(b"secret"),
    ],
)
def test_a_login_by_other_means_is_refused(token: m.SaslInitialResponse | m.Password) -> None:
    script = [(C, m.SslRequest().build()), (C, startup()), (C, token.build())]
    play = run(script, lambda: Play(login(placeholder=PLACEHOLDER)))
    assert play.fatal().sqlstate == "08P01"
    assert play.asked == []


# --- our login at the target ----------------------------------------------------------------------------------------------

TLS = TargetTls.VERIFY_FULL
SSL = m.SslRequest().build()


def test_the_target_is_encrypted_before_anything_is_said() -> None:
    play = run([(C, startup()), (T, b"S"), (T, OK + ready())], lambda: Play(login(target_tls=TLS)))
    assert play.sent[T].startswith(SSL)
    assert target_startup(play, len(SSL))["user"] == "service"
    assert StartTls(T, (ALPN,)) in play.acts
    assert play.login.is_done


@pytest.mark.parametrize("answer", [b"N", b"Enope\0"])
def test_a_target_without_tls_is_left(answer: bytes) -> None:
    play = run([(C, startup()), (T, answer)], lambda: Play(login(target_tls=TargetTls.REQUIRE)))
    assert "TLS" in play.fatal().message
    assert play.sent[T] == SSL


@pytest.mark.parametrize("answer", [b"S" + OK, b"X"])
def test_a_target_that_stuffs_or_babbles_ends_the_flow(answer: bytes) -> None:
    play = Play(login(target_tls=TLS))
    play.feed(C, startup())
    with pytest.raises(PeerError):
        play.feed(T, answer)


def test_a_target_that_chose_another_protocol_ends_the_flow() -> None:
    play = Play(login(target_tls=TLS), facts={T: TlsFacts(b"x", "h2", None)})
    play.feed(C, startup())
    with pytest.raises(PeerError):
        play.feed(T, b"S")


def test_md5_is_answered_with_the_salt_as_challenge() -> None:
    request = m.AuthenticationMd5Password(b"salt").build()
    play = run([(C, startup()), (T, request), (T, OK + ready())], lambda: Play(login()))
    assert play.asked[1] == ChallengeQuestion("md5", "only", b"salt")
    assert play.sent[T].endswith(m.Password(b"<md5 only>").build())
    assert play.login.is_done


def test_a_password_in_clear_goes_over_tls_only() -> None:
    request = m.AuthenticationCleartextPassword().build()
    play = run([(C, startup()), (T, b"S"), (T, request), (T, OK + ready())], lambda: Play(login(target_tls=TLS)))
    assert play.asked[1] == ChallengeQuestion("cleartext", "only", b"", over_tls=True)
    assert play.sent[T].endswith(m.Password(b"<cleartext only>").build())
    bare = run([(C, startup()), (T, request)], lambda: Play(login()))
    assert "without TLS" in bare.fatal().message
    assert len(bare.asked) == 1


OFFER = m.AuthenticationSasl(("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256")).build()
CONTINUE = m.AuthenticationSaslContinue(b"server first").build()
FINAL = m.AuthenticationSaslFinal(b"server final").build()


@pytest.mark.parametrize(
    ("before", "tls", "mechanism", "binding"),
    [
        ([(T, b"S")], TLS, "SCRAM-SHA-256-PLUS", TARGET_FACTS.end_point),
        ([], TargetTls.DISABLE, "SCRAM-SHA-256", b""),
    ],
)
def test_scram_is_answered_by_control_and_bound_where_it_can_be(
    before: Script, tls: TargetTls, mechanism: str, binding: bytes
) -> None:
    script = [(C, startup()), *before, (T, OFFER), (T, CONTINUE), (T, FINAL), (T, OK + ready())]
    play = run(script, lambda: Play(login(target_tls=tls)))
    over = bool(before)
    assert play.asked[1:] == [
        ChallengeQuestion(mechanism, "first", b"", binding, over),
        ChallengeQuestion(mechanism, "final", b"server first", binding, over),
        ChallengeQuestion(mechanism, "verify", b"server final", binding, over),
    ]
    tokens = m.SaslInitialResponse(mechanism, f"<{mechanism} first>".encode()).build()
    tokens += m.LoginToken(f"<{mechanism} final>".encode()).build()
    assert play.sent[T].endswith(tokens)
    assert play.login.is_done
    assert not any("<" in getattr(event, "shown", "") for event in play.events)


def test_everything_a_target_sends_at_once_is_still_taken_in_turn() -> None:
    play = run([(C, startup()), (T, OFFER + CONTINUE + FINAL + OK + ready())], lambda: Play(login()))
    assert play.login.is_done


@pytest.mark.parametrize("script", [[OFFER, OK], [OFFER, CONTINUE, OK]])
def test_a_target_that_skips_its_own_proof_is_left(script: list[bytes]) -> None:
    play = run([(C, startup()), *((T, data) for data in script)], lambda: Play(login()))
    assert "without proving" in play.fatal().message
    assert not play.login.is_done


def test_a_target_that_proves_nothing_is_left() -> None:
    def doubting(question: Question) -> object:
        return None if isinstance(question, ChallengeQuestion) and question.step == "verify" else answers(question)

    play = run([(C, startup()), (T, OFFER), (T, CONTINUE), (T, FINAL + OK + ready())], lambda: Play(login(), doubting))
    assert "prove" in play.fatal().message


@pytest.mark.parametrize("number", [2, 7, 9])
def test_a_login_we_do_not_have_is_refused_with_advice(number: int) -> None:
    play = run([(C, startup()), (T, m.AuthenticationOther(number).build())], lambda: Play(login()))
    assert play.fatal().field("H")


@pytest.mark.parametrize(
    "script",
    [
        [CONTINUE],
        [FINAL],
        [OFFER, OFFER],
        [m.AuthenticationMd5Password(b"salt").build(), m.AuthenticationMd5Password(b"salt").build()],
        [ready()],
        [OK, OK],
        [OK, m.ReadyForQuery("T").build()],
        [OK, m.BackendKeyData(KEY).build(), m.BackendKeyData(KEY).build()],
        [OK, m.DataRow((b"x",)).build()],
        [m.NegotiateProtocolVersion(0x30000).build()],
    ],
)
def test_a_target_out_of_order_ends_the_flow(script: list[bytes]) -> None:
    play = Play(login())
    play.feed(C, startup())
    with pytest.raises(PeerError):
        play.feed_all(T, script)


@pytest.mark.parametrize(
    "settings",
    [
        (("client_encoding", "UTF8"), ("standard_conforming_strings", "off")),
        (("client_encoding", "LATIN1"), ("standard_conforming_strings", "on")),
        (("client_encoding", "UTF8"),),
    ],
)
def test_a_target_whose_session_reads_text_otherwise_is_left(settings: tuple[tuple[str, str], ...]) -> None:
    play = run([(C, startup()), (T, OK + ready(settings))], lambda: Play(login()))
    assert play.fatal().sqlstate == "0A000"
    assert not play.login.is_done


@pytest.mark.parametrize(
    ("sqlstate", "text", "told"),
    [
        ("28P01", 'password authentication failed for user "service"', "the target refused the gateway's login"),
        ("3D000", 'database "shop" does not exist', 'database "shop" does not exist'),
        ("53300", "sorry, too many clients already", "sorry, too many clients already"),
        ("bad", "x", "the target refused the gateway's login"),
    ],
)
def test_an_error_of_the_target_keeps_its_code_and_tells_nothing_of_our_account(sqlstate: str, text: str, told: str) -> None:
    script = [
        (C, startup()),
        (T, m.notice_response("WARNING", "01000", "old hash") + m.error_response("FATAL", sqlstate, text)),
    ]
    play = run(script, lambda: Play(login()))
    report = play.fatal()
    assert report.message == told
    assert report.sqlstate == (sqlstate if len(sqlstate) == 5 else "08006")
    assert b"old hash" not in play.sent[C]


# --- ends ---------------------------------------------------------------------------------------------------------------


def test_a_target_that_cannot_be_reached_or_hangs_up_is_told_to_the_client() -> None:
    play = Play(login(target_tls=TLS))
    play.feed(C, startup())
    play.perform(play.login.target_failed("refused"))
    play.pump()
    assert play.fatal().sqlstate == "08006"
    other = Play(login())
    other.feed(C, startup())
    other.login.end(T)
    other.pump()
    assert other.fatal().sqlstate == "08006"


def test_a_client_that_leaves_ends_the_login() -> None:
    for data in (b"", SSL[:5], startup()):
        play = Play(login())
        play.feed(C, data)
        play.login.end(C)
        play.pump()
        assert isinstance(play.events[-1], Left)
        assert play.closed is not None


def test_time_runs_out_with_a_word() -> None:
    play = Play(login())
    assert play.login.opening_acts() == [SetTimer("login", 30.0)]
    play.feed(C, SSL[:5])
    play.perform(play.login.timer("login"))
    play.pump()
    assert play.fatal().message == "the login took too long"


def test_what_is_carried_out_after_the_end_leads_nowhere() -> None:
    one = login()
    one.receive(C, startup())
    opening = one.next_event(C)
    assert isinstance(opening, Opening)
    one.farewell("shutting down", "connect again")
    assert isinstance(one.next_event(C), NeedData)
    assert one.carry_out(opening, Forward(None)) == []
    error = one.next_event(C)
    assert isinstance(error, Own)
    acts = one.carry_out(error, Forward(None))
    assert isinstance(acts[0], Send)
    assert isinstance(acts[-1], Close)


def test_a_late_answer_is_void() -> None:
    held: list[Question] = []
    one = login()
    one.receive(C, startup())
    opening = one.next_event(C)
    assert isinstance(opening, Opening)
    for act in one.carry_out(opening, Forward(None)):
        assert isinstance(act, Ask)
        held.append(act.question)
    one.timer("login")
    assert one.answer(held[0], "service") == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from([C, T]),
            st.one_of(
                st.binary(max_size=30),
                st.sampled_from([SSL, startup(), OFFER, CONTINUE, FINAL, OK, ready(), b"S", b"N", m.GssRequest().build()]),
                st.sampled_from([data for _, data in sasl("SCRAM-SHA-256", b"n,,")]),
            ),
        ),
        max_size=10,
    ),
    st.sampled_from([None, PLACEHOLDER]),
    st.sampled_from([TLS, TargetTls.DISABLE]),
)
def test_any_conversation_gives_events_or_a_peer_error(script: Script, placeholder: str | None, tls: TargetTls) -> None:
    play = Play(login(placeholder=placeholder, target_tls=tls))
    try:
        for side, data in script:
            play.feed(side, data)
    except PeerError:
        return
    if play.login.is_done:
        assert play.sent[C].endswith(WELCOME)
