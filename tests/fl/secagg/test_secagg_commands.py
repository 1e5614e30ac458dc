"""``fl roster`` and ``fl secagg``, through the command line, and receipts checked offline."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fl.commands import roster as roster_command
from fl.commands import secagg as secagg_command
from fl.errors import FLError
from fl.secagg import errors
from fl.secagg.ledger import Ledger
from fl.secagg.receipt import verify_receipt
from fl.secagg.roster import read_roster
from fl.secagg.storage import load_ledger, load_roster, save_ledger
from tests.fl.secagg.federation import AUTHORITY, Federation, identity, make_roster


def run(app: typer.Typer, *arguments: str) -> str:
    """Standard output of a command; its error is raised as it is."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def site_key(home: Path, name: str) -> str:
    return str(json.loads(run(secagg_command.app, "key", str(home / f"{name}.key"), "--json"))["key"])


def test_a_roster_from_nothing_to_signed(home: Path) -> None:
    authority = run(roster_command.app, "init").strip()
    assert stat.S_IMODE((home / "roster-authority.key").stat().st_mode) == 0o600
    for name in ("berlin", "paris", "rome"):
        run(roster_command.app, "add", name, site_key(home, name))
    with pytest.raises(errors.RosterSignatureError, match="not signed"):
        load_roster(home / "fleet.roster", bytes.fromhex(authority))
    run(roster_command.app, "sign")
    roster, _ = load_roster(home / "fleet.roster", bytes.fromhex(authority))
    assert (roster.version, roster.active()) == (2, ["berlin", "paris", "rome"])
    run(roster_command.app, "remove", "paris")
    run(roster_command.app, "sign", "--days", "30")
    shown = json.loads(run(roster_command.app, "show", "--json", "--authority", authority))
    assert shown["version"] == 3
    assert shown["signed"]
    assert shown["sites"]["paris"]["revoked"]
    assert "berlin" in run(roster_command.app, "show")


def test_a_key_is_never_overwritten_and_must_not_be_open_to_others(home: Path) -> None:
    run(roster_command.app, "init")
    with pytest.raises(FLError, match="exists"):
        run(roster_command.app, "init")
    with pytest.raises(FLError, match="a key is never overwritten"):
        run(roster_command.app, "init", "--roster", "other.roster")
    (home / "roster-authority.key").chmod(0o644)
    with pytest.raises(FLError, match="is open to other users"):
        run(roster_command.app, "sign")


def test_the_authority_key_may_be_encrypted(home: Path) -> None:
    (home / "password").write_text("a password that nobody guesses\n")
    (home / "wrong").write_text("another\n")
    run(roster_command.app, "init", "--password-file", "password")
    assert b"ENCRYPTED" in (home / "roster-authority.key").read_bytes()
    run(roster_command.app, "sign", "--password-file", "password")
    with pytest.raises(FLError, match="encrypted and needs its password"):
        run(roster_command.app, "sign")
    with pytest.raises(FLError, match="not a private key that opens with this password"):
        run(roster_command.app, "sign", "--password-file", "wrong")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "../x", "00" * 32], "cannot be a site's id"),
        (["add", "x", "00"], "neither 64 hexadecimal digits"),
        (["add", "x", "no-such-file"], "neither 64 hexadecimal digits"),
        (["remove", "x"], "the site x is not in the roster"),
        (["show", "--roster", "none.roster"], "cannot read the roster none.roster"),
        (["show", "--authority", "ab" * 32], "not signed by the pinned authority"),
        (["sign", "--key", "none.key"], "cannot read none.key"),
    ],
)
def test_bad_input_is_one_line(home: Path, arguments: list[str], words: str) -> None:
    run(roster_command.app, "init")
    with pytest.raises(FLError, match=words) as caught:
        run(roster_command.app, *arguments)
    assert caught.value.exit_status == 2


def test_one_key_cannot_be_two_sites(home: Path) -> None:
    run(roster_command.app, "init")
    key = site_key(home, "one")
    (home / "one.pub").write_text(key + "\n")
    run(roster_command.app, "add", "one", "one.pub")
    with pytest.raises(errors.RosterSiteError, match="the site one has this key already"):
        run(roster_command.app, "add", "two", key)


def test_another_authority_cannot_sign_the_roster(home: Path) -> None:
    run(roster_command.app, "init")
    run(roster_command.app, "init", "--roster", "b.roster", "--key", "b.key")
    with pytest.raises(errors.RosterSignatureError, match="the roster names the authority"):
        run(roster_command.app, "sign", "--key", "b.key")


def test_a_ledger_survives_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    assert load_ledger(path) == Ledger()
    federation = Federation(3)
    federation.run()
    ledger = federation.ledgers[federation.names[0]]
    save_ledger(path, ledger)
    assert load_ledger(path) == ledger
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# ---- receipts ----


@pytest.fixture(scope="module")
def played() -> Federation:
    federation = Federation(5)
    federation.run({"mask": {federation.names[3]}})
    return federation


def check(federation: Federation, data: bytes, **changes: Any) -> Any:
    roster = changes.get("roster", federation.roster)
    return verify_receipt(data, read_roster(roster, authority=AUTHORITY.public), roster)


def test_receipts_of_server_and_sites_agree_and_say_what_they_prove(played: Federation) -> None:
    server = check(played, played.server.result().receipt)
    assert server.survivors == played.server.result().survivors
    words = " ".join(server.in_words())
    assert "covers exactly these 4 sites: site-0000, site-0001, site-0002, site-0004" in words
    assert "at least 3 honest updates, as long as at most 1 of the 5 sites" in words
    assert "Not proved: that the updates were honest" in words
    for name, data in played.receipts.items():
        findings = check(played, data)
        assert (findings.role, findings.signer) == ("site", name)
        assert (findings.sid, findings.survivors, findings.model) == (server.sid, server.survivors, server.model)
        assert findings.result is None


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (b'"survivors": [\n  "site-0000",\n', b'"survivors": [\n', errors.SignatureError),
        (b'"role": "server"', b'"role": "site"', errors.RosterSiteError),
        (b"fl-secagg-receipt/v1", b"fl-secagg-receipt/v2", errors.MessageError),
        (b"\nsignature ", b"\nsignature 00", errors.SignatureError),
        (b"\nsignature ", b"\n", errors.MessageError),
    ],
)
def test_a_changed_receipt_is_refused(played: Federation, old: bytes, new: bytes, error: type[Exception]) -> None:
    data = played.server.result().receipt
    assert old in data
    with pytest.raises(error):
        check(played, data.replace(old, new, 1))


def test_a_server_cannot_leave_out_a_survivor_in_its_receipt(played: Federation) -> None:
    from fl.secagg.documents import sign_document, text_of
    from tests.fl.secagg.federation import SERVER

    document = json.loads(text_of(played.server.result().receipt))
    document["survivors"] = document["survivors"][1:]
    with pytest.raises(errors.SecAggError):
        check(played, sign_document(json.dumps(document).encode(), SERVER, "receipt"))
    document["survivors"] = list(played.server.result().survivors)
    document["agreements"] = document["agreements"][:2]
    with pytest.raises(errors.ConsistencyError, match="2 sites agreed, 4 are needed"):
        check(played, sign_document(json.dumps(document).encode(), SERVER, "receipt"))


def test_a_receipt_needs_the_roster_of_its_round(played: Federation) -> None:
    from fl.secagg.roster import sign_roster

    other = sign_roster(make_roster(played.names, version=2), AUTHORITY)
    with pytest.raises(errors.ConsistencyError, match="another roster"):
        check(played, played.server.result().receipt, roster=other)


def test_verify_speaks_in_sentences_and_in_json(played: Federation, tmp_path: Path) -> None:
    (tmp_path / "receipt").write_bytes(played.server.result().receipt)
    (tmp_path / "roster").write_bytes(played.roster)
    arguments = ["verify", str(tmp_path / "receipt"), "--roster", str(tmp_path / "roster")]
    text = " ".join(run(secagg_command.app, *arguments).split())
    assert "so no other set of sites can have collected enough" in text
    facts = json.loads(run(secagg_command.app, *arguments, "--authority", AUTHORITY.public.hex(), "--json"))
    assert facts["agreed"] == facts["survivors"]
    assert facts["authority_pinned"]
    with pytest.raises(errors.RosterSignatureError):
        run(secagg_command.app, *arguments, "--authority", identity("mallory").public.hex())
    with pytest.raises(FLError, match="cannot read"):
        run(secagg_command.app, "verify", "nothing", "--roster", str(tmp_path / "roster"))
