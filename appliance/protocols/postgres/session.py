"""A PostgreSQL session after its login: what is judged, what stands in for a refused message, when an answer is whole.

A refusal costs the target a statement that cannot be parsed, sent in place of the refused one. The target then fails its
own transaction, keeps its own order and reports its own status, and its error is replaced by ours: nothing about the
session is imitated (see docs/protocols/postgres.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Final

from appliance.decisions import Forward, Hold, Obligations, Refuse, ValueMask, Verdict
from appliance.effects import Action, Effect, Kind, Parameter, effect, unknown
from appliance.errors import AmendmentError, PeerError
from appliance.events import NEED_DATA, Command, Event, Finished, Left, NeedData, NotUnderstood, Own, Passage
from appliance.masking.detectors import Detectors
from appliance.parties import Side
from appliance.protocols.inspector import Act, Ask, CancelAtTarget, CatalogueQuestion, Close, Question, ReadingQuestion, Send
from appliance.protocols.postgres import messages as wire
from appliance.protocols.postgres.amendments import changed_shape, check_amendment, may_amend
from appliance.protocols.postgres.fast_lane import PostgresFastLane
from appliance.protocols.postgres.parameters import decoded
from appliance.protocols.postgres.pipeline import CopyIn, Entry, Expected, Pipeline
from appliance.protocols.postgres.readings import ReadingCache, depends_on_names
from appliance.protocols.postgres.results import columns_of, in_formats, is_text_like, masks_of, misfit
from appliance.protocols.postgres.rows import MASKED_ROW_SIZE_MAX, Rows
from appliance.protocols.postgres.state import NAMES_MAX, Definition, Portal, SessionState, Standing
from appliance.sql.catalogue import Catalogue
from appliance.sql.reading import (
    NAMELESS,
    ChangeCatalogue,
    DeclareCursor,
    Output,
    Prepare,
    Reading,
    SessionView,
    SetSearchPath,
    Statement,
    Transaction,
)
from appliance.sql.redaction import redact

# What may be read ahead of its turn. The server's output buffer (8 kB, PQ_SEND_BUFFER_SIZE) is emptied after 1,638 answers
# of five bytes, so that a client that never flushes still drains this queue.
_PIPELINE_MAX: Final = 10_000
# What one event takes in of messages that are no commands: a row of COPY data counts for one, all else for _EFFORT. So
# that whoever sends nothing but such lets others have their turn, and a bulk load is not recorded row by row.
_RUN_EFFORT_MAX = 2_000
_EFFORT = 20
# A client may send one command while another waits; more than that stays in the socket.
_WAITING_SIZE_MAX: Final = wire.COMMAND_SIZE_MAX + (4 << 20)
# Rows are passed on in runs of this size, so that one turn of the loop does not hold a whole result.
_RUN_SIZE_MAX: Final = 256 << 10
# A row beyond this is passed in pieces where nobody has to see its values.
_PIECE_SIZE: Final = 64 << 10
# Tags of a text with many statements; a record names the first ones.
_STATUS_LENGTH_MAX: Final = 200
_DETECTORS_MAX: Final = 64
# What the texts of a session's prepared statements may have together, so that their number alone is no way to fill memory.
# One statement may be as long as any other; short ones are counted by NAMES_MAX.
_TEXTS_LENGTH_MAX: Final = wire.COMMAND_SIZE_MAX
_SMALL_TEXT: Final = 4_096

# The name of the statement that is sent to fail, and of those that run a person's version. A client cannot use them.
_OWN_PREFIX: Final = "sluicegate_"

_SESSION_EFFECT: Final = effect(Action.CONNECT, Kind.SESSION)

# What may mean only that our picture of the catalogue is older than the client's statement.
_UNRESOLVED: Final = frozenset({"42P01", "42703", "42883", "42704", "3F000"})

# Statements that are planned at Bind, where their names get their meaning. All others look names up when they are executed
# (EXECUTE, FETCH, TRUNCATE, COPY…), so that what was judged at Bind has to be what they mean by then.
_FIXED_AT_BIND: Final = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", *NAMELESS})

_COPY_CODES: Final = frozenset({wire.COPY_DATA, wire.COPY_DONE, wire.COPY_FAIL})
_COMMAND_CODES: Final = frozenset({wire.QUERY, wire.PARSE, wire.BIND, wire.FUNCTION_CALL})
# What a server may say at any time.
_ASIDES: Final = frozenset({wire.NOTICE_RESPONSE, wire.PARAMETER_STATUS, wire.NOTIFICATION_RESPONSE})
# Answers that complete a command of the extended protocol.
_COMPLETIONS: Final = frozenset(
    {wire.COMMAND_COMPLETE, wire.EMPTY_QUERY_RESPONSE, wire.PORTAL_SUSPENDED, wire.ERROR_RESPONSE}
)


@dataclass(slots=True, eq=False)
class _Plan:
    """A command that was given to the relay and is not carried out yet. `flaw` is an SQLSTATE and a message where it is
    refused whatever policy says. `amended` is the text a person put in its place."""

    event: Command
    message: wire.Query | wire.Parse | wire.Bind | wire.Execute | wire.FunctionCall
    raw: bytes
    reading: Reading | None
    definition: Definition | None = None
    flaw: tuple[str, str] | None = None
    amended: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _OwnWords:
    """Our own message to the target, with the answer it will have (None: none)."""

    purpose: str
    shown: str
    data: bytes
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Deferred:
    """A person's version of a Bind that goes once the target has described it as the client expects."""

    plan: _Plan
    words: _OwnWords
    expected: tuple[wire.Field, ...]


class Session:
    """One session. `search_path` is the one the session began with; `target_key` is the target's cancel key."""

    __slots__ = (
        "_amended",
        "_approved",
        "_asked",
        "_catalogue",
        "_client_acts",
        "_client_event",
        "_client_frames",
        "_copied",
        "_deferred",
        "_detectors",
        "_ended",
        "_finished",
        "_has_asked_anew",
        "_has_left",
        "_is_discarding",
        "_is_over",
        "_is_sequence_failed",
        "_is_stale",
        "_is_target_tls",
        "_is_transaction_quiet",
        "_last_word",
        "_message",
        "_notices",
        "_out",
        "_own",
        "_pipeline",
        "_plan",
        "_readings",
        "_resting",
        "_skipped",
        "_state",
        "_streamed",
        "_target_event",
        "_target_frames",
        "_target_key",
        "fast_lane",
    )

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        search_path: tuple[str, ...],
        target_key: bytes,
        is_target_tls: bool,
        readings: ReadingCache,
        client_pending: bytes = b"",
        target_pending: bytes = b"",
    ) -> None:
        self._catalogue = catalogue
        self._target_key = target_key
        self._is_target_tls = is_target_tls
        self._readings = readings
        self._state = SessionState(search_path)
        self._pipeline = Pipeline()
        self._client_frames = wire.Framer(wire.CLIENT_BOUNDS, client_pending)
        self._target_frames = wire.Framer(wire.TARGET_BOUNDS, target_pending)
        self._ended: frozenset[Side] = frozenset()
        # The client's side.
        self._message: tuple[int, bytes] | None = None  # a command that has been cut but waits to be understood
        self._plan: _Plan | None = None
        self._amended: _Plan | None = None
        self._client_event: Event | None = None
        self._client_acts: list[Act] = []
        self._is_discarding = False
        self._has_left = False
        self._copied = 0  # bytes of COPY data in the run being read
        self._asked: CatalogueQuestion | ReadingQuestion | None = None
        self._approved: tuple[_Plan, Forward] | None = None  # it goes once the catalogue has been read again
        self._is_stale = False
        self._has_asked_anew = False
        # The target's side.
        self._own: list[_OwnWords] = []  # few: while there are any, nothing of the client is read
        self._target_event: Event | None = None
        self._out: list[bytes] = []
        self._finished: Finished | None = None
        self._skipped: deque[int] | None = None  # an empty one has 600 bytes, and most flows are idle
        self._is_sequence_failed = False
        self._is_transaction_quiet = False
        self._streamed: Rows | None = None
        self._notices: list[bytes] = []
        self._detectors: dict[tuple[ValueMask, ...], Detectors] = {}
        self._last_word: tuple[bytes, str] | None = None
        self._is_over = False
        self._deferred: _Deferred | None = None
        self._resting: tuple[SessionView, Catalogue] | None = None
        self.fast_lane = PostgresFastLane(self._state, self._pipeline, readings, self._rest, self._detectors_for)

    # Bytes in.

    def receive(self, side: Side, data: bytes) -> None:
        """Take what a side sent."""
        self._leave_fast_lane()
        frames = self._client_frames if side is Side.CLIENT else self._target_frames
        frames.feed(data)
        if side is Side.CLIENT and len(frames) > _WAITING_SIZE_MAX:
            raise PeerError("more sent ahead of its turn than is kept")

    def end(self, side: Side) -> None:
        """That side sends no more."""
        self._leave_fast_lane()
        self._ended |= {side}

    # The fast lane.

    def _rest(self) -> tuple[SessionView, Catalogue] | None:
        """What names mean, the same objects while they mean the same; None while anything is under way, or how the open
        transaction ends or what it has changed may count for the next command."""
        state = self._state
        if (
            self._message is not None
            or self._plan is not None
            or self._client_event is not None
            or self._target_event is not None
            or self._asked is not None
            or self._approved is not None
            or self._last_word is not None
            or self._deferred is not None
            or self._streamed is not None
            or self._finished is not None
            or self._own
            or self._out
            or self._skipped is not None
            or self._ended
            or self._is_over
            or self._is_discarding
            or self._is_sequence_failed
            or self._must_ask
            or self._pipeline
            or not self._pipeline.is_flushed
            or len(self._client_frames)
            or len(self._target_frames)
            or not state.is_plain
            # What has not been followed by a Sync yet is part of the same transaction, whose end the general path sees.
            or (self._is_transaction_quiet and state.status == "I")
        ):
            return None
        resting, path = self._resting, state.search_path
        if resting is None or resting[0].search_path != path or resting[1] is not self._catalogue:
            resting = self._resting = (state.view(), self._catalogue)
        return resting

    def _leave_fast_lane(self) -> None:
        """Whatever comes now is for the general path, which waits for the answer to what the fast lane has sent."""
        lane = self.fast_lane
        lane.leave()
        if not lane.is_away:
            return
        sent = lane.hand_back()
        statement, obligations = sent.statement, sent.obligations
        if sent.definition is None:
            self._expect_results(sent.number, (statement,), obligations)
            return
        pipeline, state = self._pipeline, self._state
        if sent.parsed:
            entry = Entry(Expected.PARSE, number=sent.parsed, obligations=obligations, definition=sent.definition)
            pipeline.push(entry)
            state.statements.hope("", sent.definition, entry, pipeline.sequence)
        portal = Portal(sent.number, obligations, statement, statement.outputs, sent.definition, sent.formats)
        entry = Entry(Expected.BIND, number=sent.number, obligations=obligations, portal=portal)
        pipeline.push(entry)
        state.portals.hope("", portal, entry, pipeline.sequence)
        if sent.is_described:
            self._describe(wire.Describe("P", ""))
        self._execute(wire.Execute(""), portal, b"", [], [])
        self._sync()

    # Events out.

    def next_event(self, side: Side) -> Event | NeedData:
        """The next event of a side."""
        if self._is_over:
            return NEED_DATA
        if side is Side.TARGET:
            event = self._next_of_target()
            if event is not None:
                self._target_event = event
        else:
            event = self._next_of_client()
            if event is not None:
                self._client_event = event
        return NEED_DATA if event is None else event

    def carry_out(self, event: Event, verdict: Verdict) -> list[Act]:
        """What to do about an event."""
        match event:
            case Command():
                return self._carry_command(event, verdict)
            case NotUnderstood():
                return self._end_with("08P01", event.what)
            case Left(side=Side.CLIENT):
                self._client_event = None
                self._is_over = True
                return [Send(Side.TARGET, 0, wire.Terminate().build()), Close("the client left")]
            case Left():
                self._target_event = None
                self._is_over = True
                last = wire.error_response("FATAL", "08006", "the target closed the connection")
                return [*self._sends(), Send(Side.CLIENT, 0, last), Close("the target closed the connection")]
            case Own(side=Side.TARGET):
                self._target_event = None
                words = self._own.pop(0)
                for entry in words.entries:
                    self._pipeline.push(entry)
                if not words.entries:
                    self._pipeline.is_flushed = True
                return [Send(Side.TARGET, 0, words.data)]
            case _ if event.side is Side.CLIENT:
                self._client_event = None
                acts, self._client_acts = self._client_acts, []
                return acts
            case _:
                self._target_event = None
                return self._sends()

    def _sends(self) -> list[Act]:
        acts: list[Act] = []
        if self._out:
            out = self._out
            acts.append(Send(Side.CLIENT, 0, out[0] if len(out) == 1 else b"".join(out)))
            self._out = []
        if self._last_word is not None:
            data, reason = self._last_word
            self._is_over = True
            if self._streamed is None:  # in the middle of a row there is no place for a word
                acts.append(Send(Side.CLIENT, 0, data))
            acts.append(Close(reason))
        return acts

    def _end_with(self, sqlstate: str, reason: str) -> list[Act]:
        self._is_over = True
        return [Send(Side.CLIENT, 0, wire.error_response("FATAL", sqlstate, reason)), Close(reason)]

    # The rest of what an inspector offers.

    def answer(self, question: Question, reply: object) -> list[Act]:
        """The catalogue, read anew, or a text, read elsewhere."""
        if question is not self._asked and question != self._asked:
            raise ValueError("an answer to a question that was not asked")
        self._asked = None
        if isinstance(question, ReadingQuestion):
            if isinstance(reply, Reading):
                self._readings.take(question.text, question.catalogue, question.session, reply)
            else:
                reason = "the gateway cannot read long statements"
                self._last_word = (wire.error_response("FATAL", "57P03", reason), reason)
        elif isinstance(reply, Catalogue):
            self._catalogue = reply
        else:
            reason = "the gateway cannot read the target's catalogue"
            self._last_word = (wire.error_response("FATAL", "57P03", reason), reason)
        return []

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have come and are kept: unread ones, and the command that waits to be understood or judged."""
        waiting = len(self._client_frames) + len(self._target_frames)
        if self._message is not None:
            waiting += len(self._message[1])
        if self._plan is not None:
            waiting += len(self._plan.raw)
        return waiting

    def catalogue_stale(self) -> None:
        """What exists at the target has changed."""
        self.fast_lane.leave()
        self._is_stale = True

    def cancel(self) -> list[Act]:
        """Cancel what runs at the target, if something does."""
        self._leave_fast_lane()
        if not self._pipeline or self._is_over:
            return []
        upgrade = wire.SslRequest().build() if self._is_target_tls else b""
        return [CancelAtTarget(wire.CancelRequest(self._target_key).build(), upgrade)]

    def farewell(self, reason: str, advice: str) -> list[Act]:
        """End the session from our side."""
        if self._is_over:
            return []
        self._leave_fast_lane()
        self._is_over = True
        acts: list[Act] = []
        if self._streamed is None:  # in the middle of a row there is no place for a word
            acts.append(Send(Side.CLIENT, 0, wire.error_response("FATAL", "57P01", reason, hint=advice)))
        return [*acts, Send(Side.TARGET, 0, wire.Terminate().build()), Close(reason)]

    def redact(self, command: Command) -> str:
        """The command's text with every literal hidden."""
        known = self._readings.find(command.text, self._catalogue, self._state.view())
        return redact(command.text, hide_literals=True) if known is None else known.hidden

    # What the client says.

    def _next_of_client(self) -> Event | None:
        if self._client_event is not None or self._own or self._deferred is not None:
            return None
        if self._asked is not None or self._last_word is not None:
            return None
        approved, self._approved = self._approved, None
        try:
            return self._read_client() if approved is None else self._carry_approved(*approved)
        except PeerError as error:
            return NotUnderstood(Side.CLIENT, 0, error.said, frozenset({unknown(error.said)}))

    def _read_client(self) -> Event | None:
        """Take housekeeping messages as far as they may pass, in one event; or one command; or nothing yet."""
        run: list[bytes] = []
        notes: list[str] = []
        discarded = effort = 0
        while len(self._pipeline) < _PIPELINE_MAX and effort < _RUN_EFFORT_MAX:
            if self._message is None:
                header = self._client_frames.peek()
                if header is None or not self._may_read(header[0]):
                    break
                if run and (header[0] in _COMMAND_CODES or header[0] == wire.TERMINATE):
                    break  # what stands before a command goes first, so that the command is the only thing that waits
                taken = self._client_frames.payload(header[1])
                if taken is None:
                    break
                self._message = header[0], taken
            code, payload = self._message
            effort += 1 if code == wire.COPY_DATA else _EFFORT
            if self._is_discarding and code not in (wire.SYNC, wire.TERMINATE):
                wire.read_client(code, payload)
                self._message = None
                discarded += 1
                continue
            if code == wire.TERMINATE:
                wire.Terminate.read(payload)
                self._message = None
                return Left(Side.CLIENT, 0)
            copying = self._pipeline.copy_entry()
            if copying is not None and copying.copy is CopyIn.RUNNING and code not in _COPY_CODES:
                self._message = None
                self._interrupt_copy(code, payload, copying, run, notes)
                continue
            if code in _COMMAND_CODES:
                return self._read_command(code, payload)
            if code == wire.EXECUTE:
                execute = wire.Execute.read(payload)
                portal = self._state.portals.find(execute.portal, self._pipeline.sequence)
                if portal is Standing.UNSETTLED:
                    break
                if portal is Standing.ABSENT:
                    if run:
                        break
                    return self._unknown_name(execute, "34000", f'portal "{execute.portal}" does not exist')
                assert isinstance(portal, Portal)
                if portal.bound is not None and (self._must_ask or portal.bound[0] != self._mark()):
                    if run or notes:
                        break
                    if self._must_ask:
                        return self._ask_catalogue()
                    if not self._means_the_same(portal.definition, portal.bound[1]):
                        return self._unknown_name(execute, "55000", "its names mean something else since it was bound")
                self._message = None
                self._execute(execute, portal, payload, run, notes)
                continue
            self._message = None
            if not self._pass_housekeeping(code, payload, run, notes):
                raise PeerError(f"a message of type {chr(code)!r} in a session")
        if self._copied:
            # Clients send a message for each row; what is worth keeping is how much went.
            notes.insert(0, f"COPY data, {self._copied} bytes")
            self._copied = 0
        if discarded:
            notes.append(f"{discarded} messages discarded up to Sync, after an error")
        if run or notes or effort >= _RUN_EFFORT_MAX:
            self._client_acts = [Send(Side.TARGET, 0, run[0] if len(run) == 1 else b"".join(run))] if run else []
            return Passage(Side.CLIENT, 0, "; ".join(notes) or None)
        return self._client_end()

    def _client_end(self) -> Event | None:
        """An end of stream counts once everything before it is answered, as far as it will be."""
        if not self._ended or Side.CLIENT not in self._ended or self._has_left:
            return None
        if not (self._pipeline.awaits_ready or self._pipeline.barriers):
            self._has_left = True
            return Left(Side.CLIENT, 0)
        return None

    def _may_read(self, code: int) -> bool:
        """Whether a message of that type may be taken while something before it is not answered."""
        if not self._pipeline.barriers or code == wire.TERMINATE or self._is_discarding:
            return True
        copying = self._pipeline.copy_entry()
        if copying is not None and copying.copy is CopyIn.RUNNING:
            return True
        if code in _COPY_CODES and copying is None:
            return True  # data that comes too late; the server ignores it
        if code in (wire.SYNC, wire.FLUSH) and (
            # While it is not known whether the server wants data, it is not known whether it would ignore a Sync.
            copying is None or (copying.copy is CopyIn.ENDED and copying.expected is Expected.EXECUTE)
        ):
            return True
        if not self._pipeline.is_flushed and not self._own:
            words = _OwnWords("flush", "Flush", wire.Flush().build())
            self._own.append(words)
        return False

    def _pass_housekeeping(self, code: int, payload: bytes, run: list[bytes], notes: list[str]) -> bool:
        """Take a message that changes nothing policy could be asked about."""
        match code:
            case wire.SYNC:
                wire.Sync.read(payload)
                self._sync()
                self._is_discarding = False
            case wire.FLUSH:
                wire.Flush.read(payload)
                self._pipeline.is_flushed = True
            case wire.DESCRIBE:
                self._describe(wire.Describe.read(payload))
            case wire.CLOSE:
                close = wire.CloseMessage.read(payload)
                entry = Entry(Expected.CLOSE, name=close.name, sort=close.sort)
                self._pipeline.push(entry)
                if close.sort == "S":
                    self._state.statements.hope(close.name, None, entry, self._pipeline.sequence)
                else:
                    self._state.portals.hope(close.name, None, entry, self._pipeline.sequence)
            case wire.COPY_DATA:
                self._copied += len(payload)
            case wire.COPY_DONE | wire.COPY_FAIL:
                wire.read_client(code, payload)
                notes.append("end of COPY data" if code == wire.COPY_DONE else "COPY given up by the client")
                copying = self._pipeline.copy_entry()
                if copying is not None and copying.copy is CopyIn.RUNNING:
                    copying.copy = CopyIn.ENDED
            case _:
                return False
        run.append(wire.frame(code, payload))
        return True

    def _sync(self) -> None:
        is_barrier = self._pipeline.barriers > 0 or self._state.hangs_on_outcome
        self._pipeline.push(Entry(Expected.SYNC, is_barrier=is_barrier))
        self._pipeline.sequence += 1

    def _interrupt_copy(self, code: int, payload: bytes, copying: Entry, run: list[bytes], notes: list[str]) -> None:
        """A message that is not data, while the server reads data: it ignores Flush and Sync, and fails on anything else
        without carrying it out (copyfromparse.c, CopyGetData). We fail it in its place, so that what came is not sent."""
        wire.read_client(code, payload)
        if code in (wire.FLUSH, wire.SYNC):
            notes.append(f"a message of type {chr(code)!r} during COPY, ignored")
            return
        notes.append(f"a message of type {chr(code)!r} during COPY, which ends it")
        copying.copy = CopyIn.ENDED
        run.append(wire.CopyFail(f"unexpected message type 0x{code:02X} during COPY from stdin").build())

    def _describe(self, describe: wire.Describe) -> None:
        entry = Entry(Expected.DESCRIBE, name=describe.name, sort=describe.sort)
        if describe.sort == "S":
            definition = self._state.statements.find(describe.name, self._pipeline.sequence)
            if isinstance(definition, Definition):
                entry.definition = definition
        else:
            portal = self._state.portals.find(describe.name, self._pipeline.sequence)
            if isinstance(portal, Portal):
                entry.portal = portal
                portal.is_described = True
                entry.obligations = portal.obligations
        self._pipeline.push(entry)

    def _execute(self, execute: wire.Execute, portal: Portal, payload: bytes, run: list[bytes], notes: list[str]) -> None:
        detectors = self._detectors_of(portal.obligations)
        is_seen = detectors is not None or portal.obligations.quiet
        if is_seen and not portal.is_described and portal.fields is None and not self._may_infer_fields(portal):
            portal.is_described = True
            describe = wire.Describe("P", execute.portal)
            self._pipeline.push(Entry(Expected.DESCRIBE, portal=portal, sort="P", name=execute.portal, is_own=True))
            run.append(describe.build())
            notes.append("our own Describe, to know the types of what is masked")
        if portal.executions:
            notes.append(f"Execute of command {portal.number} again")
        portal.executions += 1
        statements = () if portal.statement is None else (portal.statement,)
        is_copy = any(statement.copies == "in" for statement in statements)
        entry = Entry(
            Expected.EXECUTE,
            number=portal.number,
            obligations=portal.obligations,
            statements=statements,
            rows=Rows(detectors),
            portal=portal,
            is_barrier=is_copy or self._is_barrier(statements),
            copy=CopyIn.AWAITED if is_copy else CopyIn.NONE,
        )
        self._pipeline.push(entry)
        run.append(wire.frame(wire.EXECUTE, payload))

    def _may_infer_fields(self, portal: Portal) -> bool:
        # What a FETCH or EXECUTE returns may have changed since its own statement was described.
        return portal.definition is not None and portal.definition.fields is not None and portal.bound is None

    # Commands.

    def _read_command(self, code: int, payload: bytes) -> Event | None:
        if self._must_ask:
            return self._ask_catalogue()
        message = wire.read_client(code, payload)
        match message:
            case wire.Query(text=text):
                return self._read_text(message, code, payload, text, None)
            case wire.Parse(name=name, text=text):
                if name.startswith(_OWN_PREFIX):
                    return self._unknown_name(message, "42602", f"prepared statement names in {_OWN_PREFIX}* are reserved")
                if len(self._state.statements) >= NAMES_MAX:
                    return self._unknown_name(message, "53400", f"more than {NAMES_MAX} prepared statements")
                if len(text) > _SMALL_TEXT and self._state.statement_letters + len(text) > _TEXTS_LENGTH_MAX:
                    said = f"prepared statements of more than {_TEXTS_LENGTH_MAX} characters"
                    return self._unknown_name(message, "53400", said)
                return self._read_text(message, code, payload, text, None)
            case wire.Bind(statement=name, portal=portal):
                definition = self._state.statements.find(name, self._pipeline.sequence)
                if definition is Standing.UNSETTLED:
                    return None
                if not isinstance(definition, Definition):
                    shown = (
                        f'prepared statement "{name}" does not exist'
                        if name
                        else "unnamed prepared statement does not exist"
                    )
                    return self._unknown_name(message, "26000", shown)
                if self._state.portals.find(portal, self._pipeline.sequence) is Standing.UNSETTLED and portal:
                    return None
                if len(self._state.portals) >= NAMES_MAX:
                    return self._unknown_name(message, "53400", f"more than {NAMES_MAX} portals")
                return self._read_text(message, code, payload, definition.text, definition)
            case wire.FunctionCall(function=function):
                return self._unknown_name(
                    message, "0A000", f"calling function {function} by the fast-path protocol is refused"
                )
            case _:
                raise PeerError(f"a message of type {chr(code)!r} in a session")

    def _ask_catalogue(self, *, is_guess: bool = False) -> Event:
        version = self._catalogue.version
        self._is_stale = False
        self._state.is_catalogue_due = False
        self._asked = CatalogueQuestion(self._catalogue.database, version, is_guess)
        self._client_acts = [Ask(self._asked)]
        return Passage(Side.CLIENT, 0)

    def _read_text(
        self,
        message: wire.Query | wire.Parse | wire.Bind,
        code: int,
        payload: bytes,
        text: str,
        definition: Definition | None,
    ) -> Event | None:
        if depends_on_names(text) and not self._state.has_settled_names(self._pipeline.sequence):
            return None
        if self._readings.wants_help(text, self._catalogue, self._view_for(text)):
            self._asked = ReadingQuestion(text, self._catalogue, self._view_for(text))
            self._client_acts = [Ask(self._asked)]
            return Passage(Side.CLIENT, 0)
        reading, key = self._reading_of(text)
        if reading.problem is not None and reading.problem.sqlstate in _UNRESOLVED and not self._has_asked_anew:
            self._has_asked_anew = True
            return self._ask_catalogue(is_guess=True)
        self._has_asked_anew = False
        self._message = None
        self._pipeline.number += 1
        parameters: tuple[Parameter, ...] = ()
        if isinstance(message, wire.Bind) and definition is not None:
            parameters = decoded(message, definition.types)
        event = self._command(type(message).__name__, self._pipeline.number, text, reading, key, parameters)
        self._plan = _Plan(event, message, wire.frame(code, payload), reading, definition)
        return event

    def _command(
        self, sort: str, number: int, text: str, reading: Reading, key: Hashable, parameters: tuple[Parameter, ...]
    ) -> Command:
        effects = reading.effects or frozenset({_SESSION_EFFECT})
        added = self._unsound(reading)
        if added is not None:
            effects, key = effects | {added}, None
        return Command(
            Side.CLIENT,
            0,
            number,
            sort,
            text,
            reading.shown,
            effects,
            parameters,
            key,
            may_amend=sort != "Parse" and may_amend(reading),
            may_hold=sort != "Parse",
            in_transaction=self._state.status != "I",
            problem=None if reading.problem is None else reading.problem.message,
            search_path=self._state.search_path,
            is_private=self._state.is_private,
        )

    def _unsound(self, reading: Reading) -> Effect | None:
        """What the session's state makes of a statement that is sound elsewhere."""
        for statement in reading.statements:
            match statement.change:
                case SetSearchPath() if self._state.savepoints:
                    return unknown("search_path is changed while a savepoint is open, which may take it back")
                case Transaction(sort="savepoint") if self._state.savepoints >= NAMES_MAX:
                    return unknown("more savepoints than are kept")
                case None | ChangeCatalogue() | Prepare() | DeclareCursor() if (
                    self._state.is_unclear and statement.sort not in NAMELESS
                ):
                    return unknown("the open transaction has changed what exists in a way that shows only after it")
                case _:
                    pass
        return None

    def _reading_of(self, text: str) -> tuple[Reading, Hashable]:
        return self._readings.read(text, self._catalogue, self._view_for(text))

    def _view_for(self, text: str) -> SessionView:
        return self._state.view_with_names() if depends_on_names(text) else self._state.view()

    def _unknown_name(
        self, message: wire.Parse | wire.Bind | wire.Execute | wire.FunctionCall, sqlstate: str, problem: str
    ) -> Command:
        """A command that is refused whatever policy says, and recorded like any other."""
        self._pipeline.number += 1
        self._message = None
        event = Command(
            Side.CLIENT,
            0,
            self._pipeline.number,
            type(message).__name__,
            "",
            "",
            frozenset({unknown(problem)}),
            may_hold=False,
            in_transaction=self._state.status != "I",
            problem=problem,
        )
        self._plan = _Plan(event, message, b"", None, flaw=(sqlstate, problem))
        return event

    # Verdicts.

    def _carry_command(self, event: Command, verdict: Verdict) -> list[Act]:
        plan = self._plan
        if self._amended is not None and self._amended.event is event:
            plan = self._amended
        if plan is None or plan.event is not event:
            raise ValueError("a command that was not given")
        if isinstance(verdict, Hold):
            return self._tell(_asking_notice(verdict))
        self._plan = self._amended = self._client_event = None
        if self._is_discarding:
            # While it waited, the target failed on an earlier message and discards everything up to Sync.
            self._skip(event.number)
            return []
        if isinstance(verdict, Refuse):
            return self._refuse(plan, *_refusal(plan, verdict))
        flaw = plan.flaw or self._flaw(plan, verdict.obligations)
        if flaw is not None:
            return self._refuse(plan, wire.error_response("ERROR", *flaw), flaw[0])
        if verdict.approval is not None:
            # A person takes time, in which another session can give its names another meaning.
            self._is_stale = self._state.is_catalogue_due = False
            self._approved = (plan, verdict)
            self._asked = CatalogueQuestion(self._catalogue.database)
            return [Ask(self._asked)]
        return self._forward(plan, verdict)

    def _carry_approved(self, plan: _Plan, verdict: Forward) -> Event | None:
        """Let what a person approved go, if it still means what that person was shown."""
        number = plan.event.number
        if self._is_discarding:
            self._skip(number)
            return self._read_client()
        now, _ = self._reading_of(plan.event.text)
        if Side.CLIENT in self._ended:
            said, error = "not sent, because the client left", ("57014", "canceling statement due to user request")
        elif plan.reading is None or not self._is_judged_alike(now, plan.reading):
            said = "refused, because it does something else by now than the approver was shown"
            error = ("55000", f"{verdict.approver} approved it, but what exists has changed: it does something else now")
        else:
            self._client_acts = self._forward(plan, verdict)
            return Passage(Side.CLIENT, 0, f"command {number} was read again after its approval and sent")
        self._client_acts = self._refuse(plan, wire.error_response("ERROR", *error), error[0])
        return Passage(Side.CLIENT, 0, f"command {number}: {said}")

    def _tell(self, notice: bytes) -> list[Act]:
        """A word to the client between two messages."""
        if self._streamed is not None:
            self._notices.append(notice)
            return []
        return [Send(Side.CLIENT, 0, notice)]

    def _flaw(self, plan: _Plan, obligations: Obligations) -> tuple[str, str] | None:
        """What keeps obligations from being met."""
        if plan.reading is None:
            return None
        if obligations.fields and plan.reading.problem is not None:
            return "0A000", "the statement cannot be understood, so its masked columns cannot be told"
        if obligations.values and any(s.copies == "out" and s.copies_binary for s in plan.reading.statements):
            return "0A000", "COPY in binary format cannot be masked; use text or CSV format"
        if obligations.values and any(s.copies == "out" and s.copies_oddly for s in plan.reading.statements):
            return "0A000", "COPY with these marks or encoding cannot be masked; use the usual delimiter, quote and escape"
        message = plan.message
        if isinstance(message, wire.Bind) and message.result_formats:
            statement = plan.reading.statements[0] if plan.reading.statements else None
            outputs = None if statement is None else statement.outputs
            positions = masks_of(outputs, self._with_cursors(statement, obligations).fields)
            for position in positions:
                if len(message.result_formats) > 1 and position >= len(message.result_formats):
                    continue  # the server says so itself
                if wire.format_at(message.result_formats, position) == 1 and not is_text_like(outputs, position):
                    return (
                        "0A000",
                        f"column {position + 1} is masked and cannot be given in binary format; ask for text format",
                    )
        return None

    def _forward(self, plan: _Plan, verdict: Forward) -> list[Act]:
        obligations = verdict.obligations
        self._pipeline.values = obligations.values
        if obligations.quiet:
            self._is_transaction_quiet = True
        acts: list[Act] = []
        if plan.amended is not None:
            acts += self._tell(_amended_notice(plan, verdict))
        reading = plan.reading
        assert reading is not None
        match plan.message:
            case wire.Query():
                acts.append(self._forward_query(plan, reading, obligations))
            case wire.Parse() as parse:
                entry = Entry(
                    Expected.PARSE,
                    number=plan.event.number,
                    obligations=obligations,
                    name=parse.name,
                    definition=Definition(parse.text, parse.types),
                )
                self._pipeline.push(entry)
                self._state.statements.hope(parse.name, entry.definition, entry, self._pipeline.sequence)
                acts.append(Send(Side.TARGET, 0, plan.raw))
            case wire.Bind() as bind:
                acts.append(self._forward_bind(plan, bind, reading, obligations))
            case wire.Execute() | wire.FunctionCall():
                raise ValueError("a message that is never forwarded by a verdict")
        return acts

    def _forward_query(self, plan: _Plan, reading: Reading, obligations: Obligations) -> Send:
        statements = reading.statements
        for statement in statements:
            obligations = self._with_cursors(statement, obligations)
        self._expect_results(plan.event.number, statements, obligations)
        return Send(Side.TARGET, 0, plan.raw)

    def _expect_results(self, number: int, statements: tuple[Statement, ...], obligations: Obligations) -> None:
        """A Query goes to the target."""
        is_copy = any(statement.copies == "in" for statement in statements)
        entry = Entry(
            Expected.QUERY,
            number=number,
            obligations=obligations,
            statements=statements,
            rows=Rows(self._detectors_of(obligations)),
            is_barrier=is_copy or self._is_barrier(statements),
            copy=CopyIn.AWAITED if is_copy else CopyIn.NONE,
        )
        self._pipeline.push(entry)
        # The server drops its unnamed statement and portal at each Query (exec_simple_query).
        self._state.statements.hope("", None, entry, self._pipeline.sequence)
        self._state.portals.hope("", None, entry, self._pipeline.sequence)

    def _forward_bind(self, plan: _Plan, bind: wire.Bind, reading: Reading, obligations: Obligations) -> Send:
        statement = reading.statements[0] if reading.statements else None
        portal = Portal(
            plan.event.number,
            self._with_cursors(statement, obligations),
            statement,
            None if statement is None else statement.outputs,
            plan.definition,
            bind.result_formats,
            bound=None if statement is None or statement.sort in _FIXED_AT_BIND else (self._mark(), reading),
        )
        entry = Entry(
            Expected.BIND, number=plan.event.number, obligations=portal.obligations, name=bind.portal, portal=portal
        )
        self._state.portals.hope(bind.portal, portal, entry, self._pipeline.sequence)
        if plan.amended is None:
            self._pipeline.push(entry)
            return Send(Side.TARGET, 0, plan.raw)
        return self._forward_amended_bind(plan, plan.amended, bind, entry)

    @property
    def _must_ask(self) -> bool:
        """What exists has changed since the catalogue was read."""
        return self._is_stale or self._state.is_catalogue_due

    def _means_the_same(self, definition: Definition | None, before: Reading) -> bool:
        """Whether what is read now would be judged as it was before."""
        # A prepared statement or cursor of the same effects may still be another one.
        if definition is None or depends_on_names(definition.text):
            return False
        now, _ = self._reading_of(definition.text)
        return self._is_judged_alike(now, before)

    def _is_judged_alike(self, now: Reading, before: Reading) -> bool:
        return (
            now.effects == before.effects
            and now.problem == before.problem
            and [each.outputs for each in now.statements] == [each.outputs for each in before.statements]
            and self._unsound(now) is None
        )

    def _mark(self) -> Hashable:
        """Another one whenever a name may have come to mean something else."""
        state = self._state
        return (self._catalogue.version, state.changes, state.statements.changes, state.portals.changes)

    def _forward_amended_bind(self, plan: _Plan, text: str, bind: wire.Bind, entry: Entry) -> Send:
        """Bind the client's portal to a statement of ours, which is closed at once: a portal keeps what it needs of it."""
        number = plan.event.number
        name = f"{_OWN_PREFIX}{number}"
        definition = plan.definition
        types = () if definition is None else definition.types
        expected = None if definition is None else definition.fields
        if entry.portal is not None:
            entry.portal.definition = None
        parse = wire.Parse(name, text, types).build()
        parsed = Entry(Expected.PARSE, number=number, obligations=entry.obligations, name=name, is_own=True)
        self._pipeline.push(parsed)
        data = replace(bind, statement=name).build() + wire.CloseMessage("S", name).build()
        entries = (entry, Entry(Expected.CLOSE, name=name, sort="S", is_own=True))
        if expected is None:
            for each in entries:
                self._pipeline.push(each)
            return Send(Side.TARGET, 0, parse + data)
        # The client knows the old text's columns and may have chosen binary formats for them, so types must be the same.
        self._pipeline.push(Entry(Expected.DESCRIBE, number=number, obligations=entry.obligations, sort="S", is_own=True))
        self._pipeline.is_flushed = True
        self._deferred = _Deferred(plan, _OwnWords("amendment", plan.event.shown, data, entries), expected)
        return Send(Side.TARGET, 0, parse + wire.Describe("S", name).build() + wire.Flush().build())

    def _take_amended_shape(self, deferred: _Deferred, fields: tuple[wire.Field, ...]) -> None:
        self._deferred = None
        if [(f.name, f.type_oid) for f in fields] == [(f.name, f.type_oid) for f in deferred.expected]:
            self._own.append(deferred.words)
            return
        said = "the changed command returns other columns than the client was told; nothing ran"
        self._refuse(deferred.plan, wire.error_response("ERROR", "0A000", said), "0A000")

    def _with_cursors(self, statement: Statement | None, obligations: Obligations) -> Obligations:
        """What a FETCH shows was judged when its cursor was made, so that those masks hold as well."""
        if statement is None or statement.sort != "FetchStmt":
            return obligations
        fields = list(obligations.fields)
        quiet = obligations.quiet
        for portal in self._state.portals.visible().values():
            fields += [mask for mask in portal.obligations.fields if mask not in fields]
            quiet = quiet or portal.obligations.quiet
        return replace(obligations, fields=tuple(fields), quiet=quiet)

    def _is_barrier(self, statements: tuple[Statement, ...]) -> bool:
        return any(
            statement.change is not None and (not isinstance(statement.change, Transaction) or self._state.hangs_on_outcome)
            for statement in statements
        )

    def _refuse(self, plan: _Plan, error: bytes, sqlstate: str) -> list[Act]:
        """Have the target fail in place of the command, and put our words in place of its own."""
        text = f"SLUICEGATE REFUSED COMMAND {plan.event.number}"
        if isinstance(plan.message, wire.Query | wire.FunctionCall):
            entry = Entry(Expected.QUERY, number=plan.event.number, refusal=error, refusal_code=sqlstate)
            self._own.append(_OwnWords("refusal", text, wire.Query(text).build(), (entry,)))
            self._state.statements.hope("", None, entry, self._pipeline.sequence)
            self._state.portals.hope("", None, entry, self._pipeline.sequence)
        else:
            name = _OWN_PREFIX + "refusal"
            entry = Entry(Expected.PARSE, number=plan.event.number, name=name, refusal=error, refusal_code=sqlstate)
            entry.is_own = True
            self._own.append(_OwnWords("refusal", text, wire.Parse(name, text).build(), (entry,)))
            self._is_discarding = True
            if isinstance(plan.message, wire.Parse) and not plan.message.name:
                entry.drops_unnamed = True
        return []

    # Amendments.

    def amend(self, command: Command, text: str) -> Command:
        """A command like `command` that runs `text`, read anew. Raises AmendmentError where it cannot stand in for it."""
        plan = self._plan
        if plan is None or plan.event is not command or plan.reading is None:
            raise AmendmentError("the command no longer waits")
        if "\0" in text:
            raise AmendmentError("a text with a NUL")
        try:
            size = len(text.encode("utf-8"))
        except UnicodeEncodeError:
            raise AmendmentError("a text that is not UTF-8") from None
        if size > wire.COMMAND_SIZE_MAX // 2:
            raise AmendmentError("a text that is too long")
        reading, key = self._reading_of(text)
        check_amendment(plan.reading, reading)
        if isinstance(plan.message, wire.Bind) and (flaw := changed_shape(plan.reading, reading)):
            raise AmendmentError(flaw)
        event = replace(self._command(command.sort, command.number, text, reading, key, command.parameters), may_hold=True)
        raw = wire.Query(text).build() if isinstance(plan.message, wire.Query) else b""
        self._amended = _Plan(event, plan.message, raw, reading, plan.definition, amended=text)
        return event

    # What the target says.

    def _next_of_target(self) -> Event | None:
        if self._target_event is not None:
            return None
        if self._own and not self._out and self._finished is None:
            words = self._own[0]
            return Own(Side.TARGET, 0, words.purpose, words.shown)
        if self._last_word is None:
            self._read_target()
        if self._finished is not None:
            event, self._finished = self._finished, None
            return event
        if self._skipped is not None:
            number = self._skipped.popleft()
            if not self._skipped:
                self._skipped = None
            return Finished(Side.TARGET, 0, number, "SKIPPED", failed=True)
        if self._out or self._last_word is not None:
            return Passage(Side.TARGET, 0)
        if self._own:
            words = self._own[0]
            return Own(Side.TARGET, 0, words.purpose, words.shown)
        if self._ended and Side.TARGET in self._ended:
            return Left(Side.TARGET, 0)
        return None

    def _read_target(self) -> None:
        """Turn what has arrived into what the client shall receive, up to the second command that is completed."""
        frames = self._target_frames
        while self._last_word is None:
            if self._streamed is not None:
                if not self._take_piece(frames, self._streamed):
                    return
                continue
            header = frames.peek()
            if header is None:
                return
            code, size = header
            if self._finished is not None and self._completes(code):
                return
            if code == wire.DATA_ROW or (code == wire.COPY_DATA):
                if not self._take_rows(frames, code, size):
                    return
                continue
            payload = frames.payload(size)
            if payload is None:
                return
            self._take_answer(code, payload)

    def _skip(self, number: int) -> None:
        if self._skipped is None:
            self._skipped = deque()
        self._skipped.append(number)

    def _completes(self, code: int) -> bool:
        head = self._pipeline.head
        if code == wire.READY_FOR_QUERY:
            return head is not None and head.expected is Expected.QUERY
        return code in _COMPLETIONS

    def _take_piece(self, frames: wire.Framer, rows: Rows) -> bool:
        piece = frames.part(_RUN_SIZE_MAX)
        if not piece and frames.left:
            return False
        self._out.append(rows.take_piece(piece, is_first=False))
        if not frames.left:
            self._streamed = None
            self._out += self._notices
            self._notices = []
        return True

    def _take_rows(self, frames: wire.Framer, code: int, size: int) -> bool:
        """Rows that are there, in one run. False: the first one is not whole yet."""
        entry = self._answering(Expected.QUERY, Expected.EXECUTE)
        rows = entry.rows
        if rows is None or entry.is_failed:
            raise PeerError("rows from the target for a command that has none")
        if code == wire.DATA_ROW and not rows.is_described:
            self._describe_portal(entry, rows)
            if self._last_word is not None:
                return True
        if rows.is_plain:
            if size > _PIECE_SIZE and len(frames) < size + 5:
                frames.begin()
                self._streamed = rows
                self._out.append(rows.take_piece(wire.frame(code, b"")[:1] + (size + 4).to_bytes(4, "big"), is_first=True))
                return True
        elif size > MASKED_ROW_SIZE_MAX:
            self._fail(f"a row of {size} bytes is larger than can be masked")
            return True
        run, count = frames.take_run(code, _RUN_SIZE_MAX)
        if run:
            self._out.append(rows.take(run, count) if code == wire.DATA_ROW else rows.take_copies(run, count))
        return bool(run)

    def _answering(self, *expected: Expected) -> Entry:
        head = self._pipeline.head
        if head is None or head.expected not in expected:
            raise PeerError("an answer from the target that nothing asked for")
        return head

    def _fail(self, reason: str) -> None:
        """Nothing more can be given to the client in truth: say so and end."""
        self._last_word = (wire.error_response("FATAL", "58000", f"the gateway ends the session: {reason}"), reason)

    def _take_answer(self, code: int, payload: bytes) -> None:
        head = self._pipeline.head
        if head is not None and code not in _ASIDES:
            if head.is_failed and code not in (wire.READY_FOR_QUERY, wire.ERROR_RESPONSE):  # a FATAL may follow
                raise PeerError("more of an answer from the target that ended with an error")
            if head.refusal is not None and not head.is_failed and code != wire.ERROR_RESPONSE:
                raise PeerError("the target accepted a statement that cannot be parsed")
        match code:
            case wire.READY_FOR_QUERY:
                self._take_ready(payload)
            case wire.COMMAND_COMPLETE:
                self._take_completion(code, payload, wire.CommandComplete.read(payload).tag)
            case wire.EMPTY_QUERY_RESPONSE:
                wire.read_empty(payload, "EmptyQueryResponse")
                self._take_completion(code, payload, "")
            case wire.PORTAL_SUSPENDED:
                wire.read_empty(payload, "PortalSuspended")
                entry = self._answering(Expected.EXECUTE)
                self._pipeline.pop()
                self._out.append(wire.frame(code, payload))
                self._finish(entry, "PORTAL SUSPENDED", failed=False)
            case wire.ROW_DESCRIPTION:
                self._take_description(wire.RowDescription.read(payload).fields, payload)
            case wire.NO_DATA:
                wire.read_empty(payload, "NoData")
                entry = self._answering(Expected.DESCRIBE)
                self._pipeline.pop()
                self._know_fields(entry, ())
                self._give(entry, code, payload)
            case wire.PARAMETER_DESCRIPTION:
                entry = self._answering(Expected.DESCRIBE)
                types = wire.ParameterDescription.read(payload).types
                if entry.definition is not None:
                    entry.definition.types = types
                self._give(entry, code, payload)
            case wire.PARSE_COMPLETE:
                entry = self._answering(Expected.PARSE)
                self._pipeline.pop()
                if not entry.is_own:
                    self._state.statements.confirm(entry.name, entry.definition, entry)
                self._give(entry, code, payload)
            case wire.BIND_COMPLETE:
                entry = self._answering(Expected.BIND)
                self._pipeline.pop()
                self._state.portals.confirm(entry.name, entry.portal, entry)
                self._give(entry, code, payload)
            case wire.CLOSE_COMPLETE:
                entry = self._answering(Expected.CLOSE)
                self._pipeline.pop()
                if not entry.is_own:
                    names = self._state.statements if entry.sort == "S" else self._state.portals
                    names.confirm(entry.name, None, entry)
                self._give(entry, code, payload)
            case wire.COPY_IN_RESPONSE:
                entry = self._answering(Expected.QUERY, Expected.EXECUTE)
                if entry.copy is CopyIn.NONE:
                    # We would take the client's data for commands, and its commands for data.
                    self._fail("the target wants COPY data for a statement that was not read as a COPY")
                    return
                entry.copy = CopyIn.RUNNING
                self._out.append(wire.frame(code, payload))
            case wire.COPY_OUT_RESPONSE:
                self._take_copy_out(code, payload)
            case wire.COPY_DONE:
                self._answering(Expected.QUERY, Expected.EXECUTE)
                self._out.append(wire.frame(code, payload))
            case wire.ERROR_RESPONSE:
                self._take_error(wire.Report.read(payload), payload)
            case wire.NOTICE_RESPONSE:
                self._take_notice(wire.Report.read(payload), payload)
            case wire.PARAMETER_STATUS:
                self._take_parameter(wire.ParameterStatus.read(payload), payload)
            case wire.NOTIFICATION_RESPONSE:
                self._take_notification(wire.NotificationResponse.read(payload), payload)
            case _:
                raise PeerError(f"a message of type {chr(code)!r} from the target in a session")

    def _give(self, entry: Entry, code: int, payload: bytes) -> None:
        if not entry.is_own:
            self._out.append(wire.frame(code, payload))

    def _take_ready(self, payload: bytes) -> None:
        status = wire.ReadyForQuery.read(payload).status
        entry = self._answering(Expected.QUERY, Expected.SYNC)
        self._pipeline.pop()
        state = self._state
        state.status = status
        if status == "I":
            state.end_transaction(is_kept=not (entry.is_failed or self._is_sequence_failed))
            self._is_transaction_quiet = self._pipeline.is_quiet
        self._is_sequence_failed = False
        self._out.append(wire.frame(wire.READY_FOR_QUERY, payload))
        if entry.expected is Expected.QUERY:
            state.statements.confirm("", None, entry)
            state.portals.confirm("", None, entry)
            status = f"ERROR {entry.error}" if entry.is_failed else "; ".join(entry.tags)[:_STATUS_LENGTH_MAX]
            self._finish(entry, status, failed=entry.is_failed)

    def _take_completion(self, code: int, payload: bytes, tag: str) -> None:
        entry = self._answering(Expected.QUERY, Expected.EXECUTE)
        if len(entry.tags) < len(entry.statements):
            statement = entry.statements[len(entry.tags)]
            if statement.change is not None:
                cursor = None
                if isinstance(statement.change, DeclareCursor):
                    outputs, hold = statement.change.outputs, statement.change.hold
                    cursor = Portal(entry.number, entry.obligations, None, outputs, hold=hold)
                self._state.confirm(statement.change, tag, cursor)
        entry.tags.append(tag)
        if entry.rows is not None:
            entry.rows.is_described = False
        if entry.copy is CopyIn.RUNNING or entry.copy is CopyIn.ENDED:
            entry.copy = CopyIn.AWAITED if entry.expected is Expected.QUERY else CopyIn.ENDED
        self._out.append(wire.frame(code, payload))
        if entry.expected is Expected.EXECUTE:
            self._pipeline.pop()
            self._finish(entry, tag, failed=False)

    def _finish(self, entry: Entry, status: str, *, failed: bool) -> None:
        if not entry.number:
            return
        rows = entry.rows
        if rows is None:
            self._finished = Finished(Side.TARGET, 0, entry.number, status, failed)
        else:
            self._finished = Finished(
                Side.TARGET,
                0,
                entry.number,
                status,
                failed,
                columns_of(rows.fields, rows.masks),
                rows.count,
                rows.size,
                rows.sample,
                rows.digest,
            )

    # Descriptions.

    def _take_description(self, fields: tuple[wire.Field, ...], payload: bytes) -> None:
        entry = self._answering(Expected.DESCRIBE, Expected.QUERY)
        if entry.expected is Expected.DESCRIBE:
            self._pipeline.pop()
            self._know_fields(entry, fields)
            self._give(entry, wire.ROW_DESCRIPTION, payload)
            return
        if entry.rows is None:
            raise PeerError("rows from the target for a command that has none")
        statement = entry.statements[len(entry.tags)] if len(entry.tags) < len(entry.statements) else None
        outputs = None if statement is None else statement.outputs
        effects = statement.effects if statement is not None else frozenset()
        self._describe_rows(entry.rows, fields, outputs, effects, entry.obligations)
        if self._last_word is None:
            self._out.append(wire.frame(wire.ROW_DESCRIPTION, payload))

    def _know_fields(self, entry: Entry, fields: tuple[wire.Field, ...]) -> None:
        if self._deferred is not None and entry.is_own and entry.sort == "S":
            self._take_amended_shape(self._deferred, fields)
            return
        if entry.portal is not None:
            entry.portal.fields = fields
        elif entry.definition is not None:
            entry.definition.fields = fields

    def _describe_portal(self, entry: Entry, rows: Rows) -> None:
        """What the rows of an Execute are made of, which the server said at a Describe."""
        portal = entry.portal
        if portal is None:
            raise PeerError("rows from the target without a description")
        fields = portal.fields
        if fields is None and portal.definition is not None and portal.definition.fields is not None:
            fields = in_formats(portal.definition.fields, portal.formats)
        if fields is None:
            rows.is_described = True
            if not rows.is_plain or portal.obligations.fields or portal.obligations.quiet:
                self._fail("the columns of a masked result are not known")
            return
        effects = portal.statement.effects if portal.statement is not None else frozenset()
        self._describe_rows(rows, fields, portal.outputs, effects, portal.obligations)

    def _describe_rows(
        self,
        rows: Rows,
        fields: tuple[wire.Field, ...],
        outputs: tuple[Output, ...] | None,
        effects: frozenset[Effect],
        obligations: Obligations,
    ) -> None:
        masks = masks_of(outputs, obligations.fields)
        if obligations.fields or obligations.quiet:
            # What touches masked data must be read right in every position, whether or not a mask came of it.
            described = [field.name for field in fields]
            if described != [output.name for output in outputs or ()]:
                self._fail("the target's result has other columns than the statement was read to have")
                return
        wrong = misfit(fields, masks, outputs, effects, obligations.fields, self._catalogue)
        if wrong is not None:
            self._fail(wrong)
        rows.describe(fields, masks)

    def _take_copy_out(self, code: int, payload: bytes) -> None:
        entry = self._answering(Expected.QUERY, Expected.EXECUTE)
        response = wire.CopyResponse.read(code, payload)
        detectors = self._detectors_of(entry.obligations)
        if entry.obligations.fields and not any(s.copies == "out" for s in entry.statements):
            self._fail("the target gives COPY data for a statement that was not read as a COPY")
            return
        if detectors is not None and response.format == 1:
            self._fail("COPY data in binary format cannot be masked")
            return
        self._out.append(wire.frame(code, payload))

    # Words of the target.

    def _take_error(self, report: wire.Report, payload: bytes) -> None:
        head = self._pipeline.head
        is_fatal = report.severity in ("FATAL", "PANIC")
        if head is None or is_fatal:
            # A session that the server ends (57P01, idle timeouts); its end of stream follows.
            self._out.append(self._fit(report, payload, wire.ERROR_RESPONSE, head))
            if head is not None:
                self._finish(head, f"{report.severity} {report.sqlstate}", failed=True)
            return
        if head.refusal is not None:
            self._out.append(head.refusal)
            head.error = head.refusal_code
        else:
            self._out.append(self._fit(report, payload, wire.ERROR_RESPONSE, head))
            head.error = report.sqlstate
        head.is_failed = True
        head.copy = CopyIn.NONE
        if head.ends_unit:
            return
        self._is_sequence_failed = True
        self._deferred = None
        said = {0, head.number}
        for entry in self._pipeline.skip_to_sync():
            self._forget(entry)
            if entry.number not in said:
                said.add(entry.number)
                self._skip(entry.number)
        self._finish(head, f"ERROR {head.error}", failed=True)
        # Without a Sync among what was sent, what the client says up to its next Sync is discarded by the server as well.
        if self._pipeline.head is None:
            self._is_discarding = True

    def _forget(self, entry: Entry) -> None:
        """The server did not do it. A Parse of the unnamed statement that fails leaves none."""
        match entry.expected:
            case Expected.PARSE:
                self._state.statements.forget(entry.name, entry)
                if entry.is_failed and (not entry.name or entry.drops_unnamed):
                    self._state.statements.drop_unnamed()
            case Expected.BIND:
                self._state.portals.forget(entry.name, entry)
            case Expected.CLOSE:
                names = self._state.statements if entry.sort == "S" else self._state.portals
                names.forget(entry.name, entry)
            case Expected.QUERY:
                self._state.statements.forget("", entry)
                self._state.portals.forget("", entry)
            case Expected.DESCRIBE | Expected.EXECUTE | Expected.SYNC:
                pass

    def _take_notice(self, report: wire.Report, payload: bytes) -> None:
        self._out.append(self._fit(report, payload, wire.NOTICE_RESPONSE, self._pipeline.head))

    def _fit(self, report: wire.Report, payload: bytes, code: int, entry: Entry | None) -> bytes:
        """What the client may read of an error or notice."""
        if self._is_transaction_quiet or (entry is not None and entry.obligations.quiet):
            what = "an error" if code == wire.ERROR_RESPONSE else "a notice"
            kept = tuple((letter, value) for letter, value in report.fields if letter in "SVC")
            text = f"the target reported {what}; its text is withheld because the statement touches masked data"
            return wire.Report((*kept, ("M", text))).build(code)
        values = self._pipeline.values if entry is None else entry.obligations.values or self._pipeline.values
        detectors = self._detectors_for(values)
        if detectors is None:
            return wire.frame(code, payload)
        fields = tuple(
            (letter, detectors.clean(value.encode("utf-8", "replace")).decode("utf-8", "replace"))
            for letter, value in report.fields
        )
        return wire.frame(code, payload) if fields == report.fields else wire.Report(fields).build(code)

    def _take_parameter(self, status: wire.ParameterStatus, payload: bytes) -> None:
        pinned = _PINNED.get(status.name)
        if pinned is not None and status.value != pinned:
            self._fail(f"the target changed {status.name}, on which the reading of every statement stands")
            return
        detectors = self._detectors_for(self._pipeline.values)
        if detectors is not None:
            value = detectors.clean(status.value.encode("utf-8")).decode("utf-8", "replace")
            self._out.append(wire.ParameterStatus(status.name, value).build())
        else:
            self._out.append(wire.frame(wire.PARAMETER_STATUS, payload))

    def _take_notification(self, notification: wire.NotificationResponse, payload: bytes) -> None:
        detectors = self._detectors_for(self._pipeline.values)
        if detectors is None:
            self._out.append(wire.frame(wire.NOTIFICATION_RESPONSE, payload))
            return
        channel, said = (
            detectors.clean(text.encode("utf-8")).decode("utf-8", "replace")
            for text in (notification.channel, notification.payload)
        )
        self._out.append(wire.NotificationResponse(notification.process, channel, said).build())

    def _detectors_of(self, obligations: Obligations) -> Detectors | None:
        return self._detectors_for(obligations.values) if obligations.values else None

    def _detectors_for(self, values: tuple[ValueMask, ...]) -> Detectors | None:
        if not values:
            return None
        detectors = self._detectors.get(values)
        if detectors is None:
            if len(self._detectors) >= _DETECTORS_MAX:
                self._detectors.clear()
            detectors = self._detectors[values] = Detectors(values)
        return detectors


_PINNED: Final = {"client_encoding": "UTF8", "standard_conforming_strings": "on"}


def _refusal(plan: _Plan, refuse: Refuse) -> tuple[bytes, str]:
    """The ErrorResponse in place of a refused command, and its SQLSTATE."""
    by = f" by rule {refuse.rule}" if refuse.rule is not None else ""
    if refuse.withdrawn:
        error = wire.error_response(
            "ERROR", "57014", "canceling statement due to user request", refuse.reason, refuse.advice
        )
        return error, "57014"
    if plan.flaw is not None:
        code, message = plan.flaw
        return wire.error_response("ERROR", code, message, hint=refuse.advice), code
    problem = None if plan.reading is None else plan.reading.problem
    if problem is not None:
        detail = f"refused{by}: {refuse.reason}"
        error = wire.error_response("ERROR", problem.sqlstate, problem.message, detail, refuse.advice, problem.position)
        return error, problem.sqlstate
    approval = f"Approval {refuse.approval}." if refuse.approval else ""
    return wire.error_response("ERROR", "42501", f"refused{by}: {refuse.reason}", approval, refuse.advice), "42501"


def _asking_notice(hold: Hold) -> bytes:
    return wire.notice_response(
        "NOTICE",
        "01000",
        f"a person is being asked to approve this (rule {hold.rule}): {hold.reason}; "
        f"it waits up to {hold.terms.seconds:g} s",
    )


def _amended_notice(plan: _Plan, verdict: Forward) -> bytes:
    who = verdict.approver or "an approver"
    return wire.notice_response("NOTICE", "01000", f"{who} changed this command; what runs instead: {plan.event.shown}")
