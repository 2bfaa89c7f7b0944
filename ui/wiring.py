"""What every command is given: where the appliance is, and how the programs behind some commands are run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONFIGURATION: Final = "/etc/sluicegate/sluicegate.yaml"
VARIABLE: Final = "SLUICEGATE_CONFIGURATION"

Up = Callable[[Path, int | None, int | None], int]
Control = Callable[[Path, int], int]
Worker = Callable[[Path, int, tuple[int, ...], int], int]
Web = Callable[[Path, int, int | None, int], int]
Placeholder = Callable[[], tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Programs:
    """`up`, `control`, `worker` and `web` run the processes and answer their exit code; `placeholder` makes a password and
    its verifier; `protocols` are the names that resources may have."""

    up: Up
    control: Control
    worker: Worker
    web: Web
    protocols: frozenset[str]
    placeholder: Placeholder


@dataclass(frozen=True, slots=True)
class Given:
    """What a command gets as its context's object. `state` and `run` are the folders of recordings and of sockets."""

    configuration: Path
    state: str
    run: str
    programs: Programs


def folders(configuration: Path) -> tuple[str, str]:
    """The folders of state and of sockets. What people ask must not fail because a file of the appliance's is unfit or not
    theirs to read, so then the defaults stand, and the socket says whether they are right."""
    from appliance.configuration import read_text
    from appliance.documents import read_document
    from appliance.errors import SettingError, SettingErrors
    from appliance.settings import NetworkSettings, Settings

    defaults = Settings((), (), (), NetworkSettings(()), ())
    try:
        data = read_document(str(configuration), read_text(str(configuration))).data
    except (SettingError, SettingErrors):
        return defaults.state, defaults.run
    section = data.get("appliance") if isinstance(data, dict) else None
    named = section if isinstance(section, dict) else {}
    folder = configuration.absolute().parent

    def place(name: str, default: str) -> str:
        value = named.get(name)
        return str(folder / value) if isinstance(value, str) else default

    return place("state", defaults.state), place("run", defaults.run)
