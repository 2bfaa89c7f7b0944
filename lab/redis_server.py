"""A real Redis in a lab's target machine: how it is started, and how a test speaks to it past the appliance."""

from __future__ import annotations

import os
import time
from typing import Any, Final

from lab.laboratory import Lab
from lab.machines import EXECUTOR_UID, TARGET, LabError, Place

PORT: Final = 6379
RESOURCE: Final = "cache"
_START_SECONDS: Final = 15.0


def cache_resource() -> dict[str, Any]:
    """What Lab.configure takes for it among `resources`."""
    return {RESOURCE: {"protocol": "redis", "addresses": [f"{TARGET.ipv4}:{PORT}", f"[{TARGET.ipv6}]:{PORT}"]}}


class RedisServer:
    """The server of one lab, from `start` until the lab goes down."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def start(self) -> None:
        """Start it as a user without rights and wait until it answers."""
        folder = self._lab.folder / "redis"
        folder.mkdir(mode=0o700)
        os.chown(folder, EXECUTOR_UID, EXECUTOR_UID)
        options = {
            "bind": f"{TARGET.ipv4} {TARGET.ipv6} 127.0.0.1",
            "port": str(PORT),
            "dir": str(folder),
            "save": "",
            "appendonly": "no",
            "protected-mode": "no",
            "logfile": str(folder / "log"),
        }
        file = folder / "redis.conf"
        file.write_text(
            "".join(f'{name} "{value}"\n' if not value else f"{name} {value}\n" for name, value in options.items())
        )
        os.chown(file, EXECUTOR_UID, EXECUTOR_UID)
        self._lab.start_in(Place.TARGET, ["redis-server", str(file)], "executor")
        deadline = time.monotonic() + _START_SECONDS
        while self.run("PING") != "PONG":
            if time.monotonic() > deadline:
                raise LabError(f"the lab's Redis did not start; see {folder / 'log'}")

    def run(self, *words: str) -> str:
        """One command, directly at the server; its answer as redis-cli prints it."""
        return self._lab.run_in(Place.TARGET, ["redis-cli", "-h", "127.0.0.1", "-p", str(PORT), *words]).stdout.strip()
