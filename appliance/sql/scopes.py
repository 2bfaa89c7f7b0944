"""Which columns a name can mean at a place in a query, and from which table columns their values come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from appliance.sql.catalogue import Relation
from appliance.sql.reading import Source

NO_SOURCES: frozenset[Source] = frozenset()


@dataclass(slots=True)
class Column:
    """A column of something in FROM, or of a query's result.

    `sources`: table columns whose values it may show unchanged. `computed`: those that went into it otherwise, where
    that counts only once it is used (a view's). `plain`: its type is surely one of the system's. `type_oid` 0: not known.
    """

    name: str
    sources: frozenset[Source] = NO_SOURCES
    computed: frozenset[Source] = NO_SOURCES
    plain: bool = False
    type_oid: int = 0


@dataclass(slots=True)
class Entry:
    """Something in FROM under one name. `qualified`: `name.column` finds it; `unqualified`: `column` does. `open`: it may
    have more columns than these. `relation`: what it is, where system columns exist and `schema.name` may stand before a
    column; `aliased`: no longer under its own name. `counted`: it has exactly these columns, so that * can be told."""

    name: str | None
    columns: list[Column]
    relation: Relation | None = None
    aliased: bool = True
    qualified: bool = True
    unqualified: bool = True
    open: bool = False
    counted: bool = True


class CommonTable:
    """A WITH query: read once, when it is first needed."""

    __slots__ = ("columns", "name", "pending", "reading", "recurs")

    def __init__(self, name: str, pending: Callable[[], list[Column]] | None) -> None:
        self.name = name
        self.pending = pending
        self.reading = False  # its own query is being read
        self.recurs = False  # and has referred to itself
        self.columns: list[Column] | None = None


@dataclass(slots=True)
class Scope:
    """One level of a query, inside `parent`."""

    parent: Scope | None = None
    entries: list[Entry] = field(default_factory=list)
    tables: dict[str, CommonTable] | None = None

    def table(self, name: str) -> CommonTable | None:
        """The WITH query of that name that is seen from here."""
        scope: Scope | None = self
        while scope is not None:
            if scope.tables is not None and name in scope.tables:
                return scope.tables[name]
            scope = scope.parent
        return None
