"""What of a session's state the meaning of a text depends on, and when a change of it counts.

Nothing counts before the server has confirmed it. Names that a pipelining client uses in the same breath are hoped for:
within one sequence (up to its Sync) that is safe, because the server discards the use when it refuses the definition.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Final, Generic, TypeVar

from appliance.decisions import Obligations
from appliance.protocols.postgres.messages import Field
from appliance.sql.catalogue import Relation
from appliance.sql.reading import (
    Change,
    ChangeCatalogue,
    Deallocate,
    DeclareCursor,
    DiscardAll,
    Output,
    Prepare,
    Reading,
    SessionView,
    SetSearchPath,
    Statement,
    Transaction,
)

# A session that prepares more is not an application's; each text is held here as at the server.
NAMES_MAX: Final = 10_000

_NO_TEXTS: Final[Mapping[str, str]] = MappingProxyType({})
_NO_CURSORS: Final[Mapping[str, tuple[Output, ...]]] = MappingProxyType({})

Thing = TypeVar("Thing")


class Standing(Enum):
    """What is known of a name."""

    ABSENT = "absent"  # the server has none, or only one that it is about to lose
    UNSETTLED = "unsettled"  # an earlier sequence defines or closes it and the server has not said how that went


@dataclass(slots=True, eq=False)
class Ticket:
    """Whether a text may take the fast lane, as long as `view` is what names mean: then verdicts on it are kept under `key`,
    and `statement` is all that is in it. Without them it may not."""

    view: SessionView
    key: Hashable = None
    statement: Statement | None = None


@dataclass(slots=True)
class Definition:
    """A prepared statement. `types` are the parameters' OIDs, 0 or missing where not known; `fields` is what the server
    said of its rows, None before it did. `ticket`: None while nobody has asked."""

    text: str
    types: tuple[int, ...] = ()
    fields: tuple[Field, ...] | None = None
    ticket: Ticket | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class Portal:
    """A portal or cursor: what runs when it is executed, under which obligations. `number` is the command that made it,
    `statement` what that command bound, None for a cursor of SQL (its DECLARE has been confirmed already). `formats` are
    the result formats of a Bind; `fields` what the server said of the rows. `hold`: it outlives its transaction. `bound`
    is what names meant when it was bound and how it was read then, where it looks names up only when it is executed."""

    number: int
    obligations: Obligations
    statement: Statement | None
    outputs: tuple[Output, ...] | None
    definition: Definition | None = None
    formats: tuple[int, ...] = ()
    fields: tuple[Field, ...] | None = None
    is_described: bool = False
    hold: bool = False
    executions: int = 0
    bound: tuple[Hashable, Reading] | None = None


class Names(Generic[Thing]):
    """One name space, as the server has it and as the client hopes it to be."""

    __slots__ = (
        "_hoped",
        "changes",
        "known",
    )

    def __init__(self) -> None:
        self.known: dict[str, Thing] = {}
        self._hoped: dict[str, tuple[Thing | None, object, int]] = {}
        self.changes = 0  # how often a name that meant something has come to mean something else, or may have

    def __len__(self) -> int:
        return len(self.known) + len(self._hoped)

    def hope(self, name: str, thing: Thing | None, answer: object, sequence: int) -> None:
        """The server was told of it (None: to close it); `answer` is the entry that will say how it went."""
        self._may_change(name, thing)
        self._hoped[name] = (thing, answer, sequence)

    def confirm(self, name: str, thing: Thing | None, answer: object) -> None:
        """The server did it."""
        self._may_change(name, thing)
        if thing is None:
            self.known.pop(name, None)
        else:
            self.known[name] = thing
        self.forget(name, answer)

    def _may_change(self, name: str, thing: Thing | None) -> None:
        # Nothing that is executed can name the one without a name.
        if name and any(
            old is not None and old is not thing for old in (self.known.get(name), *self._hoped.get(name, ())[:1])
        ):
            self.changes += 1

    def forget(self, name: str, answer: object) -> None:
        """The server did not do it, or has done it."""
        hoped = self._hoped.get(name)
        if hoped is not None and hoped[1] is answer:
            del self._hoped[name]

    def find(self, name: str, sequence: int) -> Thing | Standing:
        """What the name will mean when the server reads a message of that sequence."""
        hoped = self._hoped.get(name)
        if hoped is None:
            known = self.known.get(name)
            return Standing.ABSENT if known is None else known
        thing, _, since = hoped
        if since != sequence:
            return Standing.UNSETTLED
        return Standing.ABSENT if thing is None else thing

    @property
    def has_hopes(self) -> bool:
        """Some name hangs on an answer."""
        return bool(self._hoped)

    def is_settled(self, sequence: int) -> bool:
        """No name hangs on the answer to another sequence."""
        return all(since == sequence for _, _, since in self._hoped.values())

    def drop_unnamed(self) -> None:
        """The server has none under the empty name any more."""
        self.known.pop("", None)

    def visible(self) -> dict[str, Thing]:
        """All names with what they mean for the sequence being read, if it is settled."""
        found = dict(self.known)
        for name, (thing, _, _) in self._hoped.items():
            if thing is None:
                found.pop(name, None)
            else:
                found[name] = thing
        return found


@dataclass(frozen=True, slots=True)
class _Names:
    """What a transaction has changed so far of what names mean. `unclear`: more than the other fields tell."""

    path: tuple[str, ...] | None = None
    local_path: tuple[str, ...] | None = None
    created: tuple[Relation, ...] = ()
    dropped: frozenset[tuple[str, str]] = frozenset()
    unclear: bool = False


@dataclass(frozen=True, slots=True)
class _Savepoint:
    name: str
    names: _Names


@dataclass(slots=True)
class SessionState:
    """The state of one session at the target. `status` is ReadyForQuery's letter, moved on as soon as a BEGIN is
    confirmed. `is_catalogue_due`: what exists has changed and must be read again before the next command."""

    default_path: tuple[str, ...]
    status: str = "I"
    statements: Names[Definition] = field(default_factory=Names)
    portals: Names[Portal] = field(default_factory=Names)
    is_catalogue_due: bool = False
    changes: int = 0  # how often what a name means has changed, or may have
    _path: tuple[str, ...] = ()
    _names: _Names = field(default_factory=_Names)
    _created_before: tuple[Relation, ...] = ()
    _savepoints: list[_Savepoint] = field(default_factory=list)
    _has_changed_catalogue: bool = False

    def __post_init__(self) -> None:
        self._path = self.default_path

    @property
    def search_path(self) -> tuple[str, ...]:
        """The one in force."""
        names = self._names
        if names.local_path is not None:
            return names.local_path
        return self._path if names.path is None else names.path

    @property
    def is_private(self) -> bool:
        """Names may mean what nobody outside of this session sees: its temporary tables, what its transaction changed."""
        names = self._names
        return bool(names.created or names.dropped or names.unclear)

    @property
    def is_unclear(self) -> bool:
        """The open transaction has changed what exists in a way that nobody outside can see before it ends."""
        return self._names.unclear

    @property
    def statement_letters(self) -> int:
        """How many characters the texts of all prepared statements have."""
        return sum(len(definition.text) for definition in self.statements.visible().values())

    @property
    def savepoints(self) -> int:
        """How many are open."""
        return len(self._savepoints)

    @property
    def hangs_on_outcome(self) -> bool:
        """How the transaction ends changes what the next text means."""
        return (
            self._names.path is not None
            or self._names.local_path is not None
            or self._has_changed_catalogue
            or self._names.created != self._created_before
            or any(self.portals.known)  # the unnamed portal cannot be named in a text
        )

    @property
    def is_plain(self) -> bool:
        """Names mean what the catalogue says under the search path in force, however an open transaction ends; every one
        is settled, and the transaction has not failed."""
        names = self._names
        return not (
            self.status == "E"
            or self.hangs_on_outcome
            or names.created
            or names.dropped
            or names.unclear
            or self.statements.has_hopes
            or self.portals.has_hopes
        )

    def has_settled_names(self, sequence: int) -> bool:
        """Every name means the same whatever the target still answers to earlier sequences."""
        return self.statements.is_settled(sequence) and self.portals.is_settled(sequence)

    def view(self) -> SessionView:
        """The state without its names, for texts that use none."""
        names = self._names
        settled = not self.hangs_on_outcome
        return SessionView(self.search_path, _NO_TEXTS, _NO_CURSORS, names.created, names.dropped, settled)

    def view_with_names(self) -> SessionView:
        """The whole state."""
        return SessionView(
            self.search_path,
            {name: definition.text for name, definition in self.statements.visible().items()},
            {name: portal.outputs or () for name, portal in self.portals.visible().items()},
            self._names.created,
            self._names.dropped,
            not self.hangs_on_outcome,
        )

    def confirm(self, change: Change, tag: str, portal: Portal | None) -> None:
        """The server confirmed a statement's change, with that tag. `portal` is what a DECLARE made."""
        self.changes += not isinstance(change, Transaction)
        names = self._names
        match change:
            case SetSearchPath(path=path, local=local):
                chosen = self.default_path if path is None else path
                self._names = replace(names, local_path=chosen) if local else replace(names, path=chosen, local_path=None)
            case Prepare(name=name, text=text):
                self.statements.known[name] = Definition(text)
            case Deallocate(name=None):
                self.statements.known.clear()
            case Deallocate(name=str(name)):
                self.statements.known.pop(name, None)
            case DeclareCursor(name=name):
                if portal is not None:
                    self.portals.known[name] = portal
            case DiscardAll():
                self.statements.known.clear()
                self.portals.known.clear()
                self._path = self.default_path
                self._names, self._created_before = _Names(), ()
            case ChangeCatalogue(created=created, dropped=dropped, unclear=unclear):
                new = {(relation.schema, relation.name) for relation in created}
                gone = new.union(dropped)
                kept = tuple(relation for relation in names.created if (relation.schema, relation.name) not in gone)
                self._names = replace(
                    names,
                    created=(*kept, *created),
                    dropped=names.dropped.union(dropped) - new,
                    unclear=names.unclear or unclear,
                )
                self._has_changed_catalogue = True
            case Transaction():
                self._control(change, tag)

    def _control(self, control: Transaction, tag: str) -> None:
        match control.sort:
            case "begin":
                self.status = "T"
            case "commit" | "rollback":
                self.end_transaction(is_kept=control.sort == "commit" and tag != "ROLLBACK")
                self.status = "T" if control.chain else "I"
            case "savepoint" if control.name is not None:
                self._savepoints.append(_Savepoint(control.name, self._names))
            case "release" if control.name is not None:
                at = self._savepoint(control.name)
                if at is not None:
                    del self._savepoints[at:]
            case "rollback to" if control.name is not None:
                at = self._savepoint(control.name)
                if at is not None:
                    # Settings go back to what they were, like everything else (guc.c, AtEOXact_GUC).
                    self.changes += self._names != self._savepoints[at].names
                    self._names = self._savepoints[at].names
                    del self._savepoints[at + 1 :]
                    self.status = "T"
            case _:
                pass

    def _savepoint(self, name: str) -> int | None:
        for at in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[at].name == name:
                return at
        return None

    def end_transaction(self, *, is_kept: bool) -> None:
        """The transaction is over: what it changed stays, or never was."""
        if is_kept:
            if self._names.path is not None:
                self._path = self._names.path
            created = self._names.created
            if self._has_changed_catalogue:
                self.is_catalogue_due = True
                # What is no temporary table is in the next reading of the catalogue, and what was dropped is not.
                created = tuple(each for each in created if each.schema == "pg_temp" and not each.fleeting)
            self._created_before = created
        if self._names != _Names(created=self._created_before):
            self.changes += 1
        self._names = _Names(created=self._created_before)
        self._has_changed_catalogue = False
        self._savepoints.clear()
        known = self.portals.known
        if known:
            self.portals.known = {name: portal for name, portal in known.items() if portal.hold and is_kept}
