"""``fl server`` and ``fl site`` as an operator types them."""

import contextlib
import json
import sqlite3
import stat

import pytest

from fl import cli
from fl.link.token import decode
from fl.secagg.roster import parse_roster
from server.centre import Centre
from server.home import Home
from tests.server import kit


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "server"
    assert cli.run(["server", "init", "--address", "fl.example.org:443", "--roster-key-here", "--home", str(path)]) == 0
    return path


@pytest.fixture
def fl(path, capsys):
    def run(*words, status=0):
        capsys.readouterr()
        assert cli.run([*words, "--home", str(path)]) == status
        return capsys.readouterr()

    return run


def add(fl, site="berlin"):
    return decode(json.loads(fl("site", "add", site, "--json").out)["token"])


def asks(path, token, keys=None):
    """The site asks, as if through the gateway."""
    keys = keys or kit.make_keys()
    return keys, kit.ask(Centre(Home(path)), token, keys)


def test_a_token_alone_goes_to_stdout_and_what_to_do_with_it_to_stderr(fl):
    said = fl("site", "add", "berlin")
    token = decode(said.out)
    assert said.out.count("\n") == 1
    assert (token.site, token.gateways) == ("berlin", ("fl.example.org:443",))
    assert token.fingerprint in said.err
    assert "works once" in said.err
    assert "fl site join -" in said.err


def test_a_token_in_a_file_is_its_owners_only_and_not_shown(fl, tmp_path):
    file = tmp_path / "berlin.token"
    said = fl("site", "add", "berlin", "--out", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert decode(file.read_text()).site == "berlin"
    assert "fl1." not in said.out + said.err
    assert "token" not in json.loads(fl("site", "rejoin", "berlin", "--out", str(file), "--json").out)


def test_a_site_is_added_once(fl):
    add(fl)
    said = fl("site", "add", "berlin", status=2)
    assert "there is a site berlin" in said.err
    assert "fl site rejoin berlin" in said.err


def test_an_operator_sees_who_waits_and_approves_the_right_keys(fl, path):
    token = add(fl)
    keys, _ = asks(path, token)
    assert keys.public.fingerprint in fl("site", "approve").out
    assert json.loads(fl("site", "approve", "--json").out)[0]["site"] == "berlin"
    assert "waits for approval" in fl("site", "list").out
    wrong = fl("site", "approve", "berlin", "--fingerprint", kit.make_keys().public.fingerprint, status=2)
    assert "do not approve" in wrong.err
    unasked = fl("site", "approve", "berlin", status=2)  # no terminal to ask in
    assert f"--fingerprint {keys.public.fingerprint}" in unasked.err
    done = fl("site", "approve", "berlin", "--fingerprint", keys.public.fingerprint)
    assert "berlin is let in" in done.err
    assert "signed roster version 1 with 1 sites" in done.err
    assert "nodes follow later: no SuperLink runs in" in done.err
    assert asks(path, token, keys)[1].state == "approved"
    assert fl("site", "approve", "--json").out.strip() == "[]"


def test_an_operator_says_no(fl, path):
    token = add(fl)
    keys, _ = asks(path, token)
    fl("site", "approve", "berlin", "--refuse", "who is this?")
    assert asks(path, token, keys)[1].message == "who is this?"


def test_the_life_of_a_site_in_commands(fl, path):
    token = add(fl)
    keys, _ = asks(path, token)
    fl("site", "approve", "berlin", "--fingerprint", keys.public.fingerprint)
    fl("site", "quarantine", "berlin", "--reason", "odd updates")
    (facts,) = json.loads(fl("site", "list", "--json").out)
    assert (facts["state"], facts["reason"], facts["node_id"]) == ("quarantined", "odd updates", 0)
    fl("site", "quarantine", "berlin", "--release")
    renamed = fl("site", "rename", "berlin", "potsdam")
    assert decode(renamed.out).new_keys
    assert "out until it joins again" in renamed.err
    fl("site", "revoke", "potsdam", "--reason", "sold")
    shown = json.loads(fl("site", "show", "potsdam", "--json").out)
    assert [event["what"] for event in shown["events"]] == [
        "invited", "asked", "approved", "quarantined", "active", "renamed", "invited", "revoked"
    ]  # fmt: skip
    assert "revoked: sold" in fl("site", "show", "potsdam").out
    assert "berlin" in fl("site", "show", "berlin", status=2).err


def test_each_change_leaves_a_row_with_who_made_it_and_what_was_there_before_and_after(fl, path, monkeypatch):
    monkeypatch.setenv("LOGNAME", "ada")
    keys, _ = asks(path, add(fl))
    fl("site", "approve", "berlin", "--fingerprint", keys.public.fingerprint)
    fl("site", "quarantine", "berlin", "--reason", "odd updates")
    fl("site", "quarantine", "berlin", "--release")
    fl("site", "label", "berlin", "region=north")
    fl("site", "rename", "berlin", "potsdam")
    fl("site", "revoke", "potsdam", "--reason", "sold")
    token = decode(fl("site", "rejoin", "potsdam").out)
    _, _ = asks(path, token)
    fl("site", "approve", "potsdam", "--refuse", "who is this?")
    fl("site", "revoke", "potsdam", status=2)  # it is already: no row
    fl("site", "rename", "potsdam", "no id!", status=2)
    assert "11 rows hold" in fl("audit", "verify").err
    rows = [json.loads(line) for line in fl("audit", "export").out.splitlines()]
    asked = [row for row in rows if row["via"] == "gateway"]
    assert [(row["action"], row["subject"], row["who"]) for row in asked] == [
        ("site.ask", "berlin", "fl"),
        ("site.ask", "potsdam", "fl"),
    ]
    rows = [row for row in rows if row not in asked]
    assert {(row["who"], row["via"]) for row in rows} == {("ada", "cli")}
    active, held = {"state": "active", "reason": ""}, {"state": "quarantined", "reason": "odd updates"}
    out = {"state": "invited", "reason": ""}
    told = [
        (row["action"], row["subject"], *(json.loads(row[key] or "{}") for key in ("before", "after"))) for row in rows
    ]
    for _, _, _, after in told:
        after.pop("expires_s", None)
    assert told == [
        ("site.add", "berlin", {}, {}),
        ("site.approve", "berlin", out, {**active, "fingerprint": keys.public.fingerprint}),
        ("site.quarantine", "berlin", active, held),
        ("site.release", "berlin", held, active),
        ("site.label", "berlin", {"labels": {}}, {"labels": {"region": "north"}}),
        ("site.rename", "berlin", {"id": "berlin", **active}, {"id": "potsdam", **out}),
        ("site.revoke", "potsdam", out, {"state": "revoked", "reason": "sold"}),
        ("site.rejoin", "potsdam", {"state": "revoked", "reason": "sold"}, {"new_keys": True}),
        ("site.refuse", "potsdam", {}, {"reason": "who is this?"}),
    ]


@pytest.mark.parametrize("words", [("site", "list"), ("site", "add", "berlin"), ("server", "show"), ("audit", "list")])
def test_a_store_of_a_newer_fedfleet_is_said_in_one_line_and_left_alone(fl, path, words):
    with contextlib.closing(sqlite3.connect(path / "store.db")) as store, store:
        store.execute("UPDATE alembic_version SET version_num = '9999'")
    before = (path / "store.db").read_bytes()
    said = fl(*words, status=2)
    first, *others = said.err.strip().splitlines()
    assert "store.db is of step 9999, this fl knows steps up to" in first
    assert len(others) <= 1  # what to do
    assert "install the newer fedfleet" in said.err
    assert "Traceback" not in said.err
    assert (path / "store.db").read_bytes() == before


def test_the_centre_is_shown(fl, path):
    add(fl)
    facts = json.loads(fl("server", "show", "--json").out)
    assert facts["sites"] == {"invited": 1}
    assert facts["addresses"] == ["fl.example.org:443"]
    assert "not signed yet" in fl("server", "show").out
    assert "is a server's home already" in fl("server", "init", "--address", "a:1", "--roster-key-here", status=2).err


def test_the_authority_rotates_with_overlap_or_at_once(fl, path):
    first = json.loads(fl("server", "show", "--json").out)["authorities"]
    said = fl("server", "rotate-ca")
    assert "vouches for the gateway from" in said.err
    both = json.loads(fl("server", "show", "--json").out)["authorities"]
    assert [one["number"] for one in both] == [2, 1]
    assert both[1] == first[0]
    assert len(decode(fl("site", "add", "berlin").out).authorities) == 2
    assert "takes over at" in fl("server", "rotate-ca", status=2).err
    assert "0 sites have to join again" in fl("server", "rotate-ca", "--at-once").err
    rows = [json.loads(line) for line in fl("audit", "export").out.splitlines()]
    told = [
        (row["subject"], json.loads(row["after"])["at_once"]) for row in rows if row["action"] == "server.rotate_ca"
    ]
    assert told == [("authority 2", False), ("authority 3", True)]
    assert [one["number"] for one in json.loads(fl("server", "show", "--json").out)["authorities"]] == [3]


def test_a_backup_and_a_restored_home_say_so_in_their_audits(fl, path, tmp_path, capsys):
    fl("server", "backup", str(tmp_path / "centre.backup"))
    rows = [json.loads(line) for line in fl("audit", "export").out.splitlines()]
    assert [(row["action"], row["subject"]) for row in rows] == [("server.backup", str(tmp_path / "centre.backup"))]
    other = ["--home", str(tmp_path / "other")]
    assert cli.run(["server", "restore", str(tmp_path / "centre.backup"), *other]) == 0
    capsys.readouterr()
    assert cli.run(["audit", "export", *other]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["action"] for row in rows] == ["server.restore"]  # the backup was there before its row was


def test_a_roster_signed_elsewhere_is_brought(tmp_path, capsys):
    """The authority's key never comes near the server."""
    safe, path = tmp_path / "safe", tmp_path / "server"
    safe.mkdir()
    files = ["--roster", str(safe / "fleet.roster"), "--key", str(safe / "authority.key")]
    assert cli.run(["roster", "init", *files]) == 0
    public = capsys.readouterr().out.strip()
    home = ["--home", str(path)]
    init = ["server", "init", "--address", "a:1", "--roster-authority", public, "--approval", "automatic"]
    assert cli.run([*init, *home]) == 0
    capsys.readouterr()
    assert cli.run(["site", "add", "berlin", "--json", *home]) == 0
    keys, reply = asks(path, decode(json.loads(capsys.readouterr().out)["token"]))
    assert (reply.state, reply.roster) == ("approved", b"")
    draft = path / "secagg" / "draft.roster"
    assert parse_roster(draft.read_bytes()).key_of("berlin") == keys.public.identity
    unsigned = cli.run(["server", "roster", str(draft), *home])
    assert unsigned == 2
    assert "is not signed" in capsys.readouterr().err
    (safe / "draft.roster").write_bytes(draft.read_bytes())
    sign = ["roster", "sign", "--roster", str(safe / "draft.roster"), "--key", str(safe / "authority.key")]
    assert cli.run(sign) == 0
    assert cli.run(["server", "roster", str(safe / "draft.roster"), *home]) == 0
    assert "the roster has version 1, 1 sites" in capsys.readouterr().err
    assert not draft.exists()
    assert not list(path.rglob("authority.key"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["server", "init", "--address", "nowhere", "--roster-key-here"], "'nowhere' is no address"),
        (["server", "init", "--address", "a:1"], "either --roster-authority KEY or --roster-key-here"),
        (
            ["server", "init", "--address", "a:1", "--roster-key-here", "--approval", "me"],
            "unknown value of --approval me",
        ),
        (
            ["server", "init", "--address", "a:1", "--roster-key-here", "--certificate-days", "0"],
            "certificate_days is 0",
        ),
        (["server", "init", "--address", "a:1", "--roster-authority", "xyz"], "neither 64 hexadecimal digits"),
        (["site", "add", "../etc"], "no server's home"),
        (["server", "show"], "is no server's home"),
    ],
)
def test_wrong_input_is_one_line_and_makes_nothing(words, said, tmp_path, capsys):
    assert cli.run([*words, "--home", str(tmp_path / "server")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "server").exists()
