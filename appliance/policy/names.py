"""How a name in a rule matches names of the world: `*` for any run of characters, quotes for dots and stars.

A dotted pattern is compared part by part, so `public.*` is every thing with exactly two parts of which the first is
`public`, whatever characters the second has; `*` alone is every thing. Spelling is the target's, letter case included.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NamePattern:
    """A pattern for one name: the literal pieces between its stars, in order. One piece: no star, an exact name."""

    pieces: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        return len(self.pieces) == 1

    def matches(self, name: str) -> bool:
        """True where the whole name is of this form. Linear in the name for each star; no pattern can make it worse."""
        pieces = self.pieces
        if len(pieces) == 1:
            return name == pieces[0]
        first, last = pieces[0], pieces[-1]
        if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
            return False
        at, end = len(first), len(name) - len(last)
        for piece in pieces[1:-1]:
            found = name.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return True


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A pattern for a path; `parts` None matches every path."""

    parts: tuple[NamePattern, ...] | None

    @property
    def exact_path(self) -> tuple[str, ...] | None:
        """The one path this matches, where it has no star."""
        if self.parts is None or not all(part.is_exact for part in self.parts):
            return None
        return tuple(part.pieces[0] for part in self.parts)

    def matches(self, path: tuple[str, ...]) -> bool:
        """True where every part matches the part in its place and there are as many."""
        parts = self.parts
        if parts is None:
            return True
        if len(parts) != len(path):
            return False
        return all(pattern.matches(part) for pattern, part in zip(parts, path, strict=True))


class NameSet:
    """Several patterns for plain names. Exact ones are looked up, because most are exact and rules are asked for every
    effect. An empty set matches nothing."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self, texts: Iterable[str] = ()) -> None:
        patterns = [parse_name(text) for text in texts]
        self._exact = frozenset(pattern.pieces[0] for pattern in patterns if pattern.is_exact)
        self._patterns = tuple(pattern for pattern in patterns if not pattern.is_exact)

    def __bool__(self) -> bool:
        return bool(self._exact or self._patterns)

    def matches(self, name: str) -> bool:
        """True where one of the patterns matches."""
        return name in self._exact or any(pattern.matches(name) for pattern in self._patterns)

    def matching(self, names: frozenset[str]) -> frozenset[str]:
        """Those of the names that one of the patterns matches."""
        found = names & self._exact
        if self._patterns and len(found) < len(names):
            found |= {name for name in names - found if any(pattern.matches(name) for pattern in self._patterns)}
        return found


class PathSet:
    """Several patterns for paths, like NameSet."""

    __slots__ = ("_exact", "_patterns")

    def __init__(self, patterns: Iterable[PathPattern] = ()) -> None:
        listed = list(patterns)
        self._exact = frozenset(path for pattern in listed if (path := pattern.exact_path) is not None)
        self._patterns = tuple(pattern for pattern in listed if pattern.exact_path is None)

    def __bool__(self) -> bool:
        return bool(self._exact or self._patterns)

    def matches(self, path: tuple[str, ...]) -> bool:
        """True where one of the patterns matches."""
        if path in self._exact:
            return True
        return bool(self._patterns) and any(pattern.matches(path) for pattern in self._patterns)


def parse_name(text: str) -> NamePattern:
    """A pattern for one plain name (an agent, a column); dots and quotes in it mean themselves."""
    return NamePattern(tuple(text.split("*")))


def parse_path(text: str) -> PathPattern:
    """A pattern for a path. In double quotes every character means itself, `""` is a quote. Raises ValueError with what
    was found, in words."""
    if text == "*":
        return PathPattern(None)
    parts: list[NamePattern] = []
    at = 0
    while True:
        if text.startswith('"', at):
            name, at = _quoted_part(text, at + 1)
            parts.append(NamePattern((name,)))
        else:
            end = text.find(".", at)
            end = len(text) if end < 0 else end
            part = text[at:end]
            if not part:
                raise ValueError("an empty part between dots")
            if '"' in part:
                raise ValueError("a quote in the middle of a part")
            parts.append(parse_name(part))
            at = end
        if at == len(text):
            return PathPattern(tuple(parts))
        if text[at] != ".":
            raise ValueError("something behind a closing quote that is no dot")
        at += 1


def _quoted_part(text: str, at: int) -> tuple[str, int]:
    """The name in quotes that begins at `at`, and the position behind its closing quote."""
    name = ""
    while True:
        end = text.find('"', at)
        if end < 0:
            raise ValueError("a quote that is never closed")
        name += text[at:end]
        if not text.startswith('""', end):
            if not name:
                raise ValueError("an empty part between quotes")
            return name, end + 1
        name += '"'
        at = end + 2
