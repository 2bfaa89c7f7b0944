"""The words in which a text of SQL is understood: what `sql.analysis.read` answers and what it needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from appliance.effects import Effect, Thing
from appliance.sql.catalogue import Relation

# A longer text is not read at all: who reads holds everything else of its process up. A text of this size was seen to cost
# 3 s as an INSERT of ordinary rows, 6 s and 400 MB at its densest (rows of two digits); both grow with the length.
TEXT_LENGTH_MAX = 1 << 20
"""Characters."""


@dataclass(frozen=True, slots=True)
class Source:
    """A column of a table from which an output column takes its value unchanged."""

    thing: Thing
    field: str
    type_oid: int


@dataclass(frozen=True, slots=True)
class Output:
    """One output column. `sources` are all the columns whose values it may show unchanged (several after UNION ALL);
    empty where it shows none, and then no masked value is in it, because any other use has its effect."""

    name: str
    sources: frozenset[Source] = frozenset()


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a text cannot be run: an SQLSTATE, a message in the server's manner, and a position (1-based, 0: none)."""

    sqlstate: str
    message: str
    position: int = 0


# What a statement changes about the session once the server has confirmed it. Only these are tracked; what would change
# how later text is read in any other way has an `unknown` effect.


@dataclass(frozen=True, slots=True)
class SetSearchPath:
    """`path` None: back to the default. `local`: until the end of the transaction."""

    path: tuple[str, ...] | None
    local: bool = False


@dataclass(frozen=True, slots=True)
class Prepare:
    """PREPARE name: `text` is the statement inside, exactly; `parameter_types` as written (empty: inferred)."""

    name: str
    text: str
    parameter_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deallocate:
    """DEALLOCATE; None: all."""

    name: str | None


@dataclass(frozen=True, slots=True)
class DeclareCursor:
    """DECLARE name CURSOR: what FETCH will show. `outputs` are the query's. `hold`: WITH HOLD, so it outlives
    the transaction."""

    name: str
    outputs: tuple[Output, ...]
    hold: bool = False


@dataclass(frozen=True, slots=True)
class DiscardAll:
    """DISCARD ALL: prepared statements, cursors and settings are gone, temporary tables too."""


@dataclass(frozen=True, slots=True)
class ChangeCatalogue:
    """The statement changes what exists. `created` are plain tables whose columns it tells in full, so that later
    statements of the same transaction can be read before the change is visible from outside (oid 0); they take the place
    of any of the same name. `dropped` are the schemas and names of tables that are no more. `unclear`: names may mean
    something else in other ways too, which show in the catalogue once the transaction is over and not before."""

    created: tuple[Relation, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()
    unclear: bool = False


@dataclass(frozen=True, slots=True)
class Transaction:
    """Transaction control; `sort` is "begin", "commit", "rollback", "savepoint", "release" or "rollback to". `chain`:
    AND CHAIN starts another at once."""

    sort: str
    name: str | None = None
    chain: bool = False


# Statements whose meaning depends on no name that an earlier statement could have changed.
NAMELESS = frozenset(
    {"TransactionStmt", "VariableSetStmt", "VariableShowStmt", "DiscardStmt", "DeallocateStmt", "ClosePortalStmt"}
)


Change = SetSearchPath | Prepare | Deallocate | DeclareCursor | DiscardAll | ChangeCatalogue | Transaction


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a text. `sort` is the name of its node in the server's grammar ("SelectStmt"). `outputs` is None
    where it returns no rows. `text` is its own part of the whole. `copies`: "in" or "out" for COPY … STDIN/STDOUT,
    with `copies_binary`; `copies_oddly`: with marks or in an encoding that keep values from looking like what they are.
    What FETCH and EXECUTE return are the outputs of the cursor or prepared statement."""

    sort: str
    text: str
    effects: frozenset[Effect]
    outputs: tuple[Output, ...] | None = None
    change: Change | None = None
    copies: str | None = None
    copies_binary: bool = False
    copies_oddly: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """A whole text, understood. `shown` is the text with sensitive literals hidden. `sensitive`: some were. With a
    `problem` there is at least one `unknown` effect. `parameters` is the highest $n used."""

    statements: tuple[Statement, ...]
    effects: frozenset[Effect]
    shown: str
    sensitive: bool
    parameters: int = 0
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class SessionView:
    """What of a session's state the meaning of a text depends on.

    `search_path` is the effective one without the implicit pg_catalog and pg_temp. `prepared` maps the names of prepared
    statements, SQL-level and protocol-level alike (one name space, as at the server), to their texts; `cursors` maps
    names of cursors and portals to their outputs. `created` are tables made in this session that the catalogue does not
    show yet, temporary ones in schema "pg_temp". `dropped` are schemas and names of tables that the catalogue still shows
    and that the open transaction has dropped or renamed. `settled`: however the open transaction ends, names mean what they
    mean now.
    """

    search_path: tuple[str, ...]
    prepared: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cursors: Mapping[str, tuple[Output, ...]] = field(default_factory=lambda: MappingProxyType({}))
    created: tuple[Relation, ...] = ()
    dropped: frozenset[tuple[str, str]] = frozenset()
    settled: bool = False
