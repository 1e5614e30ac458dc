"""The centre's roster: signed here or elsewhere, never backwards, never with a site that the registry lacks."""

import dataclasses
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl.errors import BusyError, ConfigError
from fl.files import Lock
from fl.rounds.secure import Credentials
from fl.secagg.errors import RosterRollbackError, RosterSignatureError
from fl.secagg.identity import Identity
from fl.secagg.roster import parse_roster, sign_roster
from server import roster as module
from server.roster import Rosters, merge

BERLIN, PARIS, ROME = (bytes([number]) * 32 for number in (1, 2, 3))


@pytest.fixture
def elsewhere(tmp_path):
    """Rosters whose authority's key is not here, and that authority."""
    authority = Identity("authority", Ed25519PrivateKey.generate())
    rosters = Rosters(tmp_path / "secagg")
    rosters.create(authority.public)
    return rosters, authority


@pytest.fixture
def here(tmp_path):
    rosters = Rosters(tmp_path / "secagg")
    rosters.create(None)
    return rosters


def signed(rosters, signer, **changes):
    """What the authority makes of the draft."""
    draft = parse_roster(rosters.draft_file.read_bytes())
    now_s = int(time.time())
    values = {"version": draft.version + 1, "issued_s": now_s, "expires_s": now_s + 86_400 * 365, **changes}
    return sign_roster(dataclasses.replace(draft, **values), signer)


def test_with_the_key_here_each_change_is_signed(here):
    assert "signed roster version 1 with 1 sites" in here.update(lambda: {"berlin": BERLIN})
    assert "version 2 with 2 sites" in here.update(lambda: {"berlin": BERLIN, "paris": PARIS})
    assert here.update(lambda: {"berlin": BERLIN, "paris": PARIS}) == ""
    roster = here.current()
    assert (roster.version, roster.active()) == (2, ["berlin", "paris"])
    assert {site: entry.epoch for site, entry in roster.sites.items()} == {"berlin": 1, "paris": 2}
    assert not here.draft_file.exists()


def test_the_server_can_aggregate_with_it(here):
    here.update(lambda: {"berlin": BERLIN})
    credentials = Credentials.from_directory(here.directory)
    assert credentials.authority == here.authority


def test_with_the_key_elsewhere_a_draft_waits(elsewhere):
    rosters, authority = elsewhere
    assert "waits for a signature" in rosters.update(lambda: {"berlin": BERLIN})
    assert rosters.current() is None
    rosters.install(signed(rosters, authority))
    assert rosters.current().active() == ["berlin"]
    assert rosters.update(lambda: {"berlin": BERLIN}) == ""
    assert not rosters.draft_file.exists()


def test_a_site_that_is_gone_stays_as_a_revoked_one(here):
    here.update(lambda: {"berlin": BERLIN, "paris": PARIS})
    here.update(lambda: {"paris": PARIS})
    roster = here.current()
    assert roster.active() == ["paris"]
    assert roster.sites["berlin"].revoked
    here.update(lambda: {"berlin": ROME, "paris": PARIS})
    assert here.current().key_of("berlin") == ROME


def test_another_authoritys_roster_is_refused(elsewhere):
    rosters, _ = elsewhere
    rosters.update(lambda: {"berlin": BERLIN})
    other = Identity("other", Ed25519PrivateKey.generate())
    with pytest.raises(RosterSignatureError):
        rosters.install(signed(rosters, other, authority=other.public))
    with pytest.raises(RosterSignatureError, match="not signed"):
        rosters.install(rosters.draft_file.read_bytes())
    assert rosters.current() is None


def test_an_older_roster_is_refused(elsewhere):
    rosters, authority = elsewhere
    rosters.update(lambda: {"berlin": BERLIN})
    first = signed(rosters, authority)
    second = signed(rosters, authority, version=2)
    rosters.install(second)
    with pytest.raises(RosterRollbackError, match="has version 1, the server has version 2"):
        rosters.install(first)
    assert rosters.install(second).version == 2  # brought twice


def test_one_key_under_two_names_is_refused():
    entry = merge({}, {"berlin": BERLIN}, 1)
    with pytest.raises(ConfigError, match="one identity key stands under two"):
        merge(entry, {"paris": BERLIN}, 2)


def test_an_expiring_roster_is_signed_again_where_the_key_lies(here):
    here.update(lambda: {"berlin": BERLIN}, days=1)
    assert "signed roster version 2" in here.update(lambda: {"berlin": BERLIN}, days=365)


def test_who_cannot_have_the_roster_says_so(here, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    with Lock(here.directory / "lock"), pytest.raises(BusyError, match="is held by"):
        here.update(dict)
