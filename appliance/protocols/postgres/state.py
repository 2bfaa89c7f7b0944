"""What of a session's state the meaning of a text depends on, and when a change of it counts.

Nothing counts before the server has confirmed it. Names that a pipelining client uses in the same breath are hoped for:
within one sequence (up to its Sync) that is safe, because the server discards the use when it refuses the definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class Definition:
    """A prepared statement. `types` are the parameters' OIDs, 0 or missing where not known; `fields` is what the server
    said of its rows, None before it did."""

    text: str
    types: tuple[int, ...] = ()
    fields: tuple[Field, ...] | None = None


@dataclass(slots=True)
class Portal:
    """A portal or cursor: what runs when it is executed, under which obligations. `number` is the command that made it,
    `statement` what that command bound, None for a cursor of SQL (its DECLARE has been confirmed already). `formats` are
    the result formats of a Bind; `fields` what the server said of the rows. `hold`: it outlives its transaction."""

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


class Names(Generic[Thing]):
    """One name space, as the server has it and as the client hopes it to be."""

    def __init__(self) -> None:
        self.known: dict[str, Thing] = {}
        self._hoped: dict[str, tuple[Thing | None, object, int]] = {}

    def __len__(self) -> int:
        return len(self.known) + len(self._hoped)

    def hope(self, name: str, thing: Thing | None, answer: object, sequence: int) -> None:
        """The server was told of it (None: to close it); `answer` is the entry that will say how it went."""
        self._hoped[name] = (thing, answer, sequence)

    def confirm(self, name: str, thing: Thing | None, answer: object) -> None:
        """The server did it."""
        if thing is None:
            self.known.pop(name, None)
        else:
            self.known[name] = thing
        self.forget(name, answer)

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
class _Savepoint:
    name: str
    created: tuple[Relation, ...]


@dataclass(slots=True)
class SessionState:
    """The state of one session at the target. `status` is ReadyForQuery's letter, moved on as soon as a BEGIN is
    confirmed. `is_catalogue_due`: what exists has changed and must be read again before the next command."""

    default_path: tuple[str, ...]
    status: str = "I"
    statements: Names[Definition] = field(default_factory=Names)
    portals: Names[Portal] = field(default_factory=Names)
    is_catalogue_due: bool = False
    _path: tuple[str, ...] = ()
    _transaction_path: tuple[str, ...] | None = None
    _local_path: tuple[str, ...] | None = None
    _created: tuple[Relation, ...] = ()
    _created_before: tuple[Relation, ...] = ()
    _savepoints: list[_Savepoint] = field(default_factory=list)
    _has_changed_catalogue: bool = False

    def __post_init__(self) -> None:
        self._path = self.default_path

    @property
    def search_path(self) -> tuple[str, ...]:
        """The one in force."""
        if self._local_path is not None:
            return self._local_path
        return self._path if self._transaction_path is None else self._transaction_path

    @property
    def savepoints(self) -> int:
        """How many are open."""
        return len(self._savepoints)

    @property
    def hangs_on_outcome(self) -> bool:
        """How the transaction ends changes what the next text means."""
        return (
            self._transaction_path is not None
            or self._local_path is not None
            or self._has_changed_catalogue
            or self._created != self._created_before
            or any(self.portals.known)  # the unnamed portal cannot be named in a text
        )

    def has_settled_names(self, sequence: int) -> bool:
        """Every name means the same whatever the target still answers to earlier sequences."""
        return self.statements.is_settled(sequence) and self.portals.is_settled(sequence)

    def view(self) -> SessionView:
        """The state without its names, for texts that use none."""
        return SessionView(self.search_path, _NO_TEXTS, _NO_CURSORS, self._created)

    def view_with_names(self) -> SessionView:
        """The whole state."""
        return SessionView(
            self.search_path,
            {name: definition.text for name, definition in self.statements.visible().items()},
            {name: portal.outputs or () for name, portal in self.portals.visible().items()},
            self._created,
        )

    def confirm(self, change: Change, tag: str, portal: Portal | None) -> None:
        """The server confirmed a statement's change, with that tag. `portal` is what a DECLARE made."""
        match change:
            case SetSearchPath(path=path, local=local):
                chosen = self.default_path if path is None else path
                if local:
                    self._local_path = chosen
                else:
                    self._transaction_path, self._local_path = chosen, None
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
                self._path, self._transaction_path, self._local_path = self.default_path, None, None
                self._created = self._created_before = ()
            case ChangeCatalogue(created=created):
                names = {(relation.schema, relation.name) for relation in created}
                kept = tuple(relation for relation in self._created if (relation.schema, relation.name) not in names)
                self._created = (*kept, *created)
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
                self._savepoints.append(_Savepoint(control.name, self._created))
            case "release" if control.name is not None:
                at = self._savepoint(control.name)
                if at is not None:
                    del self._savepoints[at:]
            case "rollback to" if control.name is not None:
                at = self._savepoint(control.name)
                if at is not None:
                    self._created = self._savepoints[at].created
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
            if self._transaction_path is not None:
                self._path = self._transaction_path
            if self._has_changed_catalogue:
                self.is_catalogue_due = True
                # What is no temporary table is in the next reading of the catalogue.
                self._created = tuple(relation for relation in self._created if relation.schema == "pg_temp")
            self._created_before = self._created
        else:
            self._created = self._created_before
        self._transaction_path = self._local_path = None
        self._has_changed_catalogue = False
        self._savepoints.clear()
        known = self.portals.known
        if known:
            self.portals.known = {name: portal for name, portal in known.items() if portal.hold and is_kept}
