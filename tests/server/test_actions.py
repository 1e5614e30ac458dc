"""Changes of runs, models and sites: each with its row in the audit, or not at all."""

import json

import pytest

from fl.errors import BusyError, ConfigError, InputError, StorageError
from fl.rounds.journal import load_config
from server import audit
from server.actions import Actions
from server.audit import Actor
from server.live import Live
from server.store.models import Site
from server.store.runs import Model, Run
from server.views.models import alias_history, aliases, model
from tests.server import kit

ADA = Actor(who="ada", via="web", address="192.0.2.1")
HERE = Actor(who="local", via="cli")
RUN_FILE = '[task]\nname = "digits"\n[run]\nname = "trial"\nrounds = 3\n'


@pytest.fixture
def actions(tmp_path):
    poked = []
    made = Actions(kit.make_centre(tmp_path / "home"), Live(), poke=lambda: poked.append(1))
    made.poked = poked
    yield made
    made.centre.close()


def rows(actions):
    with actions.store.read() as session:
        return [(row.action, row.subject, json.loads(row.after or "null")) for row in audit.rows(session)]


def run(actions, name):
    with actions.store.read() as session:
        return session.query(Run).filter_by(name=name).one()


def test_a_run_that_is_submitted_has_a_journal_and_a_place_in_the_queue(actions):
    actions.add_site(ADA, "north-1")
    actions.label(ADA, "north-1", {"region": "north"})
    name = actions.submit_run(ADA, RUN_FILE, project="xray", priority=5, sites={"region": "north"}, start_s=9.0)
    found = run(actions, name)
    assert (found.state, found.project, found.priority, found.rounds_wanted) == ("queued", "xray", 5, 3)
    assert (json.loads(found.sites), found.start_s, found.submitted_by) == ({"region": "north"}, 9.0, "ada")
    assert json.loads(found.config) == load_config(actions.home.path / "runs" / name)
    assert load_config(actions.home.path / "runs" / name)["round"]["sites"] == ["north-1"]
    action, subject, after = rows(actions)[-1]
    assert (action, subject, after["project"]) == ("run.start", name, "xray")
    assert actions.poked == [1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[task]\nname =", "the run file is not TOML"),
        ('[task]\nname = "digts"\n', "did you mean digits"),
        ('[task]\nname = "digits"\n[run]\nround = 3\n', "did you mean run.rounds"),
        ('[task]\nname = "my:Task"\n', "its module did not come along"),
    ],
)
def test_a_run_file_that_cannot_be_used_leaves_nothing_behind(actions, text, complaint):
    with pytest.raises(ConfigError) as refused:
        actions.submit_run(ADA, text)
    assert complaint in f"{refused.value.message} {refused.value.hint}"
    assert rows(actions) == []
    assert not list((actions.home.path / "runs").glob("*"))


def test_a_task_of_ones_own_travels_with_the_run(actions, tmp_path):
    (tmp_path / "mine.py").write_text("class Task: ...\n")
    name = actions.submit_run(HERE, '[task]\nname = "mine:Task"\n', beside=tmp_path)
    assert (actions.home.path / "runs" / name / "app" / "mine.py").read_text() == "class Task: ...\n"


def test_from_elsewhere_a_run_cannot_begin_with_any_file_of_the_server(actions, tmp_path):
    secret = tmp_path / "secret.safetensors"
    secret.write_bytes(b"x")
    text = RUN_FILE + f'initial_model = "{secret}"\n'
    with pytest.raises(InputError, match=r"secret\.safetensors is not in models/ or runs/"):
        actions.submit_run(ADA, text)
    assert actions.submit_run(HERE, text)


def test_a_run_is_moved_only_as_the_table_of_states_says(actions):
    name = actions.submit_run(ADA, RUN_FILE)
    actions.pause_run(ADA, name)
    assert run(actions, name).state == "paused"
    with pytest.raises(BusyError, match="is paused and cannot be paused"):
        actions.pause_run(ADA, name)
    actions.resume_run(ADA, name)
    actions.stop_run(ADA, name)
    assert run(actions, name).state == "stopped"
    assert run(actions, name).finished_s is not None
    assert [(action, after) for action, _, after in rows(actions)[1:]] == [
        ("run.pause", {"state": "paused"}),
        ("run.resume", {"state": "queued"}),
        ("run.stop", {"state": "stopped"}),
    ]


def test_a_run_whose_row_cannot_be_written_leaves_no_journal(actions, monkeypatch):
    def full(*_, **__):
        raise StorageError("the disk is full")

    monkeypatch.setattr(audit, "append", full)
    with pytest.raises(StorageError):
        actions.submit_run(ADA, RUN_FILE)
    with actions.store.read() as session:
        assert session.query(Run).count() == 0
    assert not list((actions.home.path / "runs").glob("*"))


# ---- models ----


@pytest.fixture
def three(actions, tmp_path):
    """Three models of one run."""
    name = actions.submit_run(ADA, RUN_FILE)
    with actions.store.write() as session:
        number = session.query(Run).filter_by(name=name).one().number
        for place in (1, 2, 3):
            file = tmp_path / f"{place}.safetensors"
            file.write_bytes(b"%d" % place)
            facts = {"size_bytes": 1, "parameters": 1, "schema_digest": "s", "created_s": 1.0, "digest": "d"}
            session.add(Model(run=number, round=place, path=str(file), **facts))
    return actions


def now(actions, name="production"):
    with actions.store.read() as session:
        return model(session, name).number


def test_a_model_with_a_name_is_kept_when_its_run_is_gone(three, tmp_path):
    three.set_alias(ADA, "production", 2)
    (tmp_path / "2.safetensors").unlink()
    with three.store.read() as session:
        path = model(session, "production").path
    assert path == str(three.home.path.resolve() / "models" / "2.safetensors")
    with open(path, "rb") as file:
        assert file.read() == b"2"


def test_each_step_back_goes_further_back_and_the_first_model_has_none(three):
    for number in (1, 2, 3):
        three.set_alias(ADA, "production", number)
    three.roll_back_alias(ADA, "production")
    assert now(three) == 2
    with three.store.read() as session:
        assert aliases(session)[0].before == 1
    three.roll_back_alias(ADA, "production")
    assert now(three) == 1
    with pytest.raises(ConfigError, match="from the beginning"):
        three.roll_back_alias(ADA, "production")
    three.set_alias(ADA, "production", 3)
    three.roll_back_alias(ADA, "production")
    assert now(three) == 1
    with three.store.read() as session:
        assert [row.model for row in alias_history(session, "production")] == [1, 3, 1, 2, 3, 2, 1]


def test_a_name_stays_where_it_was_when_the_file_is_gone(three, tmp_path):
    three.set_alias(ADA, "production", 1)
    (tmp_path / "2.safetensors").unlink()
    before = rows(three)
    with pytest.raises(StorageError, match=r"cannot write .*2\.safetensors"):
        three.set_alias(ADA, "production", 2)
    assert now(three) == 1
    assert rows(three) == before


@pytest.mark.parametrize("name", ["", "1", "a/b", "..", "x" * 64])
def test_a_word_that_cannot_be_a_models_name_is_refused(three, name):
    with pytest.raises(ConfigError, match="cannot be a model's name"):
        three.set_alias(ADA, name, 1)


# ---- sites ----


def test_a_site_is_invited_let_in_quarantined_released_and_revoked_with_an_audit_of_it(actions):
    token = actions.add_site(ADA, "north")
    keys = kit.make_keys()
    kit.ask(actions.centre, token, keys)
    actions.quarantine(ADA, "north", "noisy")
    actions.release(ADA, "north")
    actions.revoke(ADA, "north", "left")
    with actions.store.read() as session:
        assert session.query(Site).one().state == "revoked"
    assert [(action, subject) for action, subject, _ in rows(actions)] == [
        ("site.add", "north"),
        ("site.ask", "north"),
        ("site.approve", "north"),
        ("site.quarantine", "north"),
        ("site.release", "north"),
        ("site.revoke", "north"),
    ]
    assert rows(actions)[2][2] == {"state": "active", "reason": "", "fingerprint": keys.public.fingerprint}
    assert rows(actions)[3][2] == {"state": "quarantined", "reason": "noisy"}
    assert token.encode() not in json.dumps(rows(actions))


def test_an_operator_approves_with_the_fingerprint_only(tmp_path):
    actions = Actions(kit.make_centre(tmp_path / "home", approval="operator"))
    reply = kit.ask(actions.centre, actions.add_site(ADA, "north"), kit.make_keys())
    with pytest.raises(ConfigError, match="not 00:00"):
        actions.approve(ADA, "north", "00:00")
    actions.approve(ADA, "north", reply.fingerprint)
    assert [action for action, _, _ in rows(actions)] == ["site.add", "site.ask", "site.approve"]
    reply = kit.ask(actions.centre, actions.add_site(ADA, "south"), kit.make_keys())
    actions.refuse(ADA, "south", "who are you?")
    assert rows(actions)[-1] == ("site.refuse", "south", {"reason": "who are you?"})


def test_a_change_that_is_refused_is_not_in_the_audit(actions):
    actions.add_site(ADA, "north")
    before = rows(actions)
    for change in (
        lambda: actions.add_site(ADA, "north"),
        lambda: actions.quarantine(ADA, "north"),
        lambda: actions.release(ADA, "north"),
        lambda: actions.revoke(ADA, "nobody"),
        lambda: actions.approve(ADA, "north", "00"),
    ):
        with pytest.raises(ConfigError):
            change()
    assert rows(actions) == before


def test_a_change_whose_audit_row_cannot_be_written_is_undone(actions, monkeypatch):
    token = actions.add_site(ADA, "north")
    kit.ask(actions.centre, token, kit.make_keys())

    def full(*_, **__):
        raise StorageError("the disk is full")

    monkeypatch.setattr(audit, "append", full)
    with pytest.raises(StorageError):
        actions.revoke(ADA, "north", "left")
    with actions.store.read() as session:
        assert session.query(Site).one().state == "active"


def test_labels_are_added_changed_and_taken_away(actions):
    actions.add_site(ADA, "north-1")
    actions.label(ADA, "north-1", {"region": "north", "gpu": "l4"})
    actions.label(ADA, "north-1", {"region": None, "gpu": "a100"})
    assert rows(actions)[-1] == ("site.label", "north-1", {"labels": {"gpu": "a100"}})
    with pytest.raises(ConfigError, match="cannot be a label"):
        actions.label(ADA, "north-1", {"a b": "c"})


def test_a_run_for_sites_that_are_not_there_is_refused_and_leaves_nothing(actions):
    with pytest.raises(ConfigError, match="no site has the labels region=north"):
        actions.submit_run(ADA, RUN_FILE, sites={"region": "north"})
    assert not (actions.home.path / "runs").exists()
