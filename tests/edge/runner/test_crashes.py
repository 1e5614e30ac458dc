"""Whatever happens to a task, to who forks it, or to the runner: an answer that says so, and the next task runs."""

import os
import signal

import pytest

from edge.runner import clientapp
from edge.runner.flower import RuntimeApi
from edge.runner.record import InHand, Record
from tests.supernode import app_of, wait_until

FINE = """
@app.train()
def train(message, context):
    return reply(message, fine=True)
"""
# Long before Flower itself would give a silent task up, which takes a minute.
SOON_S = 50


def failing(how):
    return app_of(f"import os, signal, sys, time, ctypes\n@app.train()\ndef train(message, context):\n    {how}\n")


def error_of(message):
    assert message.has_error(), message.content
    return message.error


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("raise ValueError('a wrong number')", 2, "<class 'ValueError'>:<'a wrong number'>"),
        ("return 'no message'", 2, "the app answered with a str, not with a Message"),
        ("sys.exit('enough')", 8, "the app ended its own process: sys.exit('enough')"),
        ("os._exit(0)", 8, "the app's process ended with status 0 before it answered"),
        ("os._exit(3)", 8, "the app's process ended with status 3 before it answered"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 8, "the app's process was ended by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 8, "the app's process was ended by SIGTERM"),
        ("ctypes.string_at(0)", 8, "the app's process was ended by SIGSEGV, in native code"),
        ("os.abort()", 8, "the app's process was ended by SIGABRT"),
    ],
)
def test_a_task_that_fails_is_an_error_reply_that_names_what_happened(site, how, code, said):
    site.deliver(failing(how))
    error = error_of(site.node.take(SOON_S))
    assert said in error.reason
    assert error.code == code
    assert site.ask(app_of(FINE)).content["answer"]["fine"]


@pytest.mark.parametrize(
    ("at_import", "said"),
    [
        ("raise ValueError('while it is imported')", "while it is imported"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("import sys; sys.exit(4)", "sys.exit(4)"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("del app", "Unable to load attribute app"),
        ("app = 1", "probe_app:app is a int, not a ClientApp"),
    ],
)
def test_an_app_that_fails_to_be_imported_is_an_error_reply(site, at_import, said):
    site.deliver(app_of(at_import))
    assert said in error_of(site.node.take(SOON_S)).reason
    assert site.ask(app_of(FINE)).content["answer"]["fine"]


def test_the_traceback_of_a_crash_is_in_the_sites_log(site):
    site.deliver(failing("ctypes.string_at(0)  # here"))
    error_of(site.node.take(SOON_S))
    assert "Segmentation fault" in site.log.read_text()


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A site with narrow limits."""
    from tests.edge.runner.conftest import sites

    with sites(tmp_path_factory.mktemp("narrow")) as make:
        yield make(memory_mib=300, time_s=6, cpu_s=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            "kept = []\n    while True: kept.append(bytearray(2**24)); time.sleep(0.02)",
            "MiB of memory, and the site allows",
        ),
        ("bytearray(2**36)", "MemoryError"),
        ("time.sleep(60)", "the app ran longer than the 6 s that the site allows"),
        ("while True: pass", "the app used the 2 s of processor time that the site allows"),
    ],
)
def test_a_task_over_a_limit_is_ended_and_told(narrow, how, said):
    narrow.deliver(failing(how))
    assert said in error_of(narrow.node.take(SOON_S)).reason
    assert narrow.ask(app_of(FINE)).content["answer"]["fine"]


@pytest.mark.slow
def test_an_import_without_end_is_ended_too(narrow, tmp_path):
    mark = tmp_path / "runs"
    narrow.deliver(app_of(f"import os, time\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"))
    assert "longer than the 6 s" in error_of(narrow.node.take(SOON_S)).reason
    wait_until(lambda: not os.path.exists(f"/proc/{mark.read_text()}"))
    assert narrow.ask(app_of(FINE)).content["answer"]["fine"]


def sleeper(directory):
    """An app that says when it runs, and does for long; and the file that it makes."""
    mark = directory / "runs"
    mark.unlink(missing_ok=True)
    how = f"open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(100)"
    return failing(how), mark


@pytest.mark.slow
@pytest.mark.parametrize("who", ["runner", "base"])
def test_a_killed_runner_is_started_again_and_answers_for_the_task_in_hand(make_site, tmp_path, who):
    site = make_site()
    fab, mark = sleeper(tmp_path)
    site.deliver(fab)
    wait_until(lambda: mark.exists() and mark.read_text())
    os.kill(site.children()[0] if who == "runner" else site.process.pid, signal.SIGKILL)
    site.restart()
    error = error_of(site.node.take(SOON_S))
    assert error.code == 8
    assert "runner ended while it had this message" in error.reason
    wait_until(lambda: not os.path.exists(f"/proc/{mark.read_text()}"), otherwise="the app outlives its runner")
    assert site.ask(app_of(FINE)).content["answer"]["fine"]


def test_a_killed_zygote_of_an_app_is_replaced(site, tmp_path):
    fab, mark = sleeper(tmp_path)
    site.deliver(fab)
    wait_until(lambda: mark.exists() and mark.read_text())
    os.kill(site.zygote(), signal.SIGKILL)
    assert "were ended by somebody" in error_of(site.node.take(SOON_S)).reason
    assert site.ask(app_of(FINE)).content["answer"]["fine"]
    os.kill(site.zygote(), signal.SIGKILL)
    assert site.ask(app_of(FINE)).content["answer"]["fine"]


@pytest.mark.slow
def test_a_supernode_that_forgot_the_task_has_the_app_ended(site, tmp_path):
    fab, mark = sleeper(tmp_path)
    site.deliver(fab)
    wait_until(lambda: mark.exists() and mark.read_text())
    pid = int(mark.read_text())
    site.node.stop()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    site.node.start()
    assert site.ask(app_of(FINE)).content["answer"]["fine"]


@pytest.mark.parametrize("pushed", [0, 1])
def test_a_reply_that_was_announced_is_pushed_to_its_end_by_the_next_life(make_site, pushed):
    """Else the SuperNode would wait for its pieces for ever."""
    site = make_site(start=False)
    site.node.deliver(app_of(FINE))
    # What a runner does until it is killed between two pieces of the reply.
    api = RuntimeApi(site.node.address, site.node.secret.read_bytes())
    task, _, _ = api.begin(api.acquire())
    task = api.head(task)
    site.config.work.mkdir(exist_ok=True)
    ready = site.config.work / "answered.parcel"
    clientapp.write_error(ready, task, 2, "the app's own words")
    reply = clientapp.read_reply(ready)
    session, wanted = api.announce(reply.head, reply.tree)
    for object_id, piece in list(reply.pieces)[:pushed]:
        assert api.push(task, session, object_id, piece)
    Record(site.config.work / "task.json").write(InHand(task, session, tuple(wanted)))
    api.close()
    site.start()
    assert error_of(site.node.take(SOON_S)).reason == "the app's own words"
    assert site.ask(app_of(FINE)).content["answer"]["fine"]
