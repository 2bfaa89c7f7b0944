"""Our own connections to targets, on which what exists in a database is read, and how fresh that is kept.

One connection per resource and database, made on demand with the account of its flows. Whoever asks gets an answer that was
checked against the target after the question: a cheap query for the version where a catalogue is known, else the whole.
Everybody who asks while a check runs shares the next one. While a resource has flows, its known catalogues are checked again
every few seconds, because others change databases too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import psycopg

from appliance.control.connections import Connection, connect
from appliance.control.log import Level, log
from appliance.credentials.vault import Vault
from appliance.errors import SluicegateError, UnavailableError
from appliance.settings import ResourceSettings, Settings
from appliance.sql.catalogue import Catalogue
from appliance.sql.catalogue_queries import QUERIES, VERSION_QUERY, build

APPLICATION_NAME = "sluicegate catalogue"
READ_SECONDS = 60.0
"""A catalogue of 100,000 relations takes a few seconds."""

IDLE_SECONDS = 60.0
POLL_SECONDS = 2.0
DATABASES_MAX = 64
AT_ONCE_MAX = 8
"""So that a client that names one database after another does not take all of a target's connections."""

_BEGIN = "begin read only isolation level repeatable read; set local search_path = ''"


@dataclass(frozen=True, slots=True)
class Known:
    """A catalogue and its msgpack."""

    catalogue: Catalogue
    encoded: bytes


@dataclass(slots=True, eq=False)
class _Database:
    """What is known of one database. `next_check` is shared by all who asked since the running one began."""

    resource: ResourceSettings
    name: str
    used: float
    connection: Connection | None = None
    known: Known | None = None
    checked: float | None = None
    fault: str = ""
    running: asyncio.Task[Known] | None = None
    next_check: asyncio.Task[Known] | None = None
    waiting: int = field(default=0)


class Catalogues:
    """Readings of catalogues. `changed(resource, database)` is told when one turned out to differ from what was known;
    `has_flows(resource, database)` says whether it is worth watching. `clock` gives seconds that only go forward."""

    def __init__(
        self,
        settings: Settings,
        vault: Vault,
        changed: Callable[[str, str], None],
        has_flows: Callable[[str, str], bool],
        clock: Callable[[], float],
    ) -> None:
        self._resources = {resource.name: resource for resource in settings.resources}
        self._vault = vault
        self._changed = changed
        self._has_flows = has_flows
        self._clock = clock
        self._databases: dict[tuple[str, str], _Database] = {}
        self._at_once = asyncio.Semaphore(AT_ONCE_MAX)
        self._closing: set[asyncio.Task[None]] = set()

    async def current(self, resource: str, database: str) -> Known:
        """The catalogue as it is now. Raises UnavailableError where it can't be read."""
        place = self._place(resource, database)
        place.used = self._clock()
        if place.next_check is None:
            place.next_check = asyncio.get_running_loop().create_task(self._check_after(place, place.running))
            # Everybody who asked may be gone when it fails.
            place.next_check.add_done_callback(lambda task: task.cancelled() or task.exception())
        # Shielded: the others who share it still wait when this one goes.
        place.waiting += 1
        try:
            return await asyncio.shield(place.next_check)
        finally:
            place.waiting -= 1

    async def watch(self) -> None:
        """Check what is in use, and let go of what is not. Until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            now = self._clock()
            for key, place in list(self._databases.items()):
                if place.waiting or place.running is not None:
                    continue
                if self._has_flows(*key) and place.known is not None:
                    await self._poll(place)
                elif now - place.used > IDLE_SECONDS:
                    self._databases.pop(key, None)
                    await self._drop(place)

    def states(self) -> list[dict[str, object]]:
        """For `status`: what is known of each database."""
        return [
            {
                "resource": place.resource.name,
                "database": place.name,
                "version": place.known.catalogue.version if place.known else None,
                "relations": len(place.known.catalogue.relations) if place.known else 0,
                "connected": place.connection is not None and not place.connection.closed,
                "fault": place.fault,
            }
            for place in self._databases.values()
        ]

    def ages(self) -> list[tuple[str, float | None, bool]]:
        """For each database its resource, for how many seconds nobody has looked whether its catalogue is still right (None:
        nobody has yet), and whether that can't be read."""
        now = self._clock()
        return [
            (place.resource.name, None if place.checked is None else now - place.checked, bool(place.fault))
            for place in self._databases.values()
        ]

    async def close(self) -> None:
        """End all readings and connections."""
        for place in self._databases.values():
            tasks = [task for task in (place.running, place.next_check) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._drop(place)
        self._databases.clear()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _place(self, resource: str, database: str) -> _Database:
        settings = self._resources.get(resource)
        if settings is None or settings.protocol != "postgres":
            raise UnavailableError(f"{resource} has no catalogue")
        if "\0" in database or not 0 < len(database.encode()) <= 63:
            raise UnavailableError("there is no database of such a name")
        key = (resource, database)
        if key not in self._databases:
            if len(self._databases) >= DATABASES_MAX:
                self._forget_oldest()
            self._databases[key] = _Database(settings, database, self._clock())
        return self._databases[key]

    def _forget_oldest(self) -> None:
        idle = [
            (place.used, key)
            for key, place in self._databases.items()
            if not place.waiting and place.running is None and not self._has_flows(*key)
        ]
        if not idle:
            raise UnavailableError(f"flows to {DATABASES_MAX} databases are live already")
        place = self._databases.pop(min(idle)[1])
        if place.connection is not None:
            self._closing.add(closing := asyncio.get_running_loop().create_task(self._drop(place)))
            closing.add_done_callback(self._closing.discard)

    async def _check_after(self, place: _Database, running: asyncio.Task[Known] | None) -> Known:
        if running is not None:
            await asyncio.wait([running])
        # From here on it is the running one: whoever asks now wants another, begun later.
        place.running, place.next_check = place.next_check, None
        try:
            async with self._at_once:
                known = await self._check(place)
        except BaseException:
            # A failing name is not kept: clients choose database names.
            if place.known is None and place.next_check is None:
                self._databases.pop((place.resource.name, place.name), None)
            raise
        finally:
            place.running = None
        return known

    async def _poll(self, place: _Database) -> None:
        try:
            await self.current(place.resource.name, place.name)
        except UnavailableError:
            # Said in `status` and, on a change, in the log; whoever needs the catalogue is refused by a check of its own.
            return

    async def _check(self, place: _Database) -> Known:
        before = place.known
        try:
            async with asyncio.timeout(READ_SECONDS):
                known = await self._read(place)
        except (psycopg.Error, OSError, TimeoutError, SluicegateError) as error:
            await self._drop(place)
            reason = _first_line(error)
            if place.fault != reason:
                log(
                    "catalogue unreadable",
                    level=Level.WARNING,
                    resource=place.resource.name,
                    database=place.name,
                    reason=reason,
                )
            place.fault = reason
            raise UnavailableError(f"what exists in {place.resource.name}/{place.name} can't be read: {reason}") from error
        place.fault = ""
        place.known = known
        place.checked = self._clock()
        if before is not None and before.catalogue.version != known.catalogue.version:
            self._changed(place.resource.name, place.name)
        return known

    async def _read(self, place: _Database) -> Known:
        connection = place.connection
        if connection is not None and not connection.closed and place.known is not None:
            try:
                version = await self._version(connection)
            except psycopg.OperationalError:
                # It was idle and the target or something between has ended it: once more on a new one.
                await self._drop(place)
            else:
                if version == place.known.catalogue.version:
                    return place.known
        if place.connection is None or place.connection.closed:
            place.connection = await connect(place.resource, place.name, self._vault, APPLICATION_NAME)
            if place.known is not None and await self._version(place.connection) == place.known.catalogue.version:
                return place.known
        rows = await self._rows(place.connection)
        return await asyncio.to_thread(_build, rows)

    async def _version(self, connection: Connection) -> str:
        # One round trip. The empty search_path is also what keeps a table named like one of the catalogue's out of it.
        cursor = await connection.execute(f"{_BEGIN}; {VERSION_QUERY}; commit")
        while cursor.description is None and cursor.nextset():
            pass
        return _only(await cursor.fetchone(), "version")

    async def _rows(self, connection: Connection) -> dict[str, str]:
        await connection.execute(_BEGIN)
        rows = {name: _only(await (await connection.execute(query)).fetchone(), name) for name, query in QUERIES}
        await connection.execute("commit")
        return rows

    async def _drop(self, place: _Database) -> None:
        connection, place.connection = place.connection, None
        if connection is not None:
            await connection.close()


def _only(row: tuple[str] | None, query: str) -> str:
    if row is None:
        raise UnavailableError(f"the target answered nothing to the catalogue query {query!r}")
    return row[0]


def _build(rows: dict[str, str]) -> Known:
    catalogue = build(rows)
    return Known(catalogue, msgspec.msgpack.encode(catalogue))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
