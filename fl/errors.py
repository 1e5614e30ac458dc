"""The error tree. Each class has the exit status with which the ``fl`` command ends.

::

    FLError                     1  failed
    ├── InputError              2  refused input: nothing was started or changed
    │   ├── ConfigError            a run file, an option, a value
    │   ├── RefusedError           the centre, a site or its policy says no, and why
    │   ├── TaskError              an unknown task, data that does not fit it
    │   └── JournalError           a journal that cannot be trusted or read
    ├── BusyError               1  somebody else holds it: a lock, a port
    ├── StorageError            1  the disk is full or refuses
    ├── ProcessError            1  a process that we started ended
    ├── RunError                1  the run ended without its model
    │   └── TooFewSitesError    3  because too few sites took part
    ├── SitesError              3  the command did its work, but not at every site
    └── UnreachableError        4  a server that did not answer

Statuses: 0 done, 1 failed, 2 refused input, 3 some sites failed, 4 unreachable, 130 interrupted. 5 is kept for
an exhausted privacy budget. Anything that is not an ``FLError`` is a bug, and ends with its traceback.
"""

from __future__ import annotations

from typing import ClassVar


class FLError(Exception):
    """What went wrong in one line: lower case, with the value and the place at fault, no full stop.

    Args:
        message: What and where.
        hint: What to type or change instead, if there is such a thing.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def as_dict(self) -> dict[str, object]:
        """The same facts for a program: ``error``, ``class``, ``hint``, ``exit_status``."""
        return {
            "error": self.message,
            "class": type(self).__name__,
            "hint": self.hint,
            "exit_status": self.exit_status,
        }


class InputError(FLError):
    """Input that was refused; nothing was started or changed."""

    exit_status = 2


class ConfigError(InputError):
    """A key or value in a file or option that cannot be used."""


class RefusedError(InputError):
    """The centre, a site or its owner's policy says no, in words that are told to who asked."""


class TaskError(InputError):
    """A task that does not exist, or data that does not fit it."""


class JournalError(InputError):
    """A journal that is damaged, foreign or from a newer version."""


class BusyError(FLError):
    """A lock or port that somebody else holds."""


class StorageError(FLError):
    """The disk is full or refuses to write; what was committed before stays whole."""


class ProcessError(FLError):
    """A process that we started ended, or never became ready."""


class RunError(FLError):
    """The run ended without its final model."""


class TooFewSitesError(RunError):
    """Fewer sites took part than the quorum asks, for longer than the run waits."""

    exit_status = 3


class SitesError(FLError):
    """The work was done, but not at every site."""

    exit_status = 3


class UnreachableError(FLError):
    """A server did not answer."""

    exit_status = 4
