"""What a statement touches, gathered while it is read: one read for each thing and use, with all its fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from appliance.effects import Action, Effect, Kind, Scalar, Thing, Use
from appliance.sql.reading import Source

# Of one column these uses may stand side by side; a thing without any of them was scanned without its values being used.
_Key = tuple[Thing, Use | None]


class Touched:
    """Reads and other effects, without doubles."""

    __slots__ = ("effects", "reads")

    def __init__(self) -> None:
        self.reads: dict[_Key, set[str]] = {}
        self.effects: set[Effect] = set()

    def scan(self, thing: Thing) -> None:
        """Rows of that thing are read, whatever is used of them."""
        self.reads.setdefault((thing, None), set())

    def use(self, sources: Iterable[Source], use: Use) -> None:
        """Those columns are used so."""
        for source in sources:
            self.reads.setdefault((source.thing, use), set()).add(source.field)

    def add(self, effect: Effect) -> None:
        """One more effect that is not a read of columns."""
        self.effects.add(effect)

    def take(self, other: Touched) -> None:
        """All that `other` has."""
        for key, fields in other.reads.items():
            self.reads.setdefault(key, set()).update(fields)
        self.effects |= other.effects

    def take_computed(self, other: Touched) -> None:
        """All that `other` has, with every read of a value counted as a computation on it."""
        for (thing, use), fields in other.reads.items():
            self.reads.setdefault((thing, None if use is None else Use.COMPUTE), set()).update(fields)
        self.effects |= other.effects

    def is_clear(self) -> bool:
        """Whether all of it was understood."""
        return not any(effect.action is Action.UNKNOWN for effect in self.effects)

    def finished(self, **attributes: Scalar) -> frozenset[Effect]:
        """All effects; reads carry `attributes`."""
        marks = tuple(sorted(attributes.items()))
        found = set(self.effects)
        valued = {thing for thing, use in self.reads if use is not None}
        for (thing, use), fields in self.reads.items():
            if use is None and thing in valued:
                continue
            found.add(Effect(Action.READ, thing, frozenset(fields), use, marks))
        return frozenset(found)


def table(schema: str, name: str) -> Thing:
    """The thing that a relation is."""
    return Thing(Kind.TABLE, (schema, name))


def marked(
    action: Action, kind: Kind, path: Iterable[str], marks: Mapping[str, Scalar], fields: frozenset[str] = frozenset()
) -> Effect:
    """An effect whose attributes depend on the case."""
    return Effect(action, Thing(kind, tuple(path)), fields, None, tuple(sorted(marks.items())))
