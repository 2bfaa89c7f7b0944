"""What exists in a database: the part of its catalogue on which the meaning of a statement depends."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True, slots=True)
class TableColumn:
    """One column. `type_oid` is the server's; `default` is the expression as the server prints it, or None.
    `generated`: the value is computed from other columns (GENERATED ALWAYS AS … STORED)."""

    number: int
    name: str
    type_oid: int
    default: str | None = None
    generated: bool = False


@dataclass(frozen=True, slots=True)
class Trigger:
    """A user's trigger. `events` is a subset of {"insert", "update", "delete", "truncate"}; `function` is its OID."""

    name: str
    events: frozenset[str]
    function: int


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Rows of `child` refer to rows of `parent`. The actions are the server's letters (pg_constraint.confdeltype and
    confupdtype): a no action, r restrict, c cascade, n set null, d set default. `parent_columns` are the key that is
    referred to; empty where it is not known, and then any change to the parent counts as one to the key. `inherited`: it is
    a partition's share of a key that stands here too."""

    child: int
    child_columns: tuple[str, ...]
    parent: int
    on_delete: str
    on_update: str
    parent_columns: tuple[str, ...] = ()
    name: str = ""
    inherited: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or anything like one. `kind` is pg_class.relkind. `definition` is a view's query as the server prints it
    with an empty search_path, so that every name in it is qualified. `rules`: it has rewrite rules beside a view's own.
    `policies`: the expressions of its row security policies; `checks`: of its constraints and partial or expression
    indexes, because all of these run code when rows are touched. `extension`: it belongs to an extension. `fleeting`: it
    goes when the transaction ends in which it was made."""

    oid: int
    schema: str
    name: str
    kind: str
    columns: tuple[TableColumn, ...]
    definition: str | None = None
    rules: bool = False
    parents: tuple[int, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    expressions: tuple[str, ...] = ()
    extension: bool = False
    fleeting: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """A function or procedure outside pg_catalog and information_schema. `volatility` is "i", "s" or "v"; `kind` is
    pg_proc.prokind; `source` is the text of a function written in SQL (pg_get_functiondef's body), else None.
    `columns` are the names of the columns that a call in FROM shows; None where they are not known. `argument_defaults`
    are the expressions that run for arguments left out, as the server prints them; a text may hold several."""

    oid: int
    schema: str
    name: str
    kind: str
    argument_types: tuple[int, ...]
    language: str
    volatility: str
    returns_set: bool
    security_definer: bool
    source: str | None = None
    argument_names: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    extension: str | None = None
    columns: tuple[str, ...] | None = None
    argument_defaults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UserOperator:
    """An operator outside pg_catalog, with the OID of the function behind it."""

    schema: str
    name: str
    function: int


@dataclass(frozen=True, slots=True)
class UserType:
    """A type outside pg_catalog. `functions` are the OIDs of user functions that run when a value of it is read, written,
    checked or cast (domain checks by `expressions`)."""

    oid: int
    schema: str
    name: str
    kind: str
    functions: tuple[int, ...] = ()
    expressions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Catalogue:
    """One reading of a database's catalogue.

    `version` names this reading: two readings of one server with the same version are the same; those of two servers that
    were set up alike need not be. `search_path` is the role's default for this database with "$user" already replaced,
    without pg_catalog and the temporary schema. `relations` holds the system's too. `server_version` is
    server_version_num (150018 for 15.18).
    """

    version: str
    server_version: int
    database: str
    role: str
    search_path: tuple[str, ...]
    schemas: frozenset[str]
    relations: tuple[Relation, ...]
    functions: tuple[Function, ...] = ()
    operators: tuple[UserOperator, ...] = ()
    types: tuple[UserType, ...] = ()
    casts: tuple[int, ...] = ()  # OIDs of user functions behind casts outside the system's own
    foreign_keys: tuple[ForeignKey, ...] = ()
    # For each of `casts` its function, the type it takes and the type it makes; empty where that is not known.
    cast_ends: tuple[tuple[int, int, int], ...] = ()
    event_triggers: bool = False

    @cached_property
    def memory(self) -> dict[Hashable, Any]:
        """What readers worked out from this very reading (the lineage of a view) and keep for the next text."""
        return {}

    @cached_property
    def relation_by_name(self) -> dict[tuple[str, str], Relation]:
        """Relations by schema and name."""
        return {(relation.schema, relation.name): relation for relation in self.relations}

    @cached_property
    def relation_by_oid(self) -> dict[int, Relation]:
        """Relations by OID."""
        return {relation.oid: relation for relation in self.relations}

    @cached_property
    def functions_by_name(self) -> dict[str, tuple[Function, ...]]:
        """User functions by their bare name."""
        found: dict[str, tuple[Function, ...]] = {}
        for function in self.functions:
            found[function.name] = (*found.get(function.name, ()), function)
        return found

    @cached_property
    def function_by_oid(self) -> dict[int, Function]:
        """User functions by OID."""
        return {function.oid: function for function in self.functions}

    @cached_property
    def children(self) -> dict[int, tuple[int, ...]]:
        """For each parent, the relations that inherit from it or are its partitions, directly."""
        found: dict[int, tuple[int, ...]] = {}
        for relation in self.relations:
            for parent in relation.parents:
                found[parent] = (*found.get(parent, ()), relation.oid)
        return found
