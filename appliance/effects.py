"""What a command does to what: one vocabulary for all protocols.

A command has a set of effects, each an action on one thing. Policy sees nothing else of a command, so an inspector that
cannot tell what a command does says `unknown` and never leaves an effect out.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

Scalar = str | int | bool


class Action(StrEnum):
    """What is done. `connect` is to reach a thing and to manage one's own session there; it changes nothing for others."""

    # An enumeration's own is written in Python, and runs for every effect that is put into a set or looked up.
    __hash__ = str.__hash__

    READ = "read"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    TRUNCATE = "truncate"
    CREATE = "create"
    ALTER = "alter"
    DROP = "drop"
    GRANT = "grant"
    CALL = "call"
    CONNECT = "connect"
    PUBLISH = "publish"
    CONSUME = "consume"
    UPLOAD = "upload"
    DOWNLOAD = "download"
    FORWARD = "forward"
    EXEC = "exec"
    SCALE = "scale"
    ADMIN = "admin"
    UNKNOWN = "unknown"


class Kind(StrEnum):
    """What sort of thing an action falls on. A protocol adds its own sorts here, never a second word for an old one."""

    __hash__ = str.__hash__

    TABLE = "table"  # whatever rows are read from or written to by name: tables, views, materialised views, partitions
    INDEX = "index"
    SEQUENCE = "sequence"
    SCHEMA = "schema"
    DATABASE = "database"
    ROLE = "role"
    FUNCTION = "function"  # functions, procedures, aggregates
    TYPE = "type"
    EXTENSION = "extension"
    SETTING = "setting"
    SESSION = "session"  # the caller's own: transactions, cursors, prepared statements
    CHANNEL = "channel"  # LISTEN and NOTIFY, publish and subscribe
    FILE = "file"  # on the target's machine
    PROGRAM = "program"  # run on the target's machine
    OBJECT = "object"  # any other named thing of the target; the attribute `sort` names it
    SERVER = "server"  # the target as a whole
    KEY = "key"  # of a key-value store
    STREAM = "stream"  # bytes whose meaning we do not read
    STATEMENT = "statement"  # a command that could not be understood


class Use(StrEnum):
    """How the value of a field is used. Masking is sound only for the first."""

    __hash__ = str.__hash__

    OUTPUT = "output"  # returned as it is, as an output column of its own
    COMPARE = "compare"  # tested for equality with a constant or a parameter, and nothing else
    COMPUTE = "compute"  # anything else: expressions, ordering, grouping, joins, storing, counting


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a target: its sort and its path, outermost part first, spelled as the target spells it.

    Examples: (TABLE, ("public", "payroll")), (KEY, ("user:1",)), (DATABASE, ("shop",)).
    """

    kind: Kind
    path: tuple[str, ...]

    @property
    def name(self) -> str:
        """The path joined with dots, as rules and people write it."""
        return ".".join(self.path)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Effect:
    """One action on one thing.

    `fields` are the columns or fields touched; empty means that the action has no fields (drop) or touches the thing as
    a whole. `use` is set where fields are read. `attributes` carry what a rule may ask for beyond that: `form`
    ("plain", "as"), `change` ("add_column"), `opaque` (True: what it runs could not be read), `locks`, `reason`…
    """

    action: Action
    thing: Thing
    fields: frozenset[str] = frozenset()
    use: Use | None = None
    attributes: tuple[tuple[str, Scalar], ...] = ()

    def attribute(self, name: str) -> Scalar | None:
        """The attribute of that name, or None where the effect has none."""
        for key, value in self.attributes:
            if key == name:
                return value
        return None

    def __str__(self) -> str:
        words = [str(self.action), str(self.thing)]
        if self.fields:
            words.append("(" + ", ".join(sorted(self.fields)) + ")")
        if self.use is not None:
            words.append(f"as {self.use}")
        if self.attributes:
            words.append("[" + ", ".join(f"{key}={value}" for key, value in self.attributes) + "]")
        return " ".join(words)


def effect(
    action: Action,
    kind: Kind,
    *path: str,
    fields: frozenset[str] = frozenset(),
    use: Use | None = None,
    **attributes: Scalar,
) -> Effect:
    """An effect with its attributes in a fixed order, so that equal effects compare equal."""
    return Effect(action, Thing(kind, path), fields, use, tuple(sorted(attributes.items())))


def unknown(reason: str, kind: Kind = Kind.STATEMENT, *path: str) -> Effect:
    """What cannot be parsed, resolved or evaluated; `reason` is for people and names no value of the command."""
    return effect(Action.UNKNOWN, kind, *path, reason=reason)


class EffectsKey:
    """Stands for one set of effects, told by identity alone, so that finding what was kept under it costs nothing.

    Whoever makes keys makes one for all equal sets. `length` is how many characters the names in the set have together.
    """

    __slots__ = ("__weakref__", "effects", "length")

    def __init__(self, effects: frozenset[Effect]) -> None:
        self.effects = effects
        names = ((*each.thing.path, *each.fields, *(str(value) for _, value in each.attributes)) for each in effects)
        self.length = sum(len(name) for each in names for name in each)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A bound parameter, decoded for a person. `text` is None for NULL; `shown` is what a person or an export may see."""

    number: int
    type_name: str
    text: str | None
    shown: str | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a result as the client will see it: `source` names the column it comes from, where it is one."""

    name: str
    type_name: str = ""
    source: str | None = None
    masked: bool = False
