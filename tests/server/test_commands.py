import json

import pytest

from fl import cli
from fl.config import load, to_dict
from fl.rounds import events
from fl.rounds.config import RunConfig
from fl.rounds.journal import Journal
from fl.rounds.state import Record, RunState
from server import runs
from server.commands import demo, progress
from simulations import Scenario, simulate

OPENED = {"attempt": 1, "seed": 1, "online": 3, "wanted": 3, "quorum": 2, "deadline_s": 60.0, "model_digest": "0"}
LANDED = {
    "attempt": 1,
    "digest": "0",
    "num_examples": 10,
    "metrics": {},
    "report": {},
    "size_bytes": 2048,
    "waited_s": 1.0,
}
HAPPENED = [
    events.RunStarted(pid=1, host="here"),
    events.ModelInitialised(source="site a", digest="0", parameters=38_282),
    events.RoundOpened(round=1, cohort=("a", "b", "c"), **OPENED),
    events.UpdateLanded(round=1, site="a", **LANDED),
    events.UpdateLanded(round=1, site="b", **LANDED),
    events.ReplyFailed(
        round=1, attempt=1, phase="train", site="c", code="nan", reason="it is not finite", waited_s=1.0
    ),
    events.RoundClosed(round=1, attempt=1, because="all answered", survivors=("a", "b"), missing=("c",)),
    events.RoundCommitted(
        round=1, model_digest="0", state_digests={}, num_examples=20, metrics={"loss": 0.5}, fold_s=0.1
    ),
    events.Evaluated(round=1, at="centre", num_examples=9, sites=0, metrics={"accuracy": 0.75, "loss": 0.25}),
]


@pytest.fixture
def fl(capsys):
    """Run a command; gives its status, what it printed, and what it complained."""

    def fl(*arguments):
        status = cli.run([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return status, printed.out, " ".join(printed.err.split())

    return fl


@pytest.fixture
def home(tmp_path):
    """A home with one journal, of a run whose first round is done."""
    tables = {"task": {"name": "digits"}, "run": {"name": "trial", "rounds": 2}}
    directory = runs.create(tmp_path / "runs", load(RunConfig, tables))
    with Journal(directory) as journal:
        for event in HAPPENED:
            journal.append(event)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["run", "start"], "a run file or --app is needed, and not both"),
        (["run", "start", "run.toml", "--app", "."], "a run file or --app is needed, and not both"),
        (["run", "start", "run.toml", "-c", "rounds=1"], "-c changes the run config of a Flower app"),
        (["run", "start", "missing.toml"], "no such file: missing.toml"),
        (["run", "show", "nothing"], "unknown run nothing"),
        (["up", "--sites", "0"], "sites is 0, must be at least 1"),
        (["up", "--task", "digits", "--split", "dirichle"], "did you mean dirichlet?"),
        (["up", "--task", "digits", "--alpha", "-1"], "split.alpha is -1.0, must be above 0"),
        (["up", "--task", "missing.toml"], "no such file: missing.toml"),
        (["demo", "--rounds", "0"], "run.rounds is 0, must be at least 1"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(fl, tmp_path, arguments, complaint):
    status, _, complained = fl(*arguments, "--home", tmp_path)
    assert status == 2
    assert complaint in complained
    assert list(tmp_path.iterdir()) == []


def test_a_site_that_has_not_joined_is_told_how_to(fl, tmp_path):
    status, _, complained = fl("site", "run", "--home", tmp_path / "a")
    assert status == 2
    assert f"{tmp_path / 'a'} is no site's home" in complained
    assert "fl site join TOKEN" in complained


@pytest.mark.parametrize("verb", ["log", "stop"])
def test_without_a_federation_there_is_nothing_to_ask(fl, tmp_path, verb):
    status, _, complained = fl("run", verb, "1", "--home", tmp_path)
    assert status == 4
    assert f"no federation runs in {tmp_path}" in complained
    assert f"fl up --home {tmp_path}" in complained


def test_runs_are_listed_without_a_federation(fl, home):
    status, printed, _ = fl("run", "list", "--home", home)
    assert status == 0
    assert "-trial" in printed
    assert "interrupted" in printed
    status, printed, _ = fl("run", "list", "--json", "--home", home)
    (run,) = json.loads(printed)
    assert (run["app"], run["rounds"], run["flower_run"]) == ("trial", "1/2", None)


def test_a_run_is_shown_round_by_round(fl, home):
    (directory,) = (home / "runs").iterdir()
    status, printed, _ = fl("run", "show", directory.name, "--home", home)
    assert status == 0
    assert "2/3" in printed
    assert "75.0 %" in printed
    status, printed, _ = fl("run", "show", directory, "--json", "--home", home)
    (first,) = json.loads(printed)["rounds"]
    assert first == {
        "round": 1,
        "state": "done",
        "cohort": 3,
        "survivors": 2,
        "received_bytes": 4096,
        "loss": 0.25,
        "accuracy": 0.75,
        "training": {"loss": 0.5},
        "evaluation": {"centre": {"accuracy": 0.75, "loss": 0.25}},
    }


def test_the_lines_of_a_run_tell_its_story():
    lines = [progress.line(Record(number, None, 0.0, event)) for number, event in enumerate(HAPPENED)]
    assert [line for line in lines if line] == [
        "initial model of 38,282 parameters from site a",
        "round 1: c failed: it is not finite",
        "round 1: 2 sites, without c",
        "round 1: accuracy 0.7500, loss 0.2500 at the centre",
    ]


@pytest.mark.parametrize(("after", "state"), [(3, "training"), (7, "folding"), (8, "committed"), (9, "done")])
def test_a_round_says_how_far_it_is(after, state):
    run = RunState.of(Record(number, None, 0.0, event) for number, event in enumerate(HAPPENED[:after]))
    assert progress.round_facts(run.rounds[1])["state"] == state


def test_the_demo_is_compared_with_central_training_on_the_centres_data(monkeypatch):
    monkeypatch.setitem(demo.TRAINING, "epochs", 1)
    config = demo.run_config(sites=3, rounds=2, seed=5, secagg=True)
    assert config.evaluation.centre_every == 1
    assert config.round.min_online == 3
    pytest.importorskip("torch")
    reference = demo.centrally(config)
    assert reference["accuracy"] > 0.5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_comes_within_a_point_of_central_training(tmp_path):
    """The same rounds, in this process: the sites' data, seeds and secure aggregation are those of ``fl demo``."""
    pytest.importorskip("torch")
    config = demo.run_config(sites=3, rounds=demo.ROUNDS, seed=demo.SEED, secagg=True)
    scenario = Scenario.from_dict({**config.to_dict(), "population": {"sites": 3}, "split": to_dict(demo.SPLIT)})
    state = simulate(scenario, tmp_path / "run", exact=True)
    reached = state.rounds[demo.ROUNDS].evaluated["centre"].metrics["accuracy"]
    assert reached > demo.centrally(config)["accuracy"] - 0.01
