"""Which object a name means: the search path, temporary tables, and what earlier statements of a text have made."""

from __future__ import annotations

import re

from appliance.sql import system
from appliance.sql.catalogue import Catalogue, Function, Relation, UserOperator, UserType
from appliance.sql.reading import Output, Problem, SessionView

SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_toast"})
TEMPORARY = "pg_temp"

_NAME_PART = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([A-Za-z_\u0080-\U0010ffff][\w$\u0080-\U0010ffff]*))\s*(\.|$)')


class TroubleError(Exception):
    """The text cannot be run as it stands."""

    def __init__(self, sqlstate: str, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.problem = Problem(sqlstate, message, position)


class State:
    """A session's state as far as names depend on it, changed by each statement of a text in turn.

    `made` holds tables by schema and name: those the session made and the catalogue does not show yet, and None for
    those that the open transaction or earlier statements of this text have dropped.
    """

    __slots__ = ("_order", "_path", "catalogue", "cursors", "made", "prepared")

    def __init__(self, catalogue: Catalogue, session: SessionView) -> None:
        self.catalogue = catalogue
        self._path = session.search_path
        self._order: tuple[str, ...] | None = None
        self.prepared: dict[str, str] = dict(session.prepared) if session.prepared else {}
        self.cursors: dict[str, tuple[Output, ...]] = dict(session.cursors) if session.cursors else {}
        self.made: dict[tuple[str, str], Relation | None] = dict.fromkeys(session.dropped)
        self.made |= {(relation.schema, relation.name): relation for relation in session.created}

    def copy(self) -> State:
        """A state of its own that begins like this one; a body's changes end with it."""
        other = State.__new__(State)
        other.catalogue = self.catalogue
        other._path = self._path
        other._order = None
        other.prepared, other.cursors, other.made = {}, {}, dict(self.made)
        return other

    @property
    def path(self) -> tuple[str, ...]:
        """The search path without the implicit schemas."""
        return self._path

    @path.setter
    def path(self, path: tuple[str, ...]) -> None:
        self._path = path
        self._order = None

    @property
    def order(self) -> tuple[str, ...]:
        """All schemas in the order in which a relation's name is looked up."""
        if self._order is None:
            order = self._path if "pg_catalog" in self._path else ("pg_catalog", *self._path)
            self._order = order if TEMPORARY in order else (TEMPORARY, *order)
        return self._order

    @property
    def _seen(self) -> tuple[str, ...]:
        """The schemas in which functions, operators and types are looked up: users may have put some beside the system's."""
        return self._path if "pg_catalog" in self._path else ("pg_catalog", *self._path)

    @property
    def system_first(self) -> bool:
        """Whether no schema of users' comes before the system's own."""
        return "pg_catalog" not in self._path or self._path[0] == "pg_catalog"

    def relation(self, schema: str | None, name: str) -> Relation | None:
        """The relation of that name, or None."""
        if schema is not None:
            return self._relation_in(schema, name)
        for place in self.order:
            found = self._relation_in(place, name)
            if found is not None:
                return found
        return None

    def _relation_in(self, schema: str, name: str) -> Relation | None:
        key = (schema, name)
        if key in self.made:
            return self.made[key]
        return self.catalogue.relation_by_name.get(key)

    def creation_schema(self) -> str | None:
        """Where a new object without a schema goes."""
        for schema in self._path:
            if schema in self.catalogue.schemas and schema != TEMPORARY:
                return schema
        return None

    def functions(self, schema: str | None, name: str) -> tuple[Function, ...]:
        """Users' functions that the name may mean, all overloads."""
        found = self.catalogue.functions_by_name.get(name, ())
        if schema is not None:
            return tuple(function for function in found if function.schema == schema)
        return tuple(function for function in found if function.schema in self._seen) if found else ()

    def is_system_function(self, schema: str | None, name: str) -> bool:
        """Whether the name may mean a function of the system's."""
        if schema in (None, "pg_catalog"):
            return system.is_system_function(name)
        return schema == "information_schema" and system.is_safe_function(f"information_schema.{name}")

    def is_safe_function(self, schema: str | None, name: str) -> bool:
        """Whether the system's function of that name may be called with anything."""
        return schema == "information_schema" or system.is_safe_function(name)

    def operators(self, schema: str | None, name: str) -> tuple[UserOperator, ...]:
        """Users' operators that the name may mean."""
        found = operators_by_name(self.catalogue).get(name, ())
        if schema is not None:
            return tuple(operator for operator in found if operator.schema == schema)
        return tuple(operator for operator in found if operator.schema in self._seen) if found else ()

    def type(self, schema: str | None, name: str) -> UserType | None:
        """The user's type of that name, or None."""
        for place in (schema,) if schema is not None else self._seen:
            found = types_by_name(self.catalogue).get((place, name))
            if found is not None:
                return found
        return None


def operators_by_name(catalogue: Catalogue) -> dict[str, tuple[UserOperator, ...]]:
    """Users' operators by their bare name."""
    found: dict[str, tuple[UserOperator, ...]] | None = catalogue.memory.get("operators by name")
    if found is None:
        found = {}
        for operator in catalogue.operators:
            found[operator.name] = (*found.get(operator.name, ()), operator)
        catalogue.memory["operators by name"] = found
    return found


def types_by_name(catalogue: Catalogue) -> dict[tuple[str, str], UserType]:
    """Users' types by schema and name."""
    found: dict[tuple[str, str], UserType] | None = catalogue.memory.get("types by name")
    if found is None:
        found = {(kind.schema, kind.name): kind for kind in catalogue.types}
        catalogue.memory["types by name"] = found
    return found


def types_by_oid(catalogue: Catalogue) -> dict[int, UserType]:
    """Users' types by OID."""
    found: dict[int, UserType] | None = catalogue.memory.get("types by oid")
    if found is None:
        found = {kind.oid: kind for kind in catalogue.types}
        catalogue.memory["types by oid"] = found
    return found


def kin(catalogue: Catalogue, relation: Relation, *, descend: bool = True) -> tuple[Relation, ...]:
    """A relation's descendants (where `descend`) and ancestors by inheritance and partitioning, each once."""
    if not relation.oid:
        found: list[Relation] = []
        for parent in relation.parents:
            above = catalogue.relation_by_oid.get(parent)
            if above is not None:
                found += [above, *kin(catalogue, above, descend=False)]
        return tuple(found)
    key = ("kin", relation.oid, descend)
    known: tuple[Relation, ...] | None = catalogue.memory.get(key)
    if known is None:
        reached: dict[int, Relation] = {}
        waiting = list(relation.parents)
        while waiting:
            oid = waiting.pop()
            above = catalogue.relation_by_oid.get(oid)
            if above is not None and oid not in reached:
                reached[oid] = above
                waiting.extend(above.parents)
        waiting = list(catalogue.children.get(relation.oid, ())) if descend else []
        while waiting:
            oid = waiting.pop()
            below = catalogue.relation_by_oid.get(oid)
            if below is not None and oid not in reached:
                reached[oid] = below
                waiting.extend(catalogue.children.get(oid, ()))
        reached.pop(relation.oid, None)
        known = tuple(reached.values())
        catalogue.memory[key] = known
    return known


def written_name(text: str) -> tuple[str | None, str] | None:
    """Schema and name out of a text like those that a cast to regclass takes; None where it is not one."""
    parts: list[str] = []
    position = 0
    while True:
        match = _NAME_PART.match(text, position)
        if match is None or len(parts) == 2:
            return None
        parts.append(match[1].replace('""', '"') if match[1] is not None else match[2].lower())
        position = match.end()
        if match[3] != ".":
            break
    return (parts[0], parts[1]) if len(parts) == 2 else (None, parts[0])
