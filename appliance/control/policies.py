"""Which policy is in force: the files as last read whole and sound, and what is wrong with those that were not.

A new policy replaces the old one only when all of it can be read; until then the old one stays in force, and the fault is
said in the log, in `sluicegate status` and to whoever asked for the reload.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from appliance.configuration import read_policy_files
from appliance.errors import SettingErrors
from appliance.policy.reading import read_policy
from appliance.policy.rules import Policy

Files = tuple[tuple[str, str], ...]
_Look = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True, slots=True)
class InForce:
    """A sound policy with the files it was read from."""

    policy: Policy
    files: Files


class PolicyFolder:
    """The policy files at `paths`. Raises SettingErrors where they are unfit at the start."""

    def __init__(self, paths: tuple[str, ...], hold_seconds: float) -> None:
        self._paths = paths
        self._hold_seconds = hold_seconds
        self.fault = ""
        self._read_at = self._seen = self._look()
        self.in_force = self._read()

    def reload(self) -> bool:
        """Read all files now. True where another policy is in force afterwards; `fault` says what is wrong, if anything."""
        self._read_at = self._seen = self._look()
        try:
            found = self._read()
        except SettingErrors as error:
            self.fault = str(error)
            return False
        self.fault = ""
        if found.policy.version == self.in_force.policy.version:
            return False
        self.in_force = found
        return True

    def has_settled_anew(self) -> bool:
        """Whether the files have changed since they were last read, and not since the last call: an editor or a copy may
        be half done, and half a policy that reads well is the worst."""
        look = self._look()
        settled = look == self._seen and look != self._read_at
        self._seen = look
        return settled

    def _read(self) -> InForce:
        files = read_policy_files(self._paths)
        return InForce(read_policy(files, self._hold_seconds), files)

    def _look(self) -> _Look:
        found = []
        for path in self._paths:
            folder = Path(path)
            try:
                files = [folder / name for name in sorted(os.listdir(folder))] if folder.is_dir() else [folder]
            except OSError:
                files = [folder]
            for file in files:
                try:
                    status = file.stat()
                except OSError:
                    found.append((str(file), 0, 0, 0))
                else:
                    found.append((str(file), status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)
