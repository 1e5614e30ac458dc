"""What goes wrong at many simulated sites in the same way is told once; the journal has all of it."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Iterator

LOGGERS = ("fl.rounds.site", "fl.rounds.exchange")
"""Who tells of a site's error: with its traceback, and with its reason."""


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """For as long as the context lasts, the log has each traceback and each reason once; forked workers included."""
    told = _Once()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(told)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(told)


class _Once(logging.Filter):
    """Lets the first record of a kind pass: of the same lines of code, or with the same reason."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[object] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is the first of its kind."""
        kind: object = (record.msg, record.args[-1]) if isinstance(record.args, tuple) and record.args else record.msg
        if record.exc_info and record.exc_info[2] is not None:
            frames = traceback.extract_tb(record.exc_info[2])
            kind = (record.exc_info[0], *((frame.filename, frame.lineno) for frame in frames))
        if kind in self._seen:
            return False
        self._seen.add(kind)
        return True
