"""Which readings of a text are kept, so that a statement that comes again is not analysed again."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

from appliance.sql.catalogue import Catalogue
from appliance.sql.reading import Reading, SessionView

# A worker serves a few applications with some hundred statements each; a reading takes some kilobytes.
READINGS_MAX: Final = 4_096
# A longer text is a bulk load or a script: it hardly comes again, and must not push out what does.
TEXT_LENGTH_MAX: Final = 32 << 10
# What the texts may have together, in characters: READINGS_MAX of the longest ones, with what was read, would be gigabytes.
TEXTS_LENGTH_MAX: Final = 16 << 20

# Statements whose meaning depends on names of the session. A keyword cannot be written with escapes, so a text without
# these letters has none of them; a text with them by chance is only analysed once more.
_NAMES_OF_SESSION = re.compile("execute|fetch|move|close|deallocate", re.IGNORECASE)

Read = Callable[[str, Catalogue, SessionView], Reading]


def depends_on_names(text: str) -> bool:
    """The text's meaning may depend on the session's prepared statements and cursors."""
    return _NAMES_OF_SESSION.search(text) is not None


class ReadingCache:
    """Readings under everything they were derived from. One for each worker, shared by its flows."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._readings: OrderedDict[Hashable, tuple[str, Reading]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        """Readings that are kept."""
        return len(self._readings)

    @property
    def length(self) -> int:
        """Characters of all the texts whose readings are kept."""
        return self._length

    def read(self, text: str, catalogue: Catalogue, session: SessionView) -> tuple[Reading, Hashable]:
        """The reading of a text and the key under which it may be reused, None where it may not be."""
        if len(text) > TEXT_LENGTH_MAX or session.created or session.dropped or depends_on_names(text):
            return self._read(text, catalogue, session), None
        names = (session.search_path, session.settled, catalogue.version)
        key = (text, catalogue.database, catalogue.role, *names)
        kept = self._readings.get(key)
        if kept is not None:
            self._readings.move_to_end(key)
            return kept[1], key
        reading = self._read(text, catalogue, session)
        self._readings[key] = (text, reading)
        self._length += len(text)
        while len(self._readings) > READINGS_MAX or self._length > TEXTS_LENGTH_MAX:
            _, (oldest, _) = self._readings.popitem(last=False)
            self._length -= len(oldest)
        return reading, key
