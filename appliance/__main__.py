"""Wires the rooms together; the only file that knows them all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ui.cli import build_cli

# What one process alone needs is imported there: the command line answers at once, and a worker that has to come back
# serves the sooner.
if TYPE_CHECKING:
    from appliance.flow.worker import FlowFacts, InspectorMaker
    from appliance.protocols.postgres.inspector import PostgresInspector
    from appliance.protocols.redis.inspector import RedisInspector
    from appliance.settings import Settings

# Characters of a statement that a worker reads itself: some milliseconds. Longer ones are read in a process beside it.
_READ_HERE_MAX: Final = 2_000

PROTOCOLS: Final = frozenset({"postgres", "redis"})
"""The names in the table of protocols."""


def inspectors() -> dict[str, InspectorMaker]:
    """The table of protocols, with what the flows of one worker share."""
    from appliance.masking.detectors import prepare
    from appliance.protocols.postgres.inspector import PostgresInspector
    from appliance.protocols.postgres.readings import ReadingRoom
    from appliance.protocols.redis.inspector import RedisInspector
    from appliance.sql.analysis import read

    prepare()
    readings = ReadingRoom(read, _READ_HERE_MAX)

    def postgres(facts: FlowFacts) -> PostgresInspector:
        return PostgresInspector(
            tls=facts.resource.tls,
            placeholder=facts.placeholder,
            random=os.urandom,
            own_key=facts.cancel_key,
            readings=readings.of(facts.principal.agent, facts.resource.name),
        )

    def redis(_facts: FlowFacts) -> RedisInspector:
        return RedisInspector()

    return {"postgres": postgres, "redis": redis}


def run(protocols: frozenset[str], table: Callable[[], Mapping[str, InspectorMaker]], module: str) -> None:
    """The whole program with these protocols, the names in `table`. `module` is what its processes are started as."""

    def up(configuration: Path, ready: int | None, dashboard: int | None) -> int:
        from appliance.configuration import read_configuration
        from appliance.log import FORM_VARIABLE
        from appliance.supervision import supervise
        from kernel.gateway import catch, check

        settings = read_configuration(str(configuration), protocols)
        os.environ.setdefault(FORM_VARIABLE, settings.log)
        program = [sys.executable, "-m", module]
        file = str(configuration.resolve())

        def control_command(serving: int) -> list[str]:
            return [*program, "control", "--configuration", file, "--ready-fd", str(serving)]

        def worker_command(index: int, sockets: tuple[int, ...], serving: int) -> list[str]:
            listed = ",".join(str(descriptor) for descriptor in sockets)
            words = [
                "worker",
                "--configuration",
                file,
                "--index",
                str(index),
                "--sockets",
                listed,
                "--ready-fd",
                str(serving),
            ]
            return [*program, *words]

        def dashboard_command(listening: int, metrics: int | None, serving: int) -> list[str]:
            words = ["web", "--configuration", file, "--socket", str(listening), "--ready-fd", str(serving)]
            return [*program, *words, *(() if metrics is None else ("--metrics-socket", str(metrics)))]

        def mend() -> tuple[str, ...]:
            problems = check()
            if problems:
                catch(settings.networks)
            return problems

        catch(settings.networks)
        # The rules stay when we leave: executors are refused then, and nothing passes by.
        return supervise(settings, control_command, worker_command, ready, mend, dashboard_command, dashboard)

    def control(configuration: Path, ready: int) -> int:
        from appliance.configuration import read_configuration
        from appliance.control.process import run_control

        settings = read_configuration(str(configuration), protocols)
        return run_control(settings, str(configuration), protocols, _announce(ready))

    def worker(configuration: Path, index: int, descriptors: tuple[int, ...], ready: int) -> int:
        import uvloop

        from appliance.configuration import reread_configuration

        settings = reread_configuration(str(configuration), protocols)
        uvloop.run(_work(settings, table(), index, descriptors, ready))
        return 0

    def placeholder() -> tuple[str, str]:
        from appliance.credentials.vault import placeholder as make_placeholder

        return make_placeholder()

    def web(configuration: Path, listening: int, metrics: int | None, ready: int) -> int:
        from appliance.configuration import reread_configuration
        from ui.web.process import run_dashboard

        settings = reread_configuration(str(configuration), protocols)
        return run_dashboard(settings, listening, metrics, _announce(ready))

    build_cli(up=up, control=control, worker=worker, web=web, protocols=protocols, placeholder=placeholder)(
        prog_name="sluicegate"
    )


async def _work(
    settings: Settings, table: Mapping[str, InspectorMaker], index: int, descriptors: tuple[int, ...], ready: int
) -> None:
    import asyncio
    import socket

    from appliance.flow.worker import Worker
    from appliance.log import Log

    Log(f"worker {index}").take_over()
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    await Worker(settings, index, table, asyncio.get_running_loop()).run(sockets, _announce(ready))


def _announce(descriptor: int) -> Callable[[], None]:
    """What a process calls once it serves: the supervisor reads the byte."""

    def announce() -> None:
        os.write(descriptor, b"\n")
        os.close(descriptor)

    return announce


def main() -> None:
    """The command `sluicegate`."""
    run(PROTOCOLS, inspectors, "appliance")


if __name__ == "__main__":
    main()
