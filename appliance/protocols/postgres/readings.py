"""Which readings of a text are kept, so that a statement that comes again, or one like it, is not analysed again.

A reading is kept under its exact text. Where two texts that differ in nothing but mere values (sql.templates says which
literals those are) were read in full and alike, a template is kept as well, and it serves every further text of that form.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

from appliance.effects import Effect, EffectsKey
from appliance.sql.catalogue import Catalogue
from appliance.sql.reading import Reading, SessionView
from appliance.sql.redaction import redact
from appliance.sql.templates import Cut, Template, cut, is_eligible, kept_literals, proved

# A worker serves a few applications with some hundred statements each; a reading takes some kilobytes.
READINGS_MAX: Final = 4_096
# A longer text is a bulk load or a script: it hardly comes again, and must not push out what does.
TEXT_LENGTH_MAX: Final = 32 << 10
# What the texts may have together, in characters: READINGS_MAX of the longest ones, with what was read, would be gigabytes.
TEXTS_LENGTH_MAX: Final = 16 << 20
# Texts that were read elsewhere and not yet asked for: one for each flow that is about to.
_TAKEN_MAX: Final = 8

Read = Callable[[str, Catalogue, SessionView], Reading]

# What a literal that stands by itself takes beyond its characters.
_LITERAL_LENGTH: Final = 64

# More of them and somebody is making up search paths.
_PLACES_MAX: Final = 1_000


def depends_on_names(text: str) -> bool:
    """The text's meaning may depend on the session's prepared statements and cursors."""
    # A keyword cannot be written with escapes, so a text without these letters has none of them; one with them by chance is
    # only analysed once more. Some fifty times as fast as a pattern that knows no case, and texts may be long.
    said = text.lower()
    return "execute" in said or "fetch" in said or "move" in said or "close" in said or "deallocate" in said


class Known:
    """A text that did not have to be analysed.

    `reading` is that of exactly this text, as if it had been read in full: its statements' texts and what is shown are
    this text's own. `key` stands for its effects: give it to whoever keeps verdicts. `is_eligible`: one SELECT, INSERT,
    UPDATE or DELETE, understood whole, that changes nothing about the session and copies nothing. `template`: what made
    the reading, None where the exact text was kept.
    """

    __slots__ = ("_hidden", "_text", "is_eligible", "key", "reading", "template")

    def __init__(
        self, text: str, reading: Reading, key: EffectsKey, *, is_eligible: bool, template: Template | None = None
    ) -> None:
        self._text = text
        self.reading = reading
        self.key = key
        self.is_eligible = is_eligible
        self.template = template
        self._hidden = "" if template is None else template.hidden

    @property
    def shown(self) -> str:
        """The text as a person may see it."""
        return self.reading.shown

    @property
    def hidden(self) -> str:
        """The text with every literal hidden, for one that touches masked columns."""
        if not self._hidden:
            self._hidden = redact(self._text, hide_literals=True)
        return self._hidden


class _Place:
    """All that a reading depends on beside the text. There is one object for equal ones, because that is found at once."""

    __slots__ = ()


class _Form:
    """What is known of the texts of one skeleton. `kept`: the literals that belong to what a reading is kept under, None
    while only one text, `first`, has been seen. `barren`: it has no template."""

    __slots__ = ("barren", "first", "kept", "length")

    def __init__(self, text: str, reading: Reading) -> None:
        self.first: tuple[str, Reading] | None = (text, reading)
        self.kept: tuple[int, ...] | None = None
        self.barren = False
        self.length = 2 * len(text)


class _Series:
    """Texts of one skeleton that have the same kept literals: the first of them, then their template."""

    __slots__ = ("first", "key", "length", "template")

    def __init__(self, text: str, reading: Reading, key: EffectsKey, kept: tuple[str, ...]) -> None:
        self.first: tuple[str, Reading] | None = (text, reading)
        self.key = key
        self.template: Template | None = None
        self.length = 2 * len(text) + _LITERAL_LENGTH * len(kept)


class _Exact:
    __slots__ = ("known", "length")

    def __init__(self, text: str, known: Known) -> None:
        self.known = known
        self.length = 2 * len(text)  # what it is with all literals hidden is kept beside it


_Kept = _Exact | _Form | _Series
# An exact text, a skeleton, a skeleton with the literals that are kept.
_Name = tuple[_Place, str] | tuple[_Place, str, tuple[str, ...] | None]


class ReadingCache:
    """Readings under everything they were derived from, shared by the flows of one caller to one resource.

    `room` is what the caches of a worker have together; a cache without one has it all to itself.
    """

    def __init__(self, read: Read, room: ReadingRoom | None = None) -> None:
        self._read = read
        self._room = room if room is not None else ReadingRoom(read)
        self._room.enter(self)
        self._kept: OrderedDict[_Name, _Kept] = OrderedDict()
        # What was read elsewhere and is about to be asked for.
        self._taken: deque[tuple[str, Catalogue, SessionView, Reading]] = deque(maxlen=_TAKEN_MAX)
        self._keys: WeakValueDictionary[frozenset[Effect], EffectsKey] = WeakValueDictionary()
        self._length = 0
        # The place of the last question: one session mostly asks several times in a row.
        self._catalogue: Catalogue | None = None
        self._path: tuple[str, ...] = ()
        self._both = (_Place(), _Place())  # unsettled, settled
        self._places: dict[tuple[str, str, tuple[str, ...], str], tuple[_Place, _Place]] = {}

    def __len__(self) -> int:
        """Readings, forms and templates that are kept."""
        return len(self._kept)

    @property
    def length(self) -> int:
        """Characters of all the texts that are kept."""
        return self._length

    def find(self, text: str, catalogue: Catalogue, session: SessionView) -> Known | None:
        """The reading of a text, if it can be told without analysis; else None, and then `read` learns it.

        Of the session nothing counts but its path, `settled`, and that nothing was created or dropped: a text whose meaning
        depends on its names is never found.
        """
        if session.created or session.dropped or len(text) > TEXT_LENGTH_MAX:
            return None
        place = self._place(catalogue, session)
        exact = self._use((place, text))
        if type(exact) is _Exact:
            return exact.known
        parts = cut(text)
        return None if parts is None else self._find_series(parts, place)

    def read(self, text: str, catalogue: Catalogue, session: SessionView) -> tuple[Reading, EffectsKey | None]:
        """The reading of a text, and the key under which a verdict on it may be reused, None where it may not be."""
        if len(text) > TEXT_LENGTH_MAX or session.created or session.dropped:
            return self._analysed(text, catalogue, session), None
        place = self._place(catalogue, session)
        exact = self._use((place, text))
        if type(exact) is _Exact:
            return exact.known.reading, exact.known.key
        parts = cut(text)
        known = None if parts is None else self._find_series(parts, place)
        if known is not None:
            return known.reading, known.key
        reading = self._analysed(text, catalogue, session)
        if depends_on_names(text):
            return reading, None
        key = self._key(reading.effects)
        is_plain = is_eligible(reading)
        if parts is None or not is_plain or not self._learn(parts, reading, key, place):
            self._keep((place, text), _Exact(text, Known(text, reading, key, is_eligible=is_plain)))
        return reading, key

    def wants_help(self, text: str, catalogue: Catalogue, session: SessionView) -> bool:
        """Whether the text has to be read elsewhere first, and `take` be called with what it does."""
        length_max = self._room.here_max
        if length_max is None or len(text) <= length_max or self._has_taken(text, catalogue, session):
            return False
        return len(text) > TEXT_LENGTH_MAX or self.find(text, catalogue, session) is None

    def take(self, text: str, catalogue: Catalogue, session: SessionView, reading: Reading) -> None:
        """What a text does, for the next time that it is read."""
        self._taken.append((text, catalogue, session, reading))

    def _has_taken(self, text: str, catalogue: Catalogue, session: SessionView) -> bool:
        return any(taken[1] is catalogue and taken[0] == text and taken[2] == session for taken in self._taken)

    def _analysed(self, text: str, catalogue: Catalogue, session: SessionView) -> Reading:
        for taken in self._taken:
            if taken[1] is catalogue and taken[0] == text and taken[2] == session:
                self._taken.remove(taken)
                return taken[3]
        return self._read(text, catalogue, session)

    def drop_oldest(self) -> None:
        """Forget what was not used for longest."""
        _, oldest = self._kept.popitem(last=False)
        self._length -= oldest.length
        self._room.count -= 1
        self._room.length -= oldest.length

    # --- the parts of a cache

    def _place(self, catalogue: Catalogue, session: SessionView) -> _Place:
        if catalogue is not self._catalogue or session.search_path is not self._path:
            names = (catalogue.database, catalogue.role, session.search_path, catalogue.version)
            both = self._places.get(names)
            if both is None:
                if len(self._places) >= _PLACES_MAX:
                    self._places.clear()  # what is kept for them is out of reach then, and goes as the oldest
                both = self._places[names] = (_Place(), _Place())
            self._catalogue, self._path, self._both = catalogue, session.search_path, both
        return self._both[session.settled]

    def _key(self, effects: frozenset[Effect]) -> EffectsKey:
        key = self._keys.get(effects)
        if key is None:
            key = self._keys[effects] = EffectsKey(effects)
        return key

    def _use(self, name: _Name) -> _Kept | None:
        found = self._kept.get(name)
        if found is not None:
            self._kept.move_to_end(name)
        return found

    def _keep(self, name: _Name, kept: _Kept) -> None:
        # Every name is new: what is asked for is looked up before it is kept.
        self._kept[name] = kept
        self._length += kept.length
        self._room.count += 1
        self._room.length += kept.length
        self._room.make_room()

    def _find_series(self, parts: Cut, place: _Place) -> Known | None:
        form = self._use((place, parts.skeleton, None))
        if type(form) is not _Form or form.kept is None:
            return None
        series = self._use((place, parts.skeleton, tuple([parts.literals[each] for each in form.kept])))
        if type(series) is not _Series or series.template is None:
            return None
        reading = series.template.read(parts)
        return (
            None if reading is None else Known(parts.text, reading, series.key, is_eligible=True, template=series.template)
        )

    def _learn(self, parts: Cut, reading: Reading, key: EffectsKey, place: _Place) -> bool:
        """Take a text that was read in full into account. True: there is a template by now that serves it."""
        name = (place, parts.skeleton, None)
        form = self._kept.get(name)
        if type(form) is not _Form:
            self._keep(name, _Form(parts.text, reading))
            return False
        if form.barren:
            return False
        if form.first is not None:
            (text, earlier), form.first = form.first, None
            form.kept = kept_literals(parts)
            if form.kept is None or len(form.kept) == len(parts.literals):
                form.barren, form.kept = True, None
                return False
            first = cut(text)
            assert first is not None
            self._learn_of_series(first, earlier, self._key(earlier.effects), form, place)
        return self._learn_of_series(parts, reading, key, form, place)

    def _learn_of_series(self, parts: Cut, reading: Reading, key: EffectsKey, form: _Form, place: _Place) -> bool:
        assert form.kept is not None
        kept = tuple([parts.literals[each] for each in form.kept])
        name = (place, parts.skeleton, kept)
        series = self._kept.get(name)
        if type(series) is not _Series:
            self._keep(name, _Series(parts.text, reading, key, kept))
            return False
        if series.first is None or series.first[0] == parts.text:
            return False  # the template could not tell about this text
        first, series.first = series.first, None
        series.template = proved(form.kept, first, (parts, reading))
        if series.template is None:
            # Our word on what is a mere value was wrong: no other series of this skeleton may rest on it.
            form.barren, form.kept = True, None
        return series.template is not None


class ReadingRoom:
    """The reading caches of one worker, one for each caller at each resource, and what they may keep together.

    What is too much is taken from whoever keeps most. So a caller that sends ever new texts pushes out its own, and
    nothing of one who keeps no more than an even part.
    """

    def __init__(self, read: Read, here_max: int | None = None) -> None:
        """`here_max`: longer texts, in characters, are read elsewhere; None: none are."""
        self._read = read
        self.here_max = here_max
        self._named: dict[tuple[str, str], ReadingCache] = {}
        self._caches: list[ReadingCache] = []
        self.count = 0
        self.length = 0

    def of(self, agent: str, resource: str) -> ReadingCache:
        """The cache of that caller at that resource; there are as many as there are of both in the configuration.

        A catalogue's version tells two readings of one server apart. Two servers that were set up alike have the same
        versions for different contents (OIDs and transactions are counted anew in each), so that they share no reading.
        """
        cache = self._named.get((agent, resource))
        if cache is None:
            cache = self._named[agent, resource] = ReadingCache(self._read, self)
        return cache

    def enter(self, cache: ReadingCache) -> None:
        """One more cache shares this room."""
        self._caches.append(cache)

    def make_room(self) -> None:
        """Keep no more than may be kept."""
        while self.count > READINGS_MAX:
            max(self._caches, key=len).drop_oldest()
        while self.length > TEXTS_LENGTH_MAX:
            max(self._caches, key=lambda cache: cache.length).drop_oldest()
