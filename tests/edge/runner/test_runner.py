"""A real runner beside a SuperNode's own parts: apps run as under Flower's executor, and keep apart."""

import hashlib
import io
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, RecordDict
from flwr.supercore.run import RunNotRunningException

from edge.datagrams import Mailbox
from edge.runner.clientapp import AppError, unpack
from tests.supernode import PROJECT, app_of, wait_until

ECHO = """
import os
IMPORTED_BY = os.getpid()
@app.train()
def train(message, context):
    counter = context.state.setdefault("counter", ConfigRecord({"n": 0}))
    counter["n"] += 1
    print("the app says hello")
    return reply(message, n=counter["n"], pid=os.getpid(), imported_by=IMPORTED_BY, offset=context.run_config["offset"])
"""


def answer_of(message):
    assert not message.has_error(), message.error
    return dict(message.content["answer"])


def test_tasks_of_an_app_are_forks_of_one_process_that_imported_it(site):
    first, second = (answer_of(site.ask(app_of(ECHO))) for _ in range(2))
    assert first["imported_by"] == second["imported_by"]
    assert first["imported_by"] in site.children()
    assert len({first["pid"], second["pid"], first["imported_by"]}) == 3


def test_a_run_keeps_its_context_and_another_run_has_its_own(site):
    fab = app_of(ECHO)
    counts = [answer_of(site.ask(fab, run_id=run))["n"] for run in (11, 12, 11, 12, 11)]
    assert counts == [1, 1, 2, 2, 3]


def test_the_app_has_its_run_config_and_its_output_is_in_the_sites_log(site):
    assert answer_of(site.ask(app_of(ECHO)))["offset"] == 0
    assert "the app says hello" in site.log.read_text()
    assert ", train: answered by app" in site.log.read_text()


def test_arrays_go_in_and_come_back(site):
    app = """
import numpy
from flwr.app import ArrayRecord
@app.train()
def train(message, context):
    doubled = ArrayRecord([numpy.asarray(2 * array) for array in message.content["weights"].to_numpy_ndarrays()])
    return Message(RecordDict({"weights": doubled}), reply_to=message)
"""
    arrays = [np.arange(12, dtype=np.float32).reshape(3, 4), np.array(2.5), np.zeros(0)]
    got = site.ask(app_of(app), RecordDict({"weights": ArrayRecord(arrays)})).content["weights"].to_numpy_ndarrays()
    for sent, received in zip(arrays, got, strict=True):
        np.testing.assert_array_equal(received, 2 * sent)
        assert received.dtype == sent.dtype


def test_apps_with_modules_of_one_name_do_not_mix(site):
    body = """
import helper
@app.train()
def train(message, context):
    import late_helper
    return reply(message, version=helper.VERSION, late=late_helper.VERSION)
"""
    fabs = [app_of(body, helper=f"VERSION = {n}", late_helper=f"VERSION = {n}") for n in range(3)]
    for n in (0, 1, 2, 0, 2, 1, 1):
        assert answer_of(site.ask(fabs[n])) == {"version": n, "late": n}
    wait_until(lambda: len(site.children()) == 3)  # the runner and two zygotes


def test_without_warm_apps_each_task_imports_the_app_itself(make_site):
    site = make_site(warm_apps=0)
    for _ in range(2):
        got = answer_of(site.ask(app_of(ECHO)))
        assert got["imported_by"] == got["pid"]


def test_what_a_task_had_to_import_the_next_one_finds_imported(site):
    app = """
import sys
@app.train()
def train(message, context):
    known = "wave" in sys.modules
    import wave
    return reply(message, known=known)
"""
    assert [answer_of(site.ask(app_of(app)))["known"] for _ in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", "threads"),
        ("import random; LUCK = random.Random(1)", "random generator"),
        ("import numpy; LUCK = numpy.random.default_rng()", "random generator"),
    ],
)
def test_an_app_that_cannot_be_forked_is_imported_in_each_task(site, trouble, said):
    fab = app_of(trouble + ECHO)
    for _ in range(2):
        got = answer_of(site.ask(fab))
        assert got["imported_by"] == got["pid"]
    assert f"is imported anew in each task: it {'starts' if said == 'threads' else 'holds a'}" in site.log.read_text()
    assert said in site.log.read_text()


def test_what_a_task_imports_late_is_not_kept_if_it_starts_threads(site):
    late = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    app = """
@app.train()
def train(message, context):
    import late
    return reply(message, fine=True)
"""
    for _ in range(3):
        assert answer_of(site.ask(app_of(app, late=late)))["fine"]
    assert "cannot be imported beforehand: it starts threads" in site.log.read_text()


def test_random_numbers_differ_from_task_to_task(site):
    app = """
import random, numpy
numpy.random.seed(1)
random.seed(1)
@app.train()
def train(message, context):
    return reply(message, a=random.random(), b=float(numpy.random.random()))
"""
    first, second = (answer_of(site.ask(app_of(app))) for _ in range(2))
    assert first["a"] != second["a"]
    assert first["b"] != second["b"]


def test_processes_that_a_task_leaves_behind_are_ended(site):
    app = """
import subprocess
@app.train()
def train(message, context):
    return reply(message, pid=subprocess.Popen(["sleep", "1000"], start_new_session=True).pid)
"""
    pid = answer_of(site.ask(app_of(app)))["pid"]
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_what_an_app_asked_for_at_its_exit_is_done(site, tmp_path):
    app = f"""
import atexit, pathlib
@app.train()
def train(message, context):
    atexit.register(pathlib.Path({str(tmp_path / "done")!r}).touch)
    return reply(message, fine=True)
"""
    assert answer_of(site.ask(app_of(app)))["fine"]
    wait_until((tmp_path / "done").exists)


def test_compute_threads_are_those_that_were_asked_for(site):
    app = """
import os
import numpy, threadpoolctl
@app.train()
def train(message, context):
    pools = {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}
    return reply(message, pools=sorted(pools), variable=os.environ["OMP_NUM_THREADS"])
"""
    assert answer_of(site.ask(app_of(app))) == {"pools": [3], "variable": "3"}


def test_a_message_whose_pieces_come_late_is_waited_for(site):
    gate = threading.Event()
    pieces = {}

    def slow(_run, object_id):
        gate.wait()
        return pieces[object_id]

    options = {"pull_object": slow, "pieces": pieces, "run_id": 21}
    thread = threading.Thread(target=site.deliver, args=(app_of(ECHO),), kwargs=options)
    thread.start()
    wait_until((site.home / "runner" / "received.parcel.part").exists)
    gate.set()
    thread.join()
    assert answer_of(site.node.take())["n"] == 1


def test_the_runner_tells_the_link_which_message_is_answered(site):
    link = Mailbox(site.home / "link.sock")
    message_id = site.deliver(app_of(ECHO))
    assert not site.node.take().has_error()
    wait_until(lambda: {"answered": message_id} in link.receive())
    link.close()


def test_an_app_that_the_owner_has_not_allowed_is_refused_with_its_digest(site):
    allowed, other = app_of(ECHO), app_of(ECHO + "# changed")
    policy = site.config.policy
    policy.write_text(f'[apps]\nallow = ["{hashlib.sha256(allowed).hexdigest()}"]\n')
    assert not site.ask(allowed).has_error()
    error = site.ask(other).error
    assert error.code == 6
    assert hashlib.sha256(other).hexdigest() in error.reason
    policy.write_text("[apps]\npermit = []\n")
    assert "permit" in site.ask(allowed).error.reason
    policy.write_text("[limits]\ngpu_minutes_per_day = 0\n")
    assert "gpu_minutes_per_day are spent" in site.ask(allowed).error.reason
    policy.unlink()
    assert not site.ask(allowed).has_error()


def test_an_app_that_cannot_be_unpacked_is_refused(site, tmp_path):
    fab = io.BytesIO()
    with zipfile.ZipFile(fab, "w") as archive:
        archive.writestr("pyproject.toml", PROJECT)
    error = site.ask(fab.getvalue()).error
    assert error.code == 7
    assert "cannot be unpacked: FAB file has incorrect format" in error.reason
    with pytest.raises(AppError, match="not the one with the digest 000"):
        unpack(app_of(ECHO), "0" * 64, tmp_path)
    with pytest.raises(AppError, match="cannot be unpacked"):
        unpack(b"no zip", hashlib.sha256(b"no zip").hexdigest(), tmp_path)


def test_a_message_whose_run_ended_while_it_came_in_does_not_hold_up_the_next(make_site):
    """The SuperNode then drops the message without a word, and its pieces never come."""
    site = make_site()

    def ended(_run_id, _object_id):
        raise RunNotRunningException

    for _ in range(3):  # the gateway gives it again, and the SuperNode makes a task each time
        site.deliver(app_of(ECHO), run_id=21, pull_object=ended)
    wait_until((site.home / "runner" / "received.parcel.part").exists, otherwise="the runner did not take the task")
    assert answer_of(site.ask(app_of(ECHO), run_id=22))["n"] == 1
    assert site.log.read_text().count("the SuperNode has dropped its message: the run has ended") == 3
