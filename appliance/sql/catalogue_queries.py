"""How a database's catalogue is asked for and put together: the texts of SQL, and what their answers mean.

The caller runs, on a connection of its own that logs in as the flows' account,

    BEGIN READ ONLY ISOLATION LEVEL REPEATABLE READ; SET LOCAL search_path = ''; then each of QUERIES; COMMIT

in the order given, and hands the answers to `build`. Each query answers one row with one text. VERSION_QUERY comes first,
so that what changes while the rest is read shows as another version the next time. With an empty search_path the server
prints every name outside pg_catalog with its schema. The queries work from PostgreSQL 13 on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec
from pglast import ast, parse_sql
from pglast.parser import ParseError
from pglast.stream import RawStream

from appliance.errors import SluicegateError
from appliance.sql.catalogue import (
    Catalogue,
    ForeignKey,
    Function,
    Relation,
    TableColumn,
    Trigger,
    UserOperator,
    UserType,
)


class CatalogueError(SluicegateError, ValueError):
    """The answers are not what the queries ask for; `query` names the first that is wrong."""

    def __init__(self, query: str, found: str) -> None:
        super().__init__(f"the catalogue query {query!r} was answered with {found}")
        self.query = query


# The first OID that initdb does not give away (FirstNormalObjectId in access/transam.h): below it all is the system's.
_USERS = 16384

# Whose objects are users' is told by schema and OID together: an extension may put functions into pg_catalog, and
# information_schema may have been loaded anew.
_OWN_SCHEMAS = "'pg_catalog', 'information_schema'"
_NAMED_SCHEMA = "n.nspname !~ '^pg_(toast|temp_)'"

# Tables that are there to stay. Temporary ones come and go with sessions and are tracked there; a TOAST table is no part
# of the catalogue, so that nobody reads one.
_LASTING = "(select oid from lasting)"

# What the version is a digest of: the rows of each catalogue on which the meaning of a statement depends, and what of a row
# counts. A row's xmin is another after each change of it; pg_class goes by content, because TRUNCATE changes it too.
_WATCHED: tuple[tuple[str, str], ...] = (
    ("pg_namespace where nspname !~ '^pg_(toast_)?temp_'", "oid, xmin"),
    (
        f"pg_class where oid in {_LASTING}",
        "oid, relnamespace, relname, relkind, relowner, reloftype, relrowsecurity, relforcerowsecurity, reloptions",
    ),
    (f"pg_attribute where attnum > 0 and attrelid in {_LASTING}", "attrelid, attnum, xmin"),
    (f"pg_attrdef where adrelid in {_LASTING}", "oid, xmin"),
    (f"pg_inherits where inhrelid in {_LASTING}", "inhrelid, inhparent, xmin"),
    (f"pg_index where indrelid in {_LASTING}", "indexrelid, xmin"),
    (f"pg_partitioned_table where partrelid in {_LASTING}", "partrelid, xmin"),
    (f"pg_trigger where tgrelid in {_LASTING}", "oid, xmin"),
    (f"pg_rewrite where ev_class in {_LASTING}", "oid, xmin"),
    (f"pg_policy where polrelid in {_LASTING}", "oid, xmin"),
    (f"pg_constraint where oid >= {_USERS} and (conrelid = 0 or conrelid in {_LASTING})", "oid, xmin"),
    (
        f"pg_type where oid >= {_USERS} and typnamespace not in (select oid from pg_namespace where nspname ~ '^pg_temp_')",
        "oid, xmin",
    ),
    (f"pg_range where rngtypid >= {_USERS}", "rngtypid, xmin"),
    (f"pg_proc where oid >= {_USERS}", "oid, xmin"),
    (f"pg_operator where oid >= {_USERS}", "oid, xmin"),
    (f"pg_cast where oid >= {_USERS}", "oid, xmin"),
    (f"pg_amproc where oid >= {_USERS}", "oid, xmin"),
    (f"pg_amop where oid >= {_USERS}", "oid, xmin"),
    ("pg_language", "oid, xmin"),
    ("pg_extension", "oid, xmin"),
    ("pg_depend where deptype = 'e'", "classid, objid, refobjid"),
    ("pg_event_trigger", "oid, xmin"),
    (
        "pg_db_role_setting where setdatabase in (0, (select oid from pg_database where datname = current_database()))",
        "setdatabase, setrole, setconfig",
    ),
)


def _digest(rows: str, row: str) -> str:
    """How many rows, and a sum over a hash of each, so that their order does not matter."""
    return f"(select count(*) || ':' || coalesce(sum(hashtextextended(concat_ws(' ', {row}), 0)), 0) from {rows})"


# One text that is another once anything changed on which the reading of a statement depends: cheap, to be asked often.
VERSION_QUERY: str = (
    "with lasting as materialized (\n"
    f"  select oid from pg_class where oid >= {_USERS} and relpersistence <> 't' and relkind <> 't')\n"
    "select encode(sha256(convert_to(concat_ws(' ',\n"
    "  current_database(), current_user, current_setting('server_version_num'),\n"
    "  (select reset_val from pg_settings where name = 'search_path'),\n  "
    + ",\n  ".join(_digest(rows, row) for rows, row in _WATCHED)
    + "), 'UTF8')), 'hex')"
)


def _rows(parts: str, order: str, rest: str) -> str:
    """A query that answers one JSON array, with an array of `parts` for each row of `rest`."""
    return f"select coalesce(json_agg(json_build_array({parts}) order by {order}), '[]')::text {rest}"


_SESSION = """select json_build_object(
  'database', current_database(), 'role', current_user, 'server_version', current_setting('server_version_num')::int,
  'search_path', (select reset_val from pg_settings where name = 'search_path'),
  'event_triggers', exists (select from pg_event_trigger where evtenabled <> 'D'))::text"""

_SCHEMAS = _rows("n.nspname, has_schema_privilege(n.oid, 'USAGE')", "n.oid", f"from pg_namespace n where {_NAMED_SCHEMA}")

# Indexes and row types are here for their names, which they share with tables.
_RELATIONS = _rows(
    f"""c.oid::bigint, n.nspname, c.relname, c.relkind,
    case when c.relkind in ('v', 'm') and c.oid >= {_USERS} then pg_get_viewdef(c.oid) end,
    exists (select from pg_rewrite w where w.ev_class = c.oid and w.rulename <> '_RETURN'),
    exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')""",
    "c.oid",
    f"""from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where {_NAMED_SCHEMA}
      and (c.relkind in ('r', 'v', 'm', 'p', 'f', 'S') or c.relkind in ('c', 'i', 'I') and c.oid >= {_USERS})""",
)

_COLUMNS = _rows(
    "a.attrelid::bigint, a.attnum, a.attname, a.atttypid::bigint, pg_get_expr(d.adbin, d.adrelid), a.attgenerated <> ''",
    "a.attrelid, a.attnum",
    """from pg_attribute a join pg_class c on c.oid = a.attrelid
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
    where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'v', 'm', 'p', 'f', 'S', 'c')""",
)

_PARENTS = _rows("inhrelid::bigint, inhparent::bigint", "inhrelid, inhseqno", "from pg_inherits")

# Trigger functions of the system's own that see and change nothing but the row that is being written.
_HARMLESS_TRIGGERS = ", ".join(
    f"'pg_catalog.{name}'::regproc"
    for name in ("suppress_redundant_updates_trigger", "tsvector_update_trigger", "tsvector_update_trigger_column")
)

# A partition's copy of its parent's trigger counts as internal before PostgreSQL 15; the system's own (foreign keys) call
# the system's functions. A trigger that fires in a replica only is listed too.
_TRIGGERS = _rows(
    """t.tgrelid::bigint, t.tgname, t.tgtype, t.tgfoid::bigint,
    case when t.tgqual is not null then pg_get_triggerdef(t.oid) end""",
    "t.tgrelid, t.tgname",
    f"""from pg_trigger t
    where t.tgenabled <> 'D' and (not t.tgisinternal or t.tgparentid <> 0 and t.tgfoid >= {_USERS})
      and t.tgfoid not in ({_HARMLESS_TRIGGERS})""",
)

_EXPRESSIONS = _rows(
    "relation::bigint, expression",
    "relation, expression",
    f"""from (
      select polrelid as relation, pg_get_expr(polqual, polrelid) as expression from pg_policy
      union all select polrelid, pg_get_expr(polwithcheck, polrelid) from pg_policy
      union all select conrelid, pg_get_expr(conbin, conrelid) from pg_constraint where contype = 'c' and conrelid <> 0
      union all select indrelid, pg_get_expr(indexprs, indrelid) from pg_index where indrelid >= {_USERS}
      union all select indrelid, pg_get_expr(indpred, indrelid) from pg_index where indrelid >= {_USERS}
      union all select partrelid, pg_get_expr(partexprs, partrelid) from pg_partitioned_table
    ) found where expression is not null""",
)

_FUNCTIONS = _rows(
    """p.oid::bigint, n.nspname, p.proname, p.prokind, array(select unnest(p.proargtypes)::bigint), l.lanname, p.provolatile,
    p.proretset, p.prosecdef, case when l.lanname = 'sql' then p.prosrc end,
    case when l.lanname = 'sql' and p.prosrc = '' and p.prokind in ('f', 'p') then pg_get_functiondef(p.oid) end,
    p.proargnames, p.proargmodes, p.proconfig, e.extname, t.typrelid::bigint, t.typtype, pg_get_expr(p.proargdefaults, 0)""",
    "p.oid",
    f"""from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
    join pg_type t on t.oid = p.prorettype
    left join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
    left join pg_extension e on e.oid = d.refobjid
    where p.oid >= {_USERS} or n.nspname not in ({_OWN_SCHEMAS})""",
)

_OPERATORS = _rows(
    "n.nspname, o.oprname, o.oprcode::oid::bigint",
    "o.oid",
    f"""from pg_operator o join pg_namespace n on n.oid = o.oprnamespace
    where o.oid >= {_USERS} or n.nspname not in ({_OWN_SCHEMAS})""",
)

_TYPES = _rows(
    f"""t.oid::bigint, n.nspname, t.typname, t.typtype, t.typrelid::bigint,
    array[t.typbasetype::bigint, t.typelem::bigint, coalesce(r.rngsubtype, 0)::bigint, coalesce(m.rngtypid, 0)::bigint],
    array(select distinct f::bigint from (
      select unnest(array[t.typinput, t.typoutput, t.typreceive, t.typsend, t.typmodin, t.typmodout, t.typanalyze,
                          r.rngcanonical, r.rngsubdiff]::oid[])
      union all select amproc::oid from pg_amproc where t.oid in (amproclefttype, amprocrighttype)
      union all select o.oprcode::oid from pg_amop join pg_operator o on o.oid = amopopr
        where t.oid in (amoplefttype, amoprighttype)
    ) ran(f) where f >= {_USERS}),
    array(select pg_get_expr(conbin, 0) from pg_constraint where contypid = t.oid and conbin is not null)
      || case when t.typdefaultbin is not null then array[pg_get_expr(t.typdefaultbin, 0)] else '{{}}' end""",
    "t.oid",
    f"""from pg_type t join pg_namespace n on n.oid = t.typnamespace
    left join pg_range r on r.rngtypid = t.oid
    left join pg_range m on t.typtype = 'm' and to_jsonb(m) ->> 'rngmultitypid' = t.oid::text
    where {_NAMED_SCHEMA} and (t.oid >= {_USERS} or n.nspname not in ({_OWN_SCHEMAS}))""",
)

_CASTS = _rows(
    "castfunc::bigint, castsource::bigint, casttarget::bigint",
    "oid",
    f"from pg_cast where castfunc >= {_USERS}",
)

_KEY_COLUMNS = """array(select a.attname::text from unnest(k.{key}) with ordinality as u(number, place)
      join pg_attribute a on a.attrelid = k.{table} and a.attnum = u.number order by u.place)"""

_FOREIGN_KEYS = _rows(
    f"""k.conrelid::bigint, {_KEY_COLUMNS.format(key="conkey", table="conrelid")},
    k.confrelid::bigint, {_KEY_COLUMNS.format(key="confkey", table="confrelid")}, k.confdeltype, k.confupdtype,
    k.conname, k.conparentid <> 0""",
    "k.oid",
    "from pg_constraint k where k.contype = 'f'",
)

QUERIES: tuple[tuple[str, str], ...] = (
    ("version", VERSION_QUERY),
    ("session", _SESSION),
    ("schemas", _SCHEMAS),
    ("relations", _RELATIONS),
    ("columns", _COLUMNS),
    ("parents", _PARENTS),
    ("triggers", _TRIGGERS),
    ("expressions", _EXPRESSIONS),
    ("functions", _FUNCTIONS),
    ("operators", _OPERATORS),
    ("types", _TYPES),
    ("casts", _CASTS),
    ("foreign keys", _FOREIGN_KEYS),
)


class _Session(msgspec.Struct):
    database: str
    role: str
    server_version: int
    search_path: str
    event_triggers: bool


class _Relation(msgspec.Struct, array_like=True):
    oid: int
    schema: str
    name: str
    kind: str
    definition: str | None
    rules: bool
    extension: bool


class _Column(msgspec.Struct, array_like=True):
    relation: int
    number: int
    name: str
    type_oid: int
    default: str | None
    generated: bool


class _Trigger(msgspec.Struct, array_like=True):
    relation: int
    name: str
    bits: int
    function: int
    definition: str | None


class _Function(msgspec.Struct, array_like=True):
    oid: int
    schema: str
    name: str
    kind: str
    argument_types: tuple[int, ...]
    language: str
    volatility: str
    returns_set: bool
    security_definer: bool
    source: str | None
    definition: str | None
    names: tuple[str, ...] | None
    modes: tuple[str, ...] | None
    settings: tuple[str, ...] | None
    extension: str | None
    row: int
    result_kind: str
    defaults: str | None


class _Type(msgspec.Struct, array_like=True):
    oid: int
    schema: str
    name: str
    kind: str
    row: int
    made_of: tuple[int, ...]
    functions: tuple[int, ...]
    expressions: tuple[str, ...]


class _ForeignKey(msgspec.Struct, array_like=True):
    child: int
    child_columns: tuple[str, ...]
    parent: int
    parent_columns: tuple[str, ...]
    on_delete: str
    on_update: str
    name: str = ""
    inherited: bool = False


_Answer = TypeVar("_Answer")


def build(rows: Mapping[str, str]) -> Catalogue:
    """A catalogue out of the answers, by the names in QUERIES. Raises CatalogueError where one is missing or malformed."""
    session = _read(rows, "session", _Session)
    schemas = _read(rows, "schemas", list[tuple[str, bool]])
    columns: dict[int, list[TableColumn]] = {}
    for column in _read(rows, "columns", list[_Column]):
        columns.setdefault(column.relation, []).append(
            TableColumn(column.number, column.name, column.type_oid, column.default, column.generated)
        )
    parents: dict[int, list[int]] = {}
    for child, parent in _read(rows, "parents", list[tuple[int, int]]):
        parents.setdefault(child, []).append(parent)
    expressions: dict[int, list[str]] = {}
    for relation, expression in _read(rows, "expressions", list[tuple[int, str]]):
        expressions.setdefault(relation, []).append(expression)
    triggers: dict[int, list[Trigger]] = {}
    for trigger in _read(rows, "triggers", list[_Trigger]):
        triggers.setdefault(trigger.relation, []).append(Trigger(trigger.name, _events(trigger.bits), trigger.function))
        if trigger.definition is not None:
            expressions.setdefault(trigger.relation, []).append(_condition(trigger.definition))
    casts = _read(rows, "casts", list[tuple[int, int, int]])
    return Catalogue(
        version=_text(rows, "version"),
        server_version=session.server_version,
        database=session.database,
        role=session.role,
        search_path=_search_path(session.search_path, session.role, {name for name, usable in schemas if usable}),
        schemas=frozenset(name for name, _ in schemas),
        relations=tuple(
            Relation(
                each.oid,
                each.schema,
                each.name,
                each.kind,
                tuple(columns.get(each.oid, ())),
                each.definition,
                each.rules,
                tuple(parents.get(each.oid, ())),
                tuple(triggers.get(each.oid, ())),
                tuple(expressions.get(each.oid, ())),
                each.extension,
            )
            for each in _read(rows, "relations", list[_Relation])
        ),
        functions=tuple(_function(each, columns) for each in _read(rows, "functions", list[_Function])),
        operators=tuple(UserOperator(*each) for each in _read(rows, "operators", list[tuple[str, str, int]])),
        types=_types(_read(rows, "types", list[_Type]), columns),
        casts=tuple(function for function, _, _ in casts),
        cast_ends=tuple(casts),
        foreign_keys=tuple(
            ForeignKey(
                each.child,
                each.child_columns,
                each.parent,
                each.on_delete,
                each.on_update,
                each.parent_columns,
                each.name,
                each.inherited,
            )
            for each in _read(rows, "foreign keys", list[_ForeignKey])
        ),
        event_triggers=session.event_triggers,
    )


def _text(rows: Mapping[str, str], query: str) -> str:
    text = rows.get(query)
    if not text:
        raise CatalogueError(query, "nothing")
    return text


def _read(rows: Mapping[str, str], query: str, kind: type[_Answer]) -> _Answer:
    try:
        return msgspec.json.decode(_text(rows, query), type=kind)
    except msgspec.DecodeError as error:
        raise CatalogueError(query, f"what it does not ask for: {error}") from None


def _events(bits: int) -> frozenset[str]:
    """The events of pg_trigger.tgtype (catalog/pg_trigger.h)."""
    return frozenset(event for bit, event in ((4, "insert"), (8, "delete"), (16, "update"), (32, "truncate")) if bits & bit)


# An expression that cannot be read: a text that no grammar takes, so that whoever reads it refuses.
_UNREADABLE = "?unreadable?"


def _condition(definition: str) -> str:
    """The WHEN condition of a trigger, out of its CREATE TRIGGER."""
    try:
        statement = parse_sql(definition)[0].stmt
    except (ParseError, IndexError):
        return _UNREADABLE
    if not isinstance(statement, ast.CreateTrigStmt) or statement.whenClause is None:
        return _UNREADABLE
    return str(RawStream()(statement.whenClause))


def _function(each: _Function, columns: Mapping[int, list[TableColumn]]) -> Function:
    names = each.names or ()
    modes = each.modes or ("i",) * len(names)
    return Function(
        each.oid,
        each.schema,
        each.name,
        each.kind,
        each.argument_types,
        each.language,
        each.volatility,
        each.returns_set,
        each.security_definer,
        each.source if each.definition is None else _body(each.definition),
        tuple(name for name, mode in zip(names, modes, strict=False) if mode in "ibv"),
        each.settings or (),
        each.extension,
        _shown_columns(each, columns.get(each.row, ()) if each.row else ()),
        () if each.defaults is None else (each.defaults,),
    )


# Kinds of types (pg_type.typtype) whose values are one column: base, enum, range, multirange. A domain may be over a row.
_PLAIN_KINDS = "berm"


def _shown_columns(each: _Function, row: Iterable[TableColumn]) -> tuple[str, ...] | None:
    """What a call in FROM shows: its OUT, INOUT and TABLE arguments, or the columns of the row type it returns, or the one
    value under the function's name (which gives way to an alias). None for a bare record and what stands for any type."""
    out = tuple(name for name, mode in zip(each.names or (), each.modes or (), strict=False) if mode in "bot")
    if out:
        return tuple(name or f"column{number}" for number, name in enumerate(out, 1))
    return tuple(column.name for column in row) or ((each.name,) if each.result_kind in _PLAIN_KINDS else None)


def _body(definition: str) -> str | None:
    """The body of a function written as BEGIN ATOMIC or RETURN, as statements of their own; None where it is not found.

    pg_get_functiondef prints the body last. Should the head contain the same words in a literal, what is cut out here
    does not parse, and whoever reads it refuses.
    """
    _, found, rest = definition.partition("\nBEGIN ATOMIC\n")
    if found:
        body, end, _ = rest.rpartition("\nEND")
        return body if end else None
    _, found, rest = definition.partition("\nRETURN ")
    return f"SELECT {rest}" if found else None


def _types(types: list[_Type], columns: Mapping[int, list[TableColumn]]) -> tuple[UserType, ...]:
    """The types, each with what its parts run too: base types, elements, attributes, bounds."""
    by_oid = {each.oid: each for each in types}
    found: list[UserType] = []
    for each in types:
        functions: dict[int, None] = {}
        expressions: dict[str, None] = {}
        seen: set[int] = set()
        waiting = [each.oid]
        while waiting:
            oid = waiting.pop()
            part = by_oid.get(oid)
            if part is None or oid in seen:
                continue
            seen.add(oid)
            functions.update(dict.fromkeys(part.functions))
            expressions.update(dict.fromkeys(part.expressions))
            waiting.extend(part.made_of)
            waiting.extend(column.type_oid for column in columns.get(part.row, ()) if part.row)
        found.append(UserType(each.oid, each.schema, each.name, each.kind, tuple(functions), tuple(expressions)))
    return tuple(found)


_PATH_PART = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^",]*?))\s*(?:,|\Z)')


def _search_path(setting: str, role: str, usable: set[str]) -> tuple[str, ...]:
    """The schemas of a search_path (SplitIdentifierString in utils/adt/varlena.c) that the server would search, in order.

    pg_catalog at the head is what the server does anyway, so it is left out; further down it stays, because then users'
    schemas come before it.
    """
    path: list[str] = []
    position = 0
    while position < len(setting):
        match = _PATH_PART.match(setting, position)
        if match is None:
            raise CatalogueError("session", "a search_path that cannot be read")
        position = match.end()
        name = match[1].replace('""', '"') if match[1] is not None else match[2].lower()
        if name == "$user":
            name = role
        if name in path or not (name in usable or name == "pg_temp"):
            continue
        path.append(name)
    return tuple(path[1:] if path[:1] == ["pg_catalog"] else path)
