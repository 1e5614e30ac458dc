import io
import json
import zipfile
from pathlib import Path

import pytest

from fl.config import load
from fl.errors import BusyError, ConfigError, FLError, JournalError, RunError, UnreachableError
from fl.rounds import events
from fl.rounds.config import RunConfig
from fl.rounds.journal import Journal, load_state
from server import runs
from server.control import FlowerRun


class SuperLinkSimulator:
    """A Control whose runs are what the test says; each look may change them, as time does."""

    def __init__(self):
        self.known = {}
        self.submitted = []
        self.stopped = []
        self.on_look = lambda: None

    def start_run(self, bundle, config):
        run_id = 100 + len(self.submitted)
        self.submitted.append((bundle, config))
        self.set(run_id, "running", config=config)
        return run_id

    def set(self, run_id, status, sub_status="", details="", config=None, app="fedfleet/fedfleet-run"):
        config = config if config is not None else self.known[run_id].config if run_id in self.known else {}
        self.known[run_id] = FlowerRun(
            run_id, app, status, sub_status, details, f"2126-01-01T00:00:{run_id % 60:02d}", "", "", config
        )

    def runs(self):
        return sorted(self.known.values(), key=lambda run: run.pending_at, reverse=True)

    def run(self, run_id):
        self.on_look()
        return self.known[run_id]

    def stop(self, run_id):
        self.stopped.append(run_id)
        self.set(run_id, "finished", "stopped")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(runs, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(runs, "TICK_S", 0.001)


@pytest.fixture
def superlink():
    return SuperLinkSimulator()


def config(**tables):
    return load(RunConfig, {"task": {"name": "digits"}, "run": {"name": "trial", "rounds": 2}} | tables)


@pytest.fixture
def journal(tmp_path):
    return runs.create(tmp_path / "runs", config())


def append(journal, *happened):
    with Journal(journal) as opened:
        for event in happened:
            opened.append(event)


STARTED = events.RunStarted(pid=1, host="here")
COMPLETED = events.RunEnded(status="completed", reason="2 rounds")
FAILED = events.RunEnded(status="failed", reason="too few sites")


def test_two_runs_of_one_second_get_journals_of_their_own(tmp_path):
    first, second = (runs.create(tmp_path / "runs", config()) for _ in range(2))
    assert first != second
    assert load_state(second).created.run == "trial"


def test_flower_is_given_an_app_that_names_the_journal(superlink, journal):
    submitted = runs.submit(superlink, journal)
    bundle, changes = superlink.submitted[0]
    assert changes == {"journal": str(journal), "secagg": ""}
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        project = archive.read("pyproject.toml").decode()
    assert "fl.flower.server_app:app" in project
    assert "fl.flower.client_app:app" in project
    assert submitted == runs.Submitted(100, journal, 1)


def test_a_task_of_ones_own_travels_with_the_run_and_stays_with_its_journal(superlink, tmp_path):
    (tmp_path / "mine.py").write_text("x = 1")
    journal = runs.create(tmp_path / "runs", config(task={"name": "mine:Task"}))
    runs.submit(superlink, journal, beside=tmp_path)
    (tmp_path / "mine.py").unlink()
    runs.submit(superlink, journal)
    for bundle, _ in superlink.submitted:
        with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
            assert archive.read("mine.py") == b"x = 1"


def test_a_package_of_ones_own_travels_whole(superlink, tmp_path):
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    for name in ("__init__.py", "deep/__init__.py", "notes.txt"):
        (tmp_path / "mine" / name).touch()
    journal = runs.create(tmp_path / "runs", config(task={"name": "mine.deep:Task"}))
    runs.submit(superlink, journal, beside=tmp_path)
    with zipfile.ZipFile(io.BytesIO(superlink.submitted[0][0])) as archive:
        assert {name for name in archive.namelist() if name.startswith("mine")} == {
            "mine/__init__.py",
            "mine/deep/__init__.py",
        }


def test_a_task_module_that_is_not_there_is_named(superlink, tmp_path):
    journal = runs.create(tmp_path / "runs", config(task={"name": "mine:Task"}))
    with pytest.raises(ConfigError, match=r"task\.name is 'mine:Task', but there is no mine\.py in"):
        runs.submit(superlink, journal, beside=tmp_path)


def test_following_yields_every_line_and_ends_with_the_run(superlink, journal):
    submitted = runs.submit(superlink, journal)
    append(journal, STARTED, COMPLETED)
    seen = [record.event.kind for record in runs.follow(superlink, submitted, tick=lambda: None)]
    assert seen == ["run_created", "run_started", "run_ended"]


def test_following_sees_lines_that_come_later(superlink, journal):
    submitted = runs.submit(superlink, journal)
    later = iter([STARTED, COMPLETED])
    seen = [r.event.kind for r in runs.follow(superlink, submitted, tick=lambda: append(journal, next(later)))]
    assert seen[-2:] == ["run_started", "run_ended"]


def test_a_run_that_fails_says_why_and_how_to_go_on(superlink, journal):
    submitted = runs.submit(superlink, journal)
    append(journal, STARTED, FAILED)
    with pytest.raises(RunError, match="failed: too few sites") as caught:
        list(runs.follow(superlink, submitted, tick=lambda: None))
    assert caught.value.hint == f"fl run resume {journal}"


def test_a_server_app_that_dies_without_a_word_ends_the_waiting(superlink, journal):
    submitted = runs.submit(superlink, journal)
    append(journal, STARTED)
    superlink.set(submitted.run_id, "finished", "failed", "No heartbeat received")
    with pytest.raises(RunError, match="failed: No heartbeat received"):
        list(runs.follow(superlink, submitted, tick=lambda: None))


def test_a_former_end_does_not_end_a_resumed_run(superlink, journal):
    append(journal, STARTED, FAILED)
    submitted = runs.resume(superlink, journal)
    later = iter([STARTED, COMPLETED])
    seen = [r.event for r in runs.follow(superlink, submitted, tick=lambda: append(journal, next(later)))]
    assert seen[-1] == COMPLETED


def test_a_superlink_that_is_away_for_a_while_is_waited_for(superlink, journal):
    submitted = runs.submit(superlink, journal)
    away = iter([UnreachableError("away"), FLError("database is locked")])

    def look():
        for error in away:
            raise error
        append(journal, STARTED, COMPLETED)

    superlink.on_look = look
    assert list(runs.follow(superlink, submitted, tick=lambda: None))[-1].event == COMPLETED


def test_a_superlink_that_stays_away_is_an_error(superlink, journal, monkeypatch):
    monkeypatch.setattr(runs, "PATIENCE_S", -1.0)

    def look():
        raise UnreachableError("away")

    submitted = runs.submit(superlink, journal)
    superlink.on_look = look
    with pytest.raises(UnreachableError):
        list(runs.follow(superlink, submitted, tick=lambda: None))


def test_a_complete_run_is_not_resumed(superlink, journal):
    append(journal, STARTED, COMPLETED)
    with pytest.raises(JournalError, match="is complete"):
        runs.resume(superlink, journal)


def test_a_running_run_is_not_resumed(superlink, journal):
    runs.submit(superlink, journal)
    with Journal(journal), pytest.raises(BusyError, match="is running"):
        runs.resume(superlink, journal)


def test_a_run_whose_server_process_is_gone_is_resumed_before_flower_has_noticed(superlink, journal):
    first = runs.submit(superlink, journal)
    second = runs.resume(superlink, journal)
    assert second.run_id != first.run_id
    assert [run.run_id for run in superlink.runs() if not run.is_finished] == [second.run_id]


def test_a_directory_that_is_no_journal_is_not_resumed(superlink, tmp_path):
    with pytest.raises(JournalError):
        runs.resume(superlink, tmp_path)


def test_a_stopped_run_says_so_in_its_journal(superlink, journal):
    submitted = runs.submit(superlink, journal)
    append(journal, STARTED)
    runs.stop(superlink, submitted.run_id, journal)
    assert superlink.stopped == [submitted.run_id]
    assert load_state(journal).status == "stopped"


def test_stopping_waits_for_the_server_app_to_let_go(superlink, journal, monkeypatch):
    submitted = runs.submit(superlink, journal)
    monkeypatch.setattr(runs, "STOP_WITHIN_S", 0.01)
    with Journal(journal), pytest.raises(BusyError, match="is held by process"):
        runs.stop(superlink, submitted.run_id, journal)


def test_runs_with_and_without_a_journal_are_listed_newest_first(superlink, journal, tmp_path):
    submitted = runs.submit(superlink, journal)
    superlink.set(159, "finished", "completed", app="tests/other")
    (tmp_path / "runs" / "not a journal").mkdir()
    newest, ours = runs.listed(tmp_path / "runs", superlink)
    assert (newest.id, newest.app, newest.status, newest.rounds) == ("159", "tests/other", "completed", "")
    assert (ours.id, ours.app, ours.status, ours.rounds) == (journal.name, "trial", "created", "0/2")
    assert ours.flower_run == submitted.run_id


@pytest.mark.parametrize(
    ("happened", "status"),
    [
        ((), "interrupted"),
        ((STARTED,), "interrupted"),
        ((STARTED, FAILED), "failed"),
        ((STARTED, COMPLETED), "completed"),
    ],
)
def test_without_a_federation_journals_are_listed_and_nothing_runs(journal, tmp_path, happened, status):
    append(journal, *happened)
    (only,) = runs.listed(tmp_path / "runs", None)
    assert only.status == status
    assert json.dumps(runs.as_dict(only))


def test_no_runs_are_no_error(tmp_path):
    assert runs.listed(tmp_path / "runs", None) == []


def test_a_run_is_found_by_name_directory_and_number(superlink, journal, tmp_path, monkeypatch):
    submitted = runs.submit(superlink, journal)
    for reference in (journal.name, str(journal), str(submitted.run_id)):
        assert runs.find(reference, tmp_path / "runs", superlink).journal == journal
    with pytest.raises(ConfigError, match="unknown run trial"):
        runs.find("trial", tmp_path / "runs", superlink)


def test_the_initial_model_is_looked_for_beside_the_run_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[task]\nname = "digits"\n[run]\ninitial_model = "start.safetensors"\n')
    with pytest.raises(ConfigError, match=r"run\.initial_model: no such file: .*start\.safetensors"):
        runs.read_run_file(file)
    (tmp_path / "start.safetensors").touch()
    assert runs.read_run_file(file).run.initial_model == str(tmp_path / "start.safetensors")


RUN_FILE = """
[task]
name = "tabular"
target = "ill"
columns = ["age"]
centre = "held_out.csv"
"""


def test_paths_of_a_run_file_start_at_the_run_file(tmp_path):
    (tmp_path / "run.toml").write_text(RUN_FILE)
    task = runs.read_run_file(tmp_path / "run.toml").task
    assert task == {"name": "tabular", "target": "ill", "columns": ["age"], "centre": str(tmp_path / "held_out.csv")}


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (RUN_FILE.replace("target", "targetx"), "unknown key task.targetx"),
        (RUN_FILE.replace("tabular", "tabularr"), "unknown task tabularr"),
        (RUN_FILE + '[strategy]\nname = "fedavgg"\n', "unknown strategy fedavgg"),
        (RUN_FILE + '[strategy]\nname = "fedadam"\nbeta_1 = 1.0\n', "strategy.beta_1 is 1.0, must be below 1"),
        (RUN_FILE + '[secagg]\n[strategy]\nname = "median"\n', "median looks at each site's update"),
        (RUN_FILE + '[strategy]\nname = "flwr.serverapp.strategy:FedAvgg"\n', "FedAvgg"),
    ],
)
def test_a_task_or_strategy_that_does_not_take_its_options_is_refused_before_anything_starts(
    tmp_path, changed, complaint
):
    (tmp_path / "run.toml").write_text(changed)
    with pytest.raises(ConfigError, match=complaint):
        runs.read_run_file(tmp_path / "run.toml")


APPS = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("app", "options", "told"),
    [
        ("examples/secagg_app", [], "the directory"),
        ("examples/secagg_app", ["rounds=1"], "the directory"),
        ("examples/secagg_app", ["secagg=elsewhere"], "elsewhere"),
        ("tests/e2e/apps/mean", [], None),
    ],
)
def test_an_app_that_asks_for_it_is_told_of_the_servers_part_in_secure_aggregation(
    superlink, tmp_path, app, options, told
):
    runs.submit_app(superlink, APPS / app, options, secagg=tmp_path)
    _, config = superlink.submitted[-1]
    assert config.get("secagg") == (str(tmp_path) if told == "the directory" else told)
