"""A PostgreSQL flow from its first byte to its last: the login, the reading of the catalogue, the session, in this order."""

from __future__ import annotations

from collections.abc import Callable

from appliance.decisions import Verdict
from appliance.errors import AmendmentError
from appliance.events import NEED_DATA, Command, Event, NeedData, Own
from appliance.parties import Side
from appliance.protocols.inspector import Act, Ask, CatalogueQuestion, Close, FastLane, Question, Send, TlsFacts
from appliance.protocols.postgres import messages
from appliance.protocols.postgres.login import Login
from appliance.protocols.postgres.readings import ReadingCache
from appliance.protocols.postgres.session import Session
from appliance.settings import TlsSettings
from appliance.sql.catalogue import Catalogue


class PostgresInspector:
    """protocols.inspector.Inspector for PostgreSQL's protocol 3.

    `tls` is the resource's; `placeholder` the agent's SCRAM verifier, or None; `random` gives that many random bytes;
    `own_key` is the cancel key shown to the client (8 bytes); `readings` is shared by the flows of one caller to one
    resource.
    """

    __slots__ = (
        "_asked",
        "_first_word",
        "_given",
        "_is_over",
        "_login",
        "_readings",
        "_session",
        "fast_lane",
    )

    def __init__(
        self,
        *,
        tls: TlsSettings,
        placeholder: str | None,
        random: Callable[[int], bytes],
        own_key: bytes,
        readings: ReadingCache,
    ) -> None:
        # Gone once the session has begun: it is as large as all else that an idle flow keeps.
        self._login: Login | None = Login(
            client_tls=tls.client, target_tls=tls.target, placeholder=placeholder, random=random, own_key=own_key
        )
        self._readings = readings
        self._asked: CatalogueQuestion | None = None
        self._first_word: tuple[Own, list[Act]] | None = None
        self._given: Own | None = None
        self._is_over = False
        self._session: Session | None = None
        self.fast_lane: FastLane | None = None

    def opening_acts(self) -> list[Act]:
        """What is to be done before the first byte."""
        return self._logging_in().opening_acts()

    def receive(self, side: Side, data: bytes) -> None:
        """Take what a side sent."""
        if self._session is not None:
            self._session.receive(side, data)
        else:
            self._logging_in().receive(side, data)

    def end(self, side: Side) -> None:
        """That side sends no more."""
        if self._session is not None:
            self._session.end(side)
        else:
            self._logging_in().end(side)

    def next_event(self, side: Side) -> Event | NeedData:
        """The next event of a side. While the catalogue is being read nothing of the session is parsed."""
        if self._first_word is not None:
            if side is Side.TARGET or self._given is not None:
                return NEED_DATA
            self._given = self._first_word[0]
            return self._given
        if self._session is not None:
            return self._session.next_event(side)
        if self._asked is not None or self._is_over:
            return NEED_DATA
        return self._logging_in().next_event(side)

    def carry_out(self, event: Event, verdict: Verdict) -> list[Act]:
        """What to do about an event."""
        if self._first_word is not None and event is self._given:
            acts = self._first_word[1]
            self._first_word = self._given = None
            if self._session is not None:
                self.fast_lane = self._session.fast_lane
            return acts
        if self._session is not None:
            return self._session.carry_out(event, verdict)
        login = self._logging_in()
        acts = login.carry_out(event, verdict)
        if login.is_done and self._asked is None:
            self._asked = CatalogueQuestion(login.database)
            acts = [*acts, Ask(self._asked)]
        return acts

    def answer(self, question: Question, reply: object) -> list[Act]:
        """A reply; the first catalogue begins the session."""
        if self._session is not None:
            return self._session.answer(question, reply)
        if question is not self._asked or self._asked is None:
            return self._logging_in().answer(question, reply)
        self._asked = None
        if isinstance(reply, Catalogue):
            self._begin(reply)
            self._first_word = (
                Own(Side.CLIENT, 0, "ready"),
                [Send(Side.CLIENT, 0, messages.ReadyForQuery("I").build())],
            )
        else:
            reason = "the gateway cannot read the target's catalogue"
            self._is_over = True
            error = messages.error_response("FATAL", "57P03", reason, hint="Try again later; an operator has to mend it.")
            self._first_word = (Own(Side.CLIENT, 0, "error", reason), [Send(Side.CLIENT, 0, error), Close(reason)])
        return []

    def _begin(self, catalogue: Catalogue) -> None:
        login = self._logging_in()
        self._session = Session(
            catalogue=catalogue,
            # Without a wish of the client the role's default for the database holds, which the catalogue names.
            search_path=catalogue.search_path if login.search_path is None else login.search_path,
            target_key=login.target_key or b"",
            is_target_tls=login.is_over_tls(Side.TARGET),
            readings=self._readings,
            client_pending=login.leftover(Side.CLIENT),
            target_pending=login.leftover(Side.TARGET),
        )
        for side in Side:
            if login.has_ended(side):
                self._session.end(side)
        self._login = None

    def _logging_in(self) -> Login:
        assert self._login is not None
        return self._login

    def amend(self, command: Command, text: str) -> Command:
        """A command like `command` that runs `text` in its place. Raises AmendmentError where it cannot."""
        if self._session is None:
            raise AmendmentError("the command no longer waits")
        return self._session.amend(command, text)

    def redact(self, command: Command) -> str:
        """The command's text with every literal hidden."""
        return "" if self._session is None else self._session.redact(command)

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have come and are kept. A login's messages have some kilobytes at most, and are not counted."""
        return 0 if self._session is None else self._session.waiting_bytes

    def catalogue_stale(self) -> None:
        """What exists at the target has changed."""
        if self._session is not None:
            self._session.catalogue_stale()

    def cancel(self) -> list[Act]:
        """Cancel what runs at the target."""
        return [] if self._session is None else self._session.cancel()

    def tls_started(self, side: Side, facts: TlsFacts) -> list[Act]:
        """The handshake on that side is done."""
        return self._logging_in().tls_started(side, facts)

    def target_opened(self) -> list[Act]:
        """The connection to the target stands."""
        return self._logging_in().target_opened()

    def target_failed(self, reason: str) -> list[Act]:
        """There is no target."""
        if self._session is not None:
            return self._session.farewell("the connection to the target broke", "connect again")
        return self._logging_in().target_failed(reason)

    def timer(self, name: str) -> list[Act]:
        """A timer has run out."""
        return self._logging_in().timer(name) if self._session is None else []

    def farewell(self, reason: str, advice: str) -> list[Act]:
        """End the flow from our side."""
        if self._session is not None:
            return self._session.farewell(reason, advice)
        return self._logging_in().farewell(reason, advice)
