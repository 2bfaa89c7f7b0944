"""The short way through a session: which whole sequences of messages take it, and what is known of the statements in them.

A client's bytes take it where they are exactly one Query, or one Bind with its Execute and Sync and whatever of Parse and
Describe goes with them, of one statement that changes nothing about the session; a target's bytes where they are exactly the
whole answer and every value in them is given as it came. Everything is read as strictly as on the general path, and all is
decided before anything is changed, so that whatever is not of this kind is left to the general path as if nobody had looked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from appliance.decisions import Obligations, ValueMask
from appliance.effects import Column
from appliance.errors import PeerError
from appliance.masking.detectors import Detectors
from appliance.protocols.inspector import Familiar, FamiliarAnswer
from appliance.protocols.postgres import messages as wire
from appliance.protocols.postgres.parameters import shown_value
from appliance.protocols.postgres.pipeline import Pipeline
from appliance.protocols.postgres.readings import ReadingCache
from appliance.protocols.postgres.results import columns_of, in_formats, misfit
from appliance.protocols.postgres.rows import Rows
from appliance.protocols.postgres.state import NAMES_MAX, Definition, Portal, SessionState, Ticket
from appliance.sql.catalogue import Catalogue
from appliance.sql.reading import SessionView, Statement
from appliance.sql.templates import INT4_DIGITS, Template, around_number

# What is longer is no small question, and gains nothing: bytes of a client's sequence, and of a target's answer.
_COMMAND_SIZE_MAX: Final = 8 << 10
_ANSWER_SIZE_MAX: Final = 1 << 20
# What a server says of a finished statement is shorter ("INSERT 0 1"), with its header; a record shows a longer one in part.
_TAG_SIZE_MAX: Final = 100
# A record shows a longer value in part only, which is for the general path to write down.
_SHOWN_LENGTH_MAX: Final = 1 << 10
# What is kept of a session's Parse messages and descriptions of results; a short one each, or it is read anew.
_PARSES_MAX: Final = 64
_PARSE_SIZE_MAX: Final = 1 << 10
_DESCRIPTIONS_MAX: Final = 64
_DESCRIPTION_SIZE_MAX: Final = 2 << 10

_SYNC: Final = wire.Sync().build()
_EXECUTE: Final = wire.Execute("").build() + _SYNC
_DESCRIBE_EXECUTE: Final = wire.Describe("P", "").build() + _EXECUTE

_EXECUTE_SIZE: Final = len(_EXECUTE)
_DESCRIBE_EXECUTE_SIZE: Final = len(_DESCRIBE_EXECUTE)

_HEADER_SIZE: Final = 5
_LENGTH: Final = struct.Struct("!I")
_SIZE: Final = struct.Struct("!i")
_COUNT: Final = struct.Struct("!H")
_READY: Final = {status: wire.ReadyForQuery(status).build() for status in "IT"}
_READY_SIZE: Final = 6


@dataclass(slots=True, eq=False)
class _Description:
    """The fields of a result that were found to be what was judged: by effects and outputs, as names were when `view` was
    what they mean."""

    view: SessionView
    effects: frozenset[object]
    outputs: object
    fields: tuple[wire.Field, ...]
    columns: tuple[Column, ...]
    values: tuple[ValueMask, ...] | None = None
    rows: Rows | None = None


@dataclass(slots=True, eq=False)
class _Form:
    """Texts that differ in one whole number alone: what stands before it, and behind it up to the message's end."""

    before: bytes
    behind: bytes
    template: Template
    ticket: Ticket


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """What went to the target by the short way and is not answered yet: one Query, or a Bind of `definition` with what
    follows it. `parsed` is the number of a Parse before it, 0 for none."""

    number: int
    parsed: int
    statement: Statement
    obligations: Obligations
    definition: Definition | None
    formats: tuple[int, ...]
    is_described: bool


class PostgresFastLane:
    """The short way of one session: protocols.inspector.FastLane.

    `rest` answers what names mean, the same object while they mean the same, or None while anything of the general path is
    under way or stands in the way. `detectors_for` are the detectors of those values.
    """

    __slots__ = (
        "_answer",
        "_catalogue",
        "_definition",
        "_descriptions",
        "_detectors_for",
        "_familiar",
        "_form",
        "_formats",
        "_head",
        "_is_described",
        "_obligations",
        "_of",
        "_parses",
        "_pipeline",
        "_readings",
        "_ready",
        "_rest",
        "_state",
        "_ticket",
        "_value_count",
        "_value_formats",
        "_view",
        "is_away",
    )

    def __init__(
        self,
        state: SessionState,
        pipeline: Pipeline,
        readings: ReadingCache,
        rest: Callable[[], tuple[SessionView, Catalogue] | None],
        detectors_for: Callable[[tuple[ValueMask, ...]], Detectors | None],
    ) -> None:
        self.is_away = False
        self._state = state
        self._pipeline = pipeline
        self._readings = readings
        self._rest = rest
        self._detectors_for = detectors_for
        self._catalogue: Catalogue | None = None
        self._view: SessionView | None = None
        self._familiar = Familiar()
        self._answer = FamiliarAnswer()
        self._parses: dict[bytes, tuple[str, tuple[int, ...], Ticket]] = {}
        self._descriptions: dict[bytes, _Description] = {}
        # What is being looked at, and from `depart` on what is away.
        self._ticket: Ticket | None = None
        self._definition: Definition | None = None
        self._formats: tuple[int, ...] = ()
        self._is_described = False
        self._obligations = Obligations()
        self._ready = b""
        # How the last Bind began, up to its first value, what it was a Bind of, and the formats of its values.
        self._head = b"\0" * _HEADER_SIZE
        self._of: Definition | None = None
        self._form: _Form | None = None
        self._value_formats: tuple[int, ...] = ()
        self._value_count = 0

    def leave(self) -> None:
        """The general path is taken: what it leaves has to be looked at before this way is open again."""
        self._view = None
        self._of = None
        self._form = None

    # What the client says.

    def recognise(self, data: bytes) -> Familiar | None:
        """What a client sent, if it is one familiar command and nothing stands before it."""
        size = len(data)
        if self.is_away or not _HEADER_SIZE < size <= _COMMAND_SIZE_MAX:
            return None
        if self._view is None:
            rest = self._rest()
            if rest is None:
                return None
            self._view, self._catalogue = rest
        code = data[0]
        if code == wire.BIND:
            return self._read_bind(data, size)
        if code == wire.QUERY:
            return self._read_query(data, size)
        if code == wire.PARSE:
            return self._read_parse(data, size)
        return None

    def _read_query(self, data: bytes, size: int) -> Familiar | None:
        end = size - 1
        if _LENGTH.unpack_from(data, 1)[0] != end or data.find(b"\0", _HEADER_SIZE) != end:
            return None
        try:
            text = data[_HEADER_SIZE:end].decode("utf-8")
        except UnicodeDecodeError:
            return None
        ticket = self._ticket_by_form(data, end) or self._ticket_for(text)
        if ticket is None or ticket.key is None:
            return None
        self._ticket = ticket
        self._definition = None
        familiar = self._familiar
        familiar.number = self._pipeline.number + 1
        familiar.parsed = 0
        familiar.sort = "Query"
        familiar.shown = text
        familiar.parameters = ()
        familiar.key = ticket.key
        return familiar

    def _read_parse(self, data: bytes, size: int) -> Familiar | None:
        """A Parse of the unnamed statement, and a Bind of it."""
        at = _LENGTH.unpack_from(data, 1)[0] + 1
        if at <= _HEADER_SIZE or size - at <= _HEADER_SIZE + 2 or data[at] != wire.BIND:
            return None
        if len(self._state.statements) >= NAMES_MAX:
            return None
        raw = data[:at]
        parsed = self._parses.get(raw)
        if parsed is None or parsed[2].view is not self._view:
            try:
                parse = wire.Parse.read(data[_HEADER_SIZE:at])
            except PeerError:
                return None
            if parse.name:
                return None
            ticket = self._ticket_for(parse.text)
            if ticket is None:
                return None
            parsed = parse.text, parse.types, ticket
            if len(raw) <= _PARSE_SIZE_MAX:
                if len(self._parses) >= _PARSES_MAX:
                    self._parses.clear()
                self._parses[raw] = parsed
        text, types, ticket = parsed
        if ticket.key is None:
            return None
        # The unnamed portal, and the statement without a name.
        if data[at + _HEADER_SIZE] or data[at + _HEADER_SIZE + 1]:
            return None
        self._of = None
        found = self._read_formats(data, at, at + _HEADER_SIZE + 2)
        if found is None:
            return None
        first, formats, count = found
        definition = Definition(text, types, ticket=ticket)
        return self._read_values(data, size, at, definition, ticket, first, formats, count)

    def _read_bind(self, data: bytes, size: int) -> Familiar | None:
        """A Bind of a statement that is there."""
        last, head = self._of, self._head
        if last is not None and data.startswith(head, _HEADER_SIZE):
            assert last.ticket is not None
            at = _HEADER_SIZE + len(head)
            return self._read_values(data, size, 0, last, last.ticket, at, self._value_formats, self._value_count)
        end = data.find(b"\0", _HEADER_SIZE + 1)
        name = data[_HEADER_SIZE + 1 : end]
        # The unnamed portal; whatever the statement is called.
        if data[_HEADER_SIZE] or end < 0 or not name.isascii():
            return None
        definition = self._state.statements.known.get(name.decode("ascii"))
        if definition is None:
            return None
        ticket = definition.ticket
        if ticket is None or ticket.view is not self._view:
            ticket = definition.ticket = self._ticket_for(definition.text)
        if ticket is None or ticket.key is None:
            return None
        at = end + 1
        found = self._read_formats(data, 0, at)
        if found is None:
            return None
        at, formats, count = found
        self._of, self._head, self._value_formats, self._value_count = definition, data[_HEADER_SIZE:at], formats, count
        return self._read_values(data, size, 0, definition, ticket, at, formats, count)

    def _read_formats(self, data: bytes, start: int, at: int) -> tuple[int, tuple[int, ...], int] | None:
        """The formats of a Bind's values and their number, from `at`; and where the values begin."""
        end = start + 1 + _LENGTH.unpack_from(data, start + 1)[0]
        # What follows a Bind is longer than any number here, so that none is read from beyond the bytes that are there.
        if end + len(_EXECUTE) > len(data) or at > end:
            return None
        formats: tuple[int, ...] = ()
        count = _COUNT.unpack_from(data, at)[0]
        at += 2
        if count:
            if at + 2 * count > end:
                return None
            formats = struct.unpack_from(f"!{count}H", data, at)
            if max(formats) > 1:
                return None
            at += 2 * count
        count = _COUNT.unpack_from(data, at)[0]
        if len(formats) > 1 and len(formats) != count:
            return None
        return at + 2, formats, count

    def _read_values(
        self,
        data: bytes,
        size: int,
        start: int,
        definition: Definition,
        ticket: Ticket,
        at: int,
        formats: tuple[int, ...],
        count: int,
    ) -> Familiar | None:
        """The rest of a Bind that begins at `start`, from its first value at `at`, and what follows it."""
        end = start + 1 + _LENGTH.unpack_from(data, start + 1)[0]
        rest = size - end
        if rest == _DESCRIBE_EXECUTE_SIZE:
            is_described = True
            if not data.endswith(_DESCRIBE_EXECUTE):
                return None
        elif rest == _EXECUTE_SIZE and definition.fields is not None:
            is_described = False
            if not data.endswith(_EXECUTE):
                return None
        else:
            return None
        types = definition.types
        values: list[str | None] = []
        for index in range(count):
            if at > end:
                return None
            length = _SIZE.unpack_from(data, at)[0]
            at += 4
            if length < 0:
                if length != -1:
                    return None
                values.append(None)
                continue
            value = data[at : at + length]
            at += length
            if at > end:
                return None
            oid = types[index] if index < len(types) else 0
            shown = shown_value(value, oid, wire.format_at(formats, index))
            if len(shown) > _SHOWN_LENGTH_MAX:
                return None
            values.append(shown)
        if at + 2 > end:
            return None
        count = _COUNT.unpack_from(data, at)[0]
        at += 2
        if at + 2 * count != end:
            return None
        formats = ()
        if count:
            formats = struct.unpack_from(f"!{count}H", data, at)
            if max(formats) > 1:
                return None
        self._ticket = ticket
        self._definition = definition
        self._formats = formats
        self._is_described = is_described
        number = self._pipeline.number + 1
        familiar = self._familiar
        familiar.parsed = 0
        if start:
            familiar.parsed = number
            number += 1
        familiar.number = number
        familiar.sort = "Bind"
        familiar.shown = definition.text
        familiar.parameters = tuple(values)
        familiar.key = ticket.key
        return familiar

    def _ticket_for(self, text: str) -> Ticket | None:
        """What is known of a text that was read before, or can be told without; None for others."""
        view, catalogue = self._view, self._catalogue
        assert view is not None
        assert catalogue is not None
        found = self._readings.find(text, catalogue, view)
        if found is None:
            return None
        # What a person may not see whole is to be sealed in its record.
        if not found.is_eligible or found.shown != text:
            return Ticket(view)
        ticket = Ticket(view, found.key, found.reading.statements[0])
        if found.template is not None:
            around = around_number(text)
            if around is not None:
                self._form = _Form(around[0].encode(), around[1].encode() + b"\0", found.template, ticket)
        return ticket

    def _ticket_by_form(self, data: bytes, end: int) -> Ticket | None:
        """That of the last text, for a Query that ends at `end` and differs from it in its one number alone."""
        form = self._form
        if form is None or not data.startswith(form.before, _HEADER_SIZE) or not data.endswith(form.behind):
            return None
        number = data[_HEADER_SIZE + len(form.before) : -len(form.behind)]
        if not number.isdigit() or len(number) > INT4_DIGITS or not form.template.shows_whole(data[_HEADER_SIZE:end]):
            return None
        return form.ticket

    def depart(self, obligations: Obligations) -> None:
        """What was recognised is recorded and goes to the target."""
        self._obligations = obligations
        self._pipeline.number = self._familiar.number
        self._pipeline.values = obligations.values
        self._ready = _READY[self._state.status]
        self.is_away = True

    def hand_back(self) -> Sent:
        """What is away, for the general path to wait for the answer."""
        assert self._ticket is not None
        assert self._ticket.statement is not None
        self.is_away = False
        self._view = None
        familiar = self._familiar
        return Sent(
            familiar.number,
            familiar.parsed,
            self._ticket.statement,
            self._obligations,
            self._definition,
            self._formats,
            self._is_described,
        )

    # What the target says.

    def arrive(self, data: bytes) -> FamiliarAnswer | None:
        """What the target sent, if it is all of the answer and nothing in it has to change."""
        size = len(data)
        last = size - _READY_SIZE
        ticket, definition = self._ticket, self._definition
        if not _HEADER_SIZE < last <= _ANSWER_SIZE_MAX or not data.endswith(self._ready) or ticket is None:
            return None
        at = 0
        fields: tuple[wire.Field, ...] | None = None
        description: _Description | None = None
        if definition is not None:
            if self._familiar.parsed:
                if not data.startswith(wire.PARSE_COMPLETE_MESSAGE):
                    return None
                at = _HEADER_SIZE
            if not data.startswith(wire.BIND_COMPLETE_MESSAGE, at):
                return None
            at += _HEADER_SIZE
        if definition is None or self._is_described:
            if data[at] == wire.ROW_DESCRIPTION:
                end = at + 1 + _LENGTH.unpack_from(data, at + 1)[0]
                if end - at <= _HEADER_SIZE or end >= last:
                    return None
                description = self._description(ticket, data[at:end])
                if description is None:
                    return None
                fields = description.fields
                at = end
            elif definition is not None:
                if not data.startswith(wire.NO_DATA_MESSAGE, at):
                    return None
                fields = ()
                at += _HEADER_SIZE
        start, count = at, 0
        while at < last and data[at] == wire.DATA_ROW:  # bounded by the bytes that are here
            length = _LENGTH.unpack_from(data, at + 1)[0]
            if length < 4:
                return None
            at += 1 + length
            count += 1
        if at >= last or data[at] != wire.COMMAND_COMPLETE or at + 1 + _LENGTH.unpack_from(data, at + 1)[0] != last:
            return None
        if last - at > _TAG_SIZE_MAX or data.find(b"\0", at + _HEADER_SIZE) != last - 1:
            return None
        answer = self._answer
        try:
            answer.status = data[at + _HEADER_SIZE : last - 1].decode("utf-8")
        except UnicodeDecodeError:
            return None
        if count:
            if description is None and definition is not None and not self._is_described:
                description = self._inferred(ticket, definition)
            if description is None:
                return None
            if not self._take_rows(data[start:at], count, description):
                return None
            answer.columns = description.columns
        else:
            answer.columns = description.columns if definition is None and description is not None else ()
            answer.rows = answer.size = 0
            answer.sample = ()
            answer.digest = ""
        answer.number = self._familiar.number
        self._settle(fields)
        return answer

    def _take_rows(self, run: bytes, count: int, description: _Description) -> bool:
        """Whether the client may have these rows as they are; sums them up."""
        values, rows = self._obligations.values, description.rows
        if rows is None or values is not description.values:
            rows = Rows(self._detectors_for(values))
            rows.describe(description.fields, {})
            description.values, description.rows = values, rows
        else:
            rows.begin_again()
        try:
            out = rows.take(run, count)
        except PeerError:
            return False
        if out is not run and out != run:
            return False
        answer = self._answer
        answer.rows = count
        answer.size = len(run)
        answer.sample = rows.sample
        answer.digest = rows.digest
        return True

    def _description(self, ticket: Ticket, raw: bytes) -> _Description | None:
        """What a RowDescription says, if it says what was judged."""
        statement = ticket.statement
        assert statement is not None
        found = self._descriptions.get(raw)
        if (
            found is not None
            and found.view is ticket.view
            and found.effects is statement.effects
            and found.outputs is statement.outputs
        ):
            return found
        try:
            fields = wire.RowDescription.read(raw[_HEADER_SIZE:]).fields
        except PeerError:
            return None
        found = self._checked(ticket, fields)
        if found is not None and len(raw) <= _DESCRIPTION_SIZE_MAX:
            if len(self._descriptions) >= _DESCRIPTIONS_MAX:
                self._descriptions.clear()
            self._descriptions[raw] = found
        return found

    def _inferred(self, ticket: Ticket, definition: Definition) -> _Description | None:
        """What rows are made of that come without a RowDescription, from what the server said of their statement."""
        fields = definition.fields
        if fields is None:
            return None
        try:
            return self._checked(ticket, in_formats(fields, self._formats))
        except PeerError:
            return None

    def _checked(self, ticket: Ticket, fields: tuple[wire.Field, ...]) -> _Description | None:
        statement, catalogue = ticket.statement, self._catalogue
        assert statement is not None
        assert catalogue is not None
        # Obligations that come this way name no fields, so that no position has a mask.
        if misfit(fields, {}, statement.outputs, statement.effects, (), catalogue) is not None:
            return None
        return _Description(ticket.view, statement.effects, statement.outputs, fields, columns_of(fields, {}))

    def _settle(self, fields: tuple[wire.Field, ...] | None) -> None:
        """The session is at the target what the answer says; `fields` are what a Describe was answered."""
        state, definition = self._state, self._definition
        self.is_away = False
        if definition is None:
            # The server drops its unnamed statement and portal at each Query (exec_simple_query).
            state.statements.drop_unnamed()
            state.portals.drop_unnamed()
            self._of = None
            return
        self._pipeline.sequence += 1
        if self._familiar.parsed:
            state.statements.known[""] = definition
        if state.status == "I":
            state.portals.drop_unnamed()
            return
        assert self._ticket is not None
        assert self._ticket.statement is not None
        statement = self._ticket.statement
        state.portals.known[""] = Portal(
            self._familiar.number,
            self._obligations,
            statement,
            statement.outputs,
            definition,
            self._formats,
            fields,
            self._is_described,
            executions=1,
        )
