"""What a person changed in a command, word by word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

# Comparing costs the product of both lengths at worst; a longer change is shown as taken out and put in whole.
WORDS_MAX: Final = 400

_WORDS = re.compile(r"\s*(?:\w+|[^\w\s])|\s+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of both texts ("same"), or of the old ("out") or the new one ("in") alone."""

    kind: str
    text: str


def differences(old: str, new: str) -> list[Piece]:
    """The pieces in order; all that are not "in" make up the old text, all that are not "out" the new one."""
    before, after = _WORDS.findall(old), _WORDS.findall(new)
    head = _shared(before, after)
    tail = _shared(before[head:][::-1], after[head:][::-1])
    removed, added = before[head : len(before) - tail], after[head : len(after) - tail]
    pieces = [Piece("same", "".join(before[:head]))]
    if len(removed) > WORDS_MAX or len(added) > WORDS_MAX:
        pieces += [Piece("out", "".join(removed)), Piece("in", "".join(added))]
    else:
        for kind, start, end, other, other_end in SequenceMatcher(None, removed, added, autojunk=False).get_opcodes():
            if kind == "equal":
                pieces.append(Piece("same", "".join(removed[start:end])))
            else:
                pieces += [Piece("out", "".join(removed[start:end])), Piece("in", "".join(added[other:other_end]))]
    pieces.append(Piece("same", "".join(before[len(before) - tail :])))
    return [piece for piece in pieces if piece.text]


def _shared(one: list[str], other: list[str]) -> int:
    """How many words both begin with."""
    for number, (first, second) in enumerate(zip(one, other, strict=False)):
        if first != second:
            return number
    return min(len(one), len(other))
