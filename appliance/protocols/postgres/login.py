"""Everything between a client's first byte and the session: encryption, who it wants to be, and our own login for it.

Both sides are read here until the target is ready. The client is told that its login succeeded only after ours has, so
that a target that refuses us gives the client one clean FATAL error.

    client                     Login                                  target
    SSLRequest, ClientHello →  S, TLS
    StartupMessage          →  Opening (judged)
                               SCRAM with the placeholder, if any
                               whose account? (asked)              →  SSLRequest, TLS, StartupMessage
                               its challenges (asked)              ↔  SASL, MD5, password
                            ←  AuthenticationOk, settings, our key ←  AuthenticationOk, settings, key, ReadyForQuery
"""

from __future__ import annotations

import base64
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from appliance.decisions import Forward, Hold, Refuse, Verdict
from appliance.effects import Action, Kind, effect
from appliance.errors import PeerError
from appliance.events import NEED_DATA, Cancelling, Event, Left, NeedData, Opening, Own, Passage
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
from appliance.protocols.postgres import messages
from appliance.protocols.postgres.scram import NONCE_BYTES, PLAIN, PLUS, ScramServer, Verifier
from appliance.protocols.postgres.startup import Refusal, Wishes, read_wishes, write_search_path
from appliance.settings import ClientTls, TargetTls

LOGIN_SECONDS: Final = 30.0  # from the first byte to the session, holds not included; the server gives 60
TIMER: Final = "login"
ALPN: Final = "postgresql"
EARLY_SIZE_MAX: Final = 65_536 + 4096  # bytes of a client that may wait before its session; a SASL token is the largest
PARAMETERS_MAX: Final = 200  # settings that a target may report at login; PostgreSQL 18 reports 15

_VERSION: Final = 0x0003_0000
_CLIENT_HELLO: Final = 0x16  # TLS record type "handshake", which no startup packet begins with
_CLIENT_BOUNDS: Final[Mapping[int, int]] = MappingProxyType({messages.LOGIN_TOKEN: messages.TOKEN_SIZE_MAX})
# What a target may say before its session, none of it large.
_TARGET_BOUNDS: Final[Mapping[int, int]] = MappingProxyType(
    dict.fromkeys(
        (
            messages.AUTHENTICATION,
            messages.BACKEND_KEY_DATA,
            messages.ERROR_RESPONSE,
            messages.NEGOTIATE_PROTOCOL_VERSION,
            messages.NOTICE_RESPONSE,
            messages.PARAMETER_STATUS,
            messages.READY_FOR_QUERY,
        ),
        messages.REPLY_SIZE_MAX,
    )
)
# Errors whose text says nothing but what the client itself asked for, or how the server is.
_PASSED_ERRORS: Final = frozenset({"22023", "3D000", "53300", "57P03"})
_SQLSTATE: Final = re.compile("[0-9A-Z]{5}")
# What the target must report, because everything is read by it.
_REQUIRED: Final[Mapping[str, str]] = MappingProxyType({"client_encoding": "UTF8", "standard_conforming_strings": "on"})


class _Client(Enum):
    FIRST = auto()  # a first packet is expected
    HANDSHAKE = auto()  # TLS is being set up
    SASL_FIRST = auto()  # mechanisms were offered
    SASL_FINAL = auto()  # the server-first-message was sent
    WAITING = auto()  # it is not its turn
    OVER = auto()  # it has been told that this is the end


class _Target(Enum):
    ABSENT = auto()
    TLS_ANSWER = auto()  # one byte, S or N
    HANDSHAKE = auto()
    REQUEST = auto()  # an authentication request is expected
    ASKED = auto()  # control is making the answer
    SASL_CONTINUE = auto()
    SASL_FINAL = auto()
    ANSWERED = auto()  # all is said that it asked for: AuthenticationOk is expected
    SETTINGS = auto()  # it reports its settings
    READY = auto()
    OVER = auto()


@dataclass(frozen=True, slots=True)
class _Planned:
    """An event to be given, and what its carrying out does."""

    event: Event
    acts: Callable[[], list[Act]]


class Login:
    """One flow's login; in the terms of `protocols.inspector.Inspector`. It is over when `is_done`.

    `placeholder` is the agent's SCRAM verifier, or None to let the client in without a password. `random` gives that
    many random bytes. `own_key` is the cancel key the client gets (4 bytes of process id, 4 of secret); the process id
    becomes the target's once that is known. `extra` are settings given to the target where the client did not set them.
    """

    def __init__(
        self,
        *,
        client_tls: ClientTls,
        target_tls: TargetTls,
        placeholder: str | None,
        random: Callable[[int], bytes],
        own_key: bytes,
        extra: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        if len(own_key) != 8:
            raise ValueError("a cancel key of protocol 3.0 has 8 bytes")
        self._client_tls = client_tls
        self._target_tls = target_tls
        self._verifier = Verifier.read(placeholder) if placeholder is not None else None
        self._random = random
        self._extra = extra
        self.own_key = own_key
        self._client = _Client.FIRST
        self._target = _Target.ABSENT
        self._received: dict[Side, bytes] = {Side.CLIENT: b"", Side.TARGET: b""}
        self._client_framer: messages.Framer | None = None
        self._target_framer: messages.Framer | None = None
        self._planned: dict[Side, deque[_Planned]] = {Side.CLIENT: deque(), Side.TARGET: deque()}
        self._carried: dict[Side, _Planned | None] = {Side.CLIENT: None, Side.TARGET: None}
        self._ended: dict[Side, bool] = {Side.CLIENT: False, Side.TARGET: False}
        self._left: dict[Side, bool] = {Side.CLIENT: False, Side.TARGET: False}
        self._asked: Question | None = None
        self._facts: dict[Side, TlsFacts] = {}
        self._has_asked_tls = False
        self._has_asked_gss = False
        self._is_direct = False
        self._wishes: Wishes | None = None
        self._scram: ScramServer | None = None
        self._mechanism = ""
        self._parameters: dict[str, str] = {}
        self.is_done = False
        self.account = ""
        self.search_path: tuple[str, ...] | None = None
        self.target_key: bytes | None = None

    # What the session takes over.

    @property
    def user(self) -> str:
        """Whom the client said it is."""
        return self._wishes.user if self._wishes else ""

    @property
    def database(self) -> str:
        """The database the client asked for, which is the target's too."""
        return self._wishes.database if self._wishes else ""

    @property
    def accepted(self) -> tuple[tuple[str, str], ...]:
        """The client's settings, as given to the target (search_path apart)."""
        return self._wishes.parameters if self._wishes else ()

    @property
    def parameters(self) -> Mapping[str, str]:
        """What the target reported (ParameterStatus), in its order."""
        return MappingProxyType(self._parameters)

    def is_over_tls(self, side: Side) -> bool:
        """Whether that side speaks TLS."""
        return side in self._facts

    def leftover(self, side: Side) -> bytes:
        """What that side sent beyond the login, once it is done; it is given once."""
        framer = self._client_framer if side is Side.CLIENT else self._target_framer
        rest = framer.rest() if framer is not None else b""
        rest, self._received[side] = rest + self._received[side], b""
        return rest

    def has_ended(self, side: Side) -> bool:
        """Whether that side has ended its stream, so that the session hears of it too."""
        return self._ended[side]

    # The inspector's part.

    def opening_acts(self) -> list[Act]:
        """The login as a whole has a limit of time."""
        return [SetTimer(TIMER, LOGIN_SECONDS)]

    def receive(self, side: Side, data: bytes) -> None:
        """Take bytes. A client that sends more than a login can need before its session stands raises PeerError."""
        framer = self._client_framer if side is Side.CLIENT else self._target_framer
        if framer is not None:
            framer.feed(data)
            size = len(framer)
        else:
            self._received[side] += data
            size = len(self._received[side])
        if side is Side.CLIENT and size > EARLY_SIZE_MAX:
            raise PeerError(f"more than {EARLY_SIZE_MAX} bytes before the login was complete")

    def end(self, side: Side) -> None:
        """That side has ended its stream."""
        self._ended[side] = True

    def next_event(self, side: Side) -> Event | NeedData:
        """The next event of that side, or NEED_DATA while one of it is being carried out."""
        if self._carried[side] is not None or self.is_done:
            return NEED_DATA
        if not self._planned[side]:
            if side is Side.CLIENT:
                self._read_client()
            else:
                self._read_target()
        if not self._planned[side]:
            return NEED_DATA
        planned = self._planned[side].popleft()
        self._carried[side] = planned
        return planned.event

    def carry_out(self, event: Event, verdict: Verdict) -> list[Act]:
        """What to do about an event that `next_event` gave."""
        planned = self._carried[event.side]
        if planned is None or planned.event is not event:
            raise ValueError("an event that is not being carried out")
        if isinstance(verdict, Hold):
            # The relay refuses what would have to wait here; until it says so, the lane stays held.
            return []
        self._carried[event.side] = None
        if isinstance(verdict, Refuse):
            if isinstance(event, Opening):
                self._fail("28000", verdict.reason, _detail(verdict), verdict.advice, f"refused: {verdict.reason}")
                return []
            self._stop()
            return [Close(f"refused: {verdict.reason}")]
        assert isinstance(verdict, Forward)
        return planned.acts()

    def answer(self, question: Question, reply: object) -> list[Act]:
        """The reply to the question that is open; one that was given up by now is void."""
        if question is not self._asked:
            return []
        self._asked = None
        match question:
            case CancelQuestion():
                self._stop()
                return [Close("cancel request")]
            case CredentialQuestion():
                if not isinstance(reply, str) or not reply or "\0" in reply:
                    self._fail(
                        "28000",
                        "this resource has no credential, or the control process does not answer; try again in a moment",
                    )
                    return []
                self.account = reply
                return [OpenTarget()]
            case ChallengeQuestion():
                self._take_reply(question, reply)
                return []
            case _:
                return []

    def tls_started(self, side: Side, facts: TlsFacts) -> list[Act]:
        """The handshake on that side is done. Raises PeerError where it settled on another protocol."""
        if side is Side.CLIENT:
            if facts.alpn != ALPN and (self._is_direct or facts.alpn is not None):
                raise PeerError("TLS for another protocol than postgresql")
            self._facts[side] = facts
            if self._client is _Client.HANDSHAKE:
                self._client = _Client.FIRST
        else:
            if facts.alpn not in (None, ALPN):
                raise PeerError("a target that chose another TLS protocol than postgresql")
            self._facts[side] = facts
            if self._target is _Target.HANDSHAKE:
                self._send_startup()
        return []

    def target_opened(self) -> list[Act]:
        """The connection to the target stands: encrypt it, or begin at once."""
        if self._target is _Target.ABSENT and self._client is not _Client.OVER:
            if self._target_tls is TargetTls.DISABLE:
                self._send_startup()
            else:
                self._target = _Target.TLS_ANSWER
                self._say(Side.TARGET, "SSLRequest", messages.SslRequest().build())
        return []

    def target_failed(self, reason: str) -> list[Act]:
        """There is no target."""
        self._fail("08006", "the target cannot be reached", why=f"the target cannot be reached: {reason}")
        return []

    def timer(self, name: str) -> list[Act]:
        """The login has taken too long."""
        if name == TIMER and not self.is_done:
            self._fail("08006", "the login took too long", why="login timeout")
        return []

    def farewell(self, reason: str, advice: str) -> list[Act]:
        """End the flow from our side."""
        self._fail("57P01", reason, hint=advice, why=reason)
        return []

    # The client.

    def _read_client(self) -> None:
        match self._client:
            case _Client.FIRST:
                self._read_first()
            case _Client.SASL_FIRST | _Client.SASL_FINAL:
                token = self._client_framer.next() if self._client_framer is not None else None
                if token is not None:
                    self._plan_passage(Side.CLIENT, lambda: self._take_token(token[1]))
            case _:
                pass
        self._read_end(Side.CLIENT)

    def _read_end(self, side: Side) -> None:
        if self._ended[side] and not self._planned[side] and not self._left[side]:
            self._left[side] = True
            self._planned[side].append(_Planned(Left(side, 0), lambda: self._take_end(side)))

    def _take_end(self, side: Side) -> list[Act]:
        if side is Side.CLIENT:
            self._stop()
            return [Close("the client left during its login")]
        if self._target is not _Target.OVER:
            self._fail("08006", "the target closed the connection during the login")
        return []

    def _read_first(self) -> None:
        data = self._received[Side.CLIENT]
        if not data:
            return
        if data[0] == _CLIENT_HELLO:
            self._read_direct_tls()
            return
        found = messages.read_first(data)
        if found is None:
            return
        packet, size = found
        self._received[Side.CLIENT] = data[size:]
        match packet:
            case messages.SslRequest():
                self._read_tls_request()
            case messages.GssRequest():
                if self._has_asked_gss or self.is_over_tls(Side.CLIENT):
                    raise PeerError("a GSSENCRequest where none may be")
                self._has_asked_gss = True
                self._refuse_stuffing("GSSENCRequest")
                self._plan_client("GSSENCRequest refused", self._decline_gss)
            case messages.CancelRequest(key):
                self._client = _Client.WAITING
                self._planned[Side.CLIENT].append(
                    _Planned(Cancelling(Side.CLIENT, 0, key), lambda: self._ask(CancelQuestion(key)))
                )
            case messages.StartupMessage():
                self._read_startup(packet)

    def _read_direct_tls(self) -> None:
        if self._has_asked_tls or self._has_asked_gss or self.is_over_tls(Side.CLIENT):
            raise PeerError("a TLS handshake that was not agreed on")
        if self._client_tls is ClientTls.REFUSE:
            raise PeerError("a TLS handshake where this resource has none")
        self._is_direct = True
        self._client = _Client.HANDSHAKE
        self._plan_client("direct TLS", self._start_direct_tls)

    def _start_direct_tls(self) -> list[Act]:
        # Taken only now, so that what came in the meantime is not lost to the handshake.
        pending, self._received[Side.CLIENT] = self._received[Side.CLIENT], b""
        return [StartTls(Side.CLIENT, (ALPN,), pending)]

    def _read_tls_request(self) -> None:
        if self._has_asked_tls or self.is_over_tls(Side.CLIENT):
            raise PeerError("a second SSLRequest")
        self._has_asked_tls = True
        self._refuse_stuffing("SSLRequest")
        if self._client_tls is ClientTls.REFUSE:
            self._plan_client("SSLRequest refused", self._decline_tls)
        else:
            self._client = _Client.HANDSHAKE
            self._plan_client("SSLRequest accepted", self._accept_tls)

    def _refuse_stuffing(self, what: str) -> None:
        # Bytes sent before the answer could be taken for part of the protected stream (CVE-2021-23222).
        if self._received[Side.CLIENT]:
            raise PeerError(f"bytes behind a {what} that did not wait for the answer")

    def _decline_gss(self) -> list[Act]:
        self._refuse_stuffing("GSSENCRequest")
        return [Send(Side.CLIENT, 0, b"N")]

    def _decline_tls(self) -> list[Act]:
        self._refuse_stuffing("SSLRequest")
        return [Send(Side.CLIENT, 0, b"N")]

    def _accept_tls(self) -> list[Act]:
        self._refuse_stuffing("SSLRequest")
        return [Send(Side.CLIENT, 0, b"S"), StartTls(Side.CLIENT, (ALPN,))]

    def _read_startup(self, packet: messages.StartupMessage) -> None:
        self._client = _Client.WAITING
        self._client_framer = messages.Framer(_CLIENT_BOUNDS, self._received[Side.CLIENT])
        self._received[Side.CLIENT] = b""
        if packet.major != 3:
            self._fail("0A000", f"unsupported frontend protocol {packet.major}.{packet.minor}: the gateway speaks 3.0")
            return
        if self._client_tls is ClientTls.REQUIRE and not self.is_over_tls(Side.CLIENT):
            self._fail("28000", "this resource requires TLS", hint="Connect with sslmode=require or stronger.")
            return
        wishes = read_wishes(packet)
        if isinstance(wishes, Refusal):
            self._fail(wishes.sqlstate, wishes.message, hint=wishes.hint)
            return
        self._wishes = wishes
        application = dict(wishes.parameters).get("application_name", "")
        shown = f"user={wishes.user} database={wishes.database}" + (
            f" application_name={application}" if application else ""
        )
        opening = Opening(
            Side.CLIENT,
            0,
            frozenset({effect(Action.CONNECT, Kind.DATABASE, wishes.database)}),
            wishes.user,
            wishes.database,
            shown,
        )
        must_negotiate = packet.minor > 0 or bool(wishes.unknown_options)
        self._planned[Side.CLIENT].append(_Planned(opening, lambda: self._admit(must_negotiate)))

    def _admit(self, must_negotiate: bool) -> list[Act]:
        assert self._wishes is not None
        if must_negotiate:
            negotiation = messages.NegotiateProtocolVersion(_VERSION, self._wishes.unknown_options)
            self._say(Side.CLIENT, "NegotiateProtocolVersion", negotiation.build())
        if self._verifier is None:
            return self._ask(CredentialQuestion(self._wishes.database))
        facts = self._facts.get(Side.CLIENT)
        nonce = base64.b64encode(self._random(NONCE_BYTES)).decode("ascii")
        self._scram = ScramServer(self._verifier, facts.end_point if facts and facts.end_point else None, nonce)
        self._client = _Client.SASL_FIRST
        self._say(Side.CLIENT, "AuthenticationSASL", messages.AuthenticationSasl(self._scram.mechanisms).build())
        return []

    def _take_token(self, payload: bytes) -> list[Act]:
        assert self._scram is not None
        assert self._wishes is not None
        try:
            if self._client is _Client.SASL_FIRST:
                initial = messages.SaslInitialResponse.read(payload)
                answer: bytes | None = self._scram.first(initial.mechanism, initial.token or b"")
            else:
                answer = self._scram.final(payload)
        except PeerError as error:
            # The client hears why: what it did wrong is most often a setting of its own.
            self._fail("08P01", f"login failed: {error.said}")
            return []
        if answer is None:
            self._fail("28P01", f'password authentication failed for user "{self._wishes.user}"')
            return []
        if self._client is _Client.SASL_FIRST:
            self._client = _Client.SASL_FINAL
            self._say(Side.CLIENT, "AuthenticationSASLContinue", messages.AuthenticationSaslContinue(answer).build())
            return []
        self._client = _Client.WAITING
        self._say(Side.CLIENT, "AuthenticationSASLFinal", messages.AuthenticationSaslFinal(answer).build())
        return self._ask(CredentialQuestion(self._wishes.database))

    # The target.

    def _read_target(self) -> None:
        words = self._planned[Side.CLIENT]
        last = words[-1] if words else None
        match self._target:
            case _Target.TLS_ANSWER:
                self._read_tls_answer()
            case _Target.REQUEST | _Target.SASL_CONTINUE | _Target.SASL_FINAL | _Target.ANSWERED | _Target.SETTINGS:
                self._read_messages()
            case _Target.ABSENT | _Target.HANDSHAKE:
                if self._received[Side.TARGET]:
                    raise PeerError("a target that speaks before its turn")
            case _:
                pass
        if words and words[-1] is not last:
            # What was read here is told to the client; the event makes the relay ask for the client's next.
            self._plan_passage(Side.TARGET, list)
        elif self._target is not _Target.READY:
            self._read_end(Side.TARGET)

    def _read_tls_answer(self) -> None:
        data = self._received[Side.TARGET]
        if not data:
            return
        if data[:1] == b"S":
            self._refuse_target_stuffing()
            self._target = _Target.HANDSHAKE
            self._received[Side.TARGET] = b""
            self._plan_passage(Side.TARGET, self._start_target_tls)
        elif data[:1] in (b"N", b"E"):
            self._fail("08006", "the target does not offer TLS, and this resource requires it")
        else:
            raise PeerError("a target that answers an SSLRequest with neither S nor N")

    def _refuse_target_stuffing(self) -> None:
        if len(self._received[Side.TARGET]) > 1:
            raise PeerError("a target that sends bytes in clear behind its agreement to TLS")

    def _start_target_tls(self) -> list[Act]:
        if self._received[Side.TARGET]:
            raise PeerError("a target that sends bytes in clear behind its agreement to TLS")
        return [StartTls(Side.TARGET, (ALPN,))]

    def _send_startup(self) -> None:
        wishes = self._wishes
        assert wishes is not None
        settings = {name: value for name, value in self._extra.items() if name not in dict(wishes.parameters)}
        settings |= dict(wishes.parameters)
        # What everything is read by is asked for by name, because a role may have another default.
        settings |= {"standard_conforming_strings": "on", "client_encoding": "UTF8"}
        if wishes.search_path is not None:
            self.search_path = tuple(self.account if name == "$user" else name for name in wishes.search_path)
            settings["search_path"] = write_search_path(self.search_path)
        packet = messages.StartupMessage(
            3, 0, (("user", self.account), ("database", wishes.database), *settings.items())
        ).build()
        if self._received[Side.TARGET]:
            raise PeerError("a target that speaks before its turn")
        self._target = _Target.REQUEST
        self._target_framer = messages.Framer(_TARGET_BOUNDS)
        self._say(Side.TARGET, "StartupMessage", packet, f"user={self.account} database={wishes.database}")

    def _read_messages(self) -> None:
        framer = self._target_framer
        assert framer is not None
        # Bounded by what has arrived; what has no event of its own changes nothing outside.
        while not self._planned[Side.TARGET] and self._target in _READING and (found := framer.next()) is not None:
            code, payload = found
            if code == messages.ERROR_RESPONSE:
                self._take_error(messages.Report.read(payload))
            elif code == messages.NOTICE_RESPONSE:
                messages.Report.read(payload)  # about our account, not the client's
            elif code == messages.AUTHENTICATION:
                self._take_request(messages.read_authentication(payload))
            elif self._target is _Target.SETTINGS:
                self._take_setting(code, payload)
            else:
                raise PeerError(f"a target that sends a message of type {chr(code)!r} before the login is complete")

    def _take_setting(self, code: int, payload: bytes) -> None:
        match code:
            case messages.PARAMETER_STATUS:
                status = messages.ParameterStatus.read(payload)
                self._parameters[status.name] = status.value
                if len(self._parameters) > PARAMETERS_MAX:
                    raise PeerError(f"a target that reports more than {PARAMETERS_MAX} settings")
            case messages.BACKEND_KEY_DATA:
                if self.target_key is not None:
                    raise PeerError("a target that gives two cancel keys")
                self.target_key = messages.BackendKeyData.read(payload).key
                # Clients compare the process id with pg_backend_pid() and with the sender of a notification, to know
                # their own. The secret behind it stays ours.
                self.own_key = self.target_key[:4] + self.own_key[4:]
            case messages.READY_FOR_QUERY:
                if messages.ReadyForQuery.read(payload).status != "I":
                    raise PeerError("a target whose new session is inside a transaction")
                self._finish()
            case _:
                raise PeerError(f"a target that sends a message of type {chr(code)!r} before it is ready")

    def _finish(self) -> None:
        self._target = _Target.READY
        for name, expected in _REQUIRED.items():
            if self._parameters.get(name) != expected:
                self._fail("0A000", f"the target's session does not have {name} = {expected}, by which all text is read")
                return
        words = [messages.AuthenticationOk().build()]
        words += [messages.ParameterStatus(name, value).build() for name, value in self._parameters.items()]
        words.append(messages.BackendKeyData(self.own_key).build())
        self._plan_client("login complete", lambda: self._hand_over(b"".join(words)))

    def _hand_over(self, words: bytes) -> list[Act]:
        self.is_done = True
        # The key is known everywhere before the client has it.
        return [RegisterKey(self.own_key), Send(Side.CLIENT, 0, words), SetTimer(TIMER, 0)]

    def _take_request(self, request: messages.Authentication) -> None:
        match self._target, request:
            case ((_Target.REQUEST | _Target.ANSWERED), messages.AuthenticationOk()):
                self._target = _Target.SETTINGS
            case _, messages.AuthenticationOk() if self._target is not _Target.SETTINGS:
                self._fail("28000", "the target let the gateway in without proving that it knows the secret")
            case _Target.REQUEST, messages.AuthenticationCleartextPassword():
                if self.is_over_tls(Side.TARGET):
                    self._challenge("cleartext", "only", b"")
                else:
                    self._fail("28000", "the target asks for a password in clear on a connection without TLS")
            case _Target.REQUEST, messages.AuthenticationMd5Password(salt):
                self._challenge("md5", "only", salt)
            case _Target.REQUEST, messages.AuthenticationSasl(mechanisms):
                facts = self._facts.get(Side.TARGET)
                if PLUS in mechanisms and facts is not None and facts.end_point:
                    self._mechanism = PLUS
                elif PLAIN in mechanisms:
                    self._mechanism = PLAIN
                else:
                    self._fail("28000", "the target asks for a login of a kind that the gateway does not have")
                    return
                self._challenge(self._mechanism, "first", b"")
            case _Target.SASL_CONTINUE, messages.AuthenticationSaslContinue(token):
                self._challenge(self._mechanism, "final", token)
            case _Target.SASL_FINAL, messages.AuthenticationSaslFinal(token):
                self._challenge(self._mechanism, "verify", token)
            case _Target.REQUEST, messages.AuthenticationOther():
                self._fail(
                    "28000",
                    "the target asks for a login of a kind that the gateway does not have (Kerberos, GSSAPI or SSPI)",
                    hint="Let the gateway's account log in by SCRAM-SHA-256, MD5, or a password over TLS.",
                )
            case _:
                raise PeerError("a target whose authentication messages are out of order")

    def _challenge(self, mechanism: str, step: str, challenge: bytes) -> None:
        facts = self._facts.get(Side.TARGET)
        binding = facts.end_point if facts is not None and mechanism == PLUS else b""
        question = ChallengeQuestion(mechanism, step, challenge, binding, over_tls=facts is not None)
        self._target = _Target.ASKED
        self._plan_passage(Side.TARGET, lambda: self._ask(question))

    def _take_reply(self, question: ChallengeQuestion, reply: object) -> None:
        if not isinstance(reply, bytes) or (question.step == "only" and b"\0" in reply):
            if question.step == "verify":
                self._fail("28000", "the target could not prove that it knows the secret")
            else:
                self._fail("28000", "the gateway's login at the target could not be answered")
            return
        match question.step:
            case "only":
                self._target = _Target.ANSWERED
                self._say(Side.TARGET, "PasswordMessage", messages.Password(reply).build(), question.mechanism)
            case "first":
                self._target = _Target.SASL_CONTINUE
                token = messages.SaslInitialResponse(question.mechanism, reply).build()
                self._say(Side.TARGET, "SASLInitialResponse", token, question.mechanism)
            case "final":
                self._target = _Target.SASL_FINAL
                self._say(Side.TARGET, "SASLResponse", messages.LoginToken(reply).build(), question.mechanism)
            case _:
                self._target = _Target.ANSWERED

    def _take_error(self, report: messages.Report) -> None:
        message = report.message if report.sqlstate in _PASSED_ERRORS else "the target refused the gateway's login"
        # A connection error where the target's own word is no SQLSTATE.
        sqlstate = report.sqlstate if _SQLSTATE.fullmatch(report.sqlstate) else "08006"
        self._fail(sqlstate, message, why=f"the target refused the login with {sqlstate}")

    # Both.

    def _plan_passage(self, side: Side, acts: Callable[[], list[Act]]) -> None:
        self._planned[side].append(_Planned(Passage(side, 0), acts))

    def _plan_client(self, purpose: str, acts: Callable[[], list[Act]]) -> None:
        self._planned[Side.CLIENT].append(_Planned(Own(Side.CLIENT, 0, purpose), acts))

    def _say(self, side: Side, purpose: str, data: bytes, shown: str = "") -> None:
        self._planned[side].append(_Planned(Own(side, 0, purpose, shown), lambda: [Send(side, 0, data)]))

    def _ask(self, question: Question) -> list[Act]:
        self._asked = question
        return [Ask(question)]

    def _stop(self) -> None:
        self._client = _Client.OVER
        self._target = _Target.OVER
        self._asked = None
        for side in Side:
            self._planned[side].clear()
            carried = self._carried[side]
            if carried is not None:  # what it would have led to is void
                self._carried[side] = _Planned(carried.event, list)

    def _fail(self, sqlstate: str, message: str, detail: str = "", hint: str = "", why: str = "") -> None:
        """Tell the client, as its next event, and close. The first failure counts."""
        if self._client is _Client.OVER or self.is_done:
            return
        is_in_handshake = self._client is _Client.HANDSHAKE
        self._stop()
        acts: list[Act] = [Close(why or message)]
        if not is_in_handshake:  # a word in clear would be none the client could read
            acts.insert(0, Send(Side.CLIENT, 0, messages.error_response("FATAL", sqlstate, message, detail, hint)))
        self._planned[Side.CLIENT].append(_Planned(Own(Side.CLIENT, 0, "error", f"{sqlstate} {message}"), lambda: acts))


_READING: Final = frozenset({_Target.REQUEST, _Target.SASL_CONTINUE, _Target.SASL_FINAL, _Target.ANSWERED, _Target.SETTINGS})


def _detail(refusal: Refuse) -> str:
    return f"Refused by rule {refusal.rule}." if refusal.rule is not None else "No rule covers it."
