"""Shared by all tests."""

import os
import signal

import pytest
from hypothesis import settings

# A loaded machine is slow, not wrong; a failing example prints how to run it again.
settings.register_profile("fedfleet", deadline=None, max_examples=40, print_blob=True)
settings.load_profile("fedfleet")

# Begun in the background of a script, this process ignores Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROCESS = os.getpid()


def end_what_was_started(number, frame):
    """What Ctrl-C does, so that hosts and servers end with the tests; a fork of this process just ends."""
    if os.getpid() == PROCESS:
        raise KeyboardInterrupt
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


signal.signal(signal.SIGTERM, end_what_was_started)


@pytest.fixture(scope="module")
def chromium():
    """A running Chromium, driven by Playwright."""
    from tests.e2e import browser

    if not browser.CHROMIUM:
        pytest.skip(browser.MISSING)
    with browser.launched() as running:
        yield running


@pytest.fixture(scope="module")
def postgres():
    """A running PostgreSQL, which a test may stop and has to start again."""
    from tests.server.postgres import PostgresServer, programs

    if programs() is None:
        pytest.skip("no PostgreSQL is installed: apt-get install postgresql")
    server = PostgresServer()
    yield server
    server.end()
