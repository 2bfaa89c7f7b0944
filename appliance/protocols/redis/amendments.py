"""Which text may stand in for a held command, and which words it is."""

from __future__ import annotations

from appliance.errors import AmendmentError, PeerError
from appliance.protocols.redis.commands import name_of
from appliance.protocols.redis.requests import COMMAND_BYTES_MAX, WORDS_MAX, split_words

_CHARACTERS_MAX = 1 << 20  # what a person types


def amended_words(original: tuple[bytes, ...], text: str) -> tuple[bytes, ...]:
    """The words of `text`. Raises AmendmentError where they cannot stand in for the original ones."""
    if len(text) > _CHARACTERS_MAX:
        raise AmendmentError(f"a changed command may have {_CHARACTERS_MAX} characters")
    try:
        words = split_words(text.encode())
    except (PeerError, UnicodeEncodeError):
        raise AmendmentError('a Redis command is its words, separated by spaces; "…" may hold spaces and \\x00') from None
    if not words or len(words) > WORDS_MAX or sum(map(len, words)) > COMMAND_BYTES_MAX:
        raise AmendmentError(f"a Redis command has at least one word and at most {WORDS_MAX}")
    if name_of(words) != name_of(original):
        raise AmendmentError("only the arguments of a held command can be changed, because its reply must keep its form")
    return words
