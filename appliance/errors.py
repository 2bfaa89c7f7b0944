"""What can go wrong across rooms, one class for each way it is dealt with."""

from __future__ import annotations


class SluicegateError(Exception):
    """The root of every error this product raises on purpose."""


class PeerError(SluicegateError):
    """A peer broke its protocol. Its own flow ends, recorded; the others go on.

    `said` is what the peer did, in words an operator can read and without any of the peer's payload, because it is
    recorded and logged in clear.
    """

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said


class SettingError(SluicegateError):
    """A configuration or policy file is wrong: what was found, what was expected, and where.

    `line` counts from 1; 0 stands for a file that could not be read at all.
    """

    def __init__(self, file: str, line: int, found: str, expected: str) -> None:
        place = f"{file}:{line}" if line else file
        super().__init__(f"{place}: found {found}; expected {expected}")
        self.file = file
        self.line = line
        self.found = found
        self.expected = expected


class SettingErrors(SluicegateError):
    """Everything that is wrong with a set of files, so that a person mends them in one go."""

    def __init__(self, errors: tuple[SettingError, ...]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = errors


class AmendmentError(SluicegateError):
    """A person's changed command cannot stand in for the one that is held; the message says why, to that person."""


class RecordingError(SluicegateError):
    """A record could not be written. The flow it belongs to stops (wall 2)."""


class UnavailableError(SluicegateError):
    """A process or a target that is needed does not answer. Whoever asked refuses (wall 7)."""


class RefusedByControlError(UnavailableError):
    """Control is there and will not do what it was asked; the message is its reason. Asking again is of no use."""


class UnfitKernelError(SluicegateError):
    """The kernel or its settings cannot do what is asked: the message says what was found and what was expected."""
