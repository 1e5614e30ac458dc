"""The registry: who is let in, from when on no longer, and what is remembered of each site."""

import subprocess
import sys
import time

import pytest

from edge.identity import request_of
from fl.errors import ConfigError, RefusedError, StorageError
from fl.link.identity import spki
from server.sites import Registry
from server.store import Store
from server.store.models import Certificate, Request
from tests.server import kit

DAY_S = 86_400.0


@pytest.fixture
def centre(tmp_path):
    return kit.make_centre(tmp_path / "server")


def test_a_revocation_holds_for_the_next_message(centre):
    joined = kit.join(centre, "berlin")
    assert centre.site_of_certificate(joined.certificate).state == "active"
    centre.registry.revoke("berlin", "stolen")
    with pytest.raises(RefusedError, match=r"berlin was revoked at .*: stolen; ask the operator"):
        centre.site_of_certificate(joined.certificate)


def test_a_revocation_by_another_process_holds_without_being_told(centre):
    joined = kit.join(centre, "berlin")
    assert centre.site_of_certificate(joined.certificate).site == "berlin"
    code = "import pathlib, sys; from server.sites import Registry; from server.store import Store\n"
    code += "Registry(Store(pathlib.Path(sys.argv[1]))).revoke('berlin', '')"
    subprocess.run([sys.executable, "-c", code, str(centre.home.store)], check=True, timeout=90)
    with pytest.raises(RefusedError, match="berlin was revoked"):
        centre.site_of_certificate(joined.certificate)


def test_a_certificate_that_the_registry_did_not_issue_is_refused_whoever_signed_it(centre):
    kit.join(centre, "berlin")
    key = kit.make_keys().transport
    forged = centre.ca.issue_site("berlin", spki(key.public_key()), days=7)  # with a stolen authority key
    with pytest.raises(RefusedError, match="was not issued by this centre's registry"):
        centre.site_of_certificate(forged.der)


def test_a_token_is_no_certificate_of_a_site(centre):
    joined = kit.join(centre, "berlin")
    with pytest.raises(RefusedError, match="was not issued"):
        centre.site_of_certificate(joined.token.certificate)


def test_an_answer_is_remembered_until_the_registry_changes(centre):
    joined = kit.join(centre, "berlin")
    first = centre.site_of_certificate(joined.certificate)
    assert centre.site_of_certificate(joined.certificate) is first
    centre.count("berlin", 1, up=1, down=1, calls=1)
    centre.registry.flush()  # counting changes the file, not who is admitted
    assert centre.site_of_certificate(joined.certificate) is first
    centre.registry.quarantine("berlin", "")
    assert centre.site_of_certificate(joined.certificate) is not first


def test_remembered_answers_ask_the_store_nothing(centre):
    joined = kit.join(centre, "berlin")
    centre.site_of_certificate(joined.certificate)
    asked = []
    store, centre.registry.store = centre.registry.store, None  # any use of it would fail
    try:
        for _ in range(100):
            asked.append(centre.site_of_certificate(joined.certificate).site)
    finally:
        centre.registry.store = store
    assert asked == ["berlin"] * 100


def test_quarantine_lets_in_without_work_and_ends(centre):
    joined = kit.join(centre, "berlin")
    centre.registry.quarantine("berlin", "strange updates")
    assert centre.site_of_certificate(joined.certificate).state == "quarantined"
    assert centre.registry.show("berlin").reason == "strange updates"
    assert len(centre.superlink.known) == 1  # its node stays registered, the gateway keeps it offline
    again = kit.join(centre, "berlin", joined.keys, again=True)
    assert centre.site_of_certificate(again.certificate).state == "quarantined"  # only an operator ends it
    centre.registry.release("berlin")
    assert centre.site_of_certificate(again.certificate).state == "active"


@pytest.mark.parametrize("verb", ["quarantine", "revoke", "release", "rename"])
def test_a_site_that_is_not_there_is_named(centre, verb):
    arguments = {"quarantine": ["x", ""], "revoke": ["x", ""], "release": ["x"], "rename": ["x", "y"]}[verb]
    with pytest.raises(ConfigError, match="no site x") as caught:
        getattr(centre.registry, verb)(*arguments)
    assert caught.value.hint == "fl site list shows all"


def test_a_state_that_does_not_fit_is_named(centre):
    kit.join(centre, "berlin")
    with pytest.raises(ConfigError, match="berlin is active, not quarantined"):
        centre.registry.release("berlin")
    centre.registry.revoke("berlin", "")
    with pytest.raises(ConfigError, match="berlin is revoked, not active"):
        centre.registry.quarantine("berlin", "")
    with pytest.raises(ConfigError, match="berlin was revoked at"):
        centre.registry.revoke("berlin", "")


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "x" * 64, "ä"])
def test_what_cannot_be_a_sites_id_is_refused(centre, name):
    kit.join(centre, "berlin")
    with pytest.raises(ConfigError, match="cannot be a site's id"):
        centre.registry.rename("berlin", name)


def test_counts_add_up_over_runs_and_processes(centre):
    kit.join(centre, "berlin")
    for run_id, up in ((1, 10), (2**63 + 5, 20), (1, 30)):
        centre.count("berlin", run_id, up=up, down=1, calls=1)
    centre.registry.flush()
    centre.count("berlin", 1, up=2**40, down=0, calls=0)
    centre.count("nobody", 1, up=5, down=5, calls=5)
    centre.registry.flush()
    record = Registry(Store(centre.home.store)).show("berlin")
    assert (record.up_bytes, record.down_bytes, record.calls) == (60 + 2**40, 3, 3)


def test_counts_survive_a_disk_that_refuses(centre, monkeypatch):
    kit.join(centre, "berlin")
    centre.count("berlin", 1, up=10, down=20, calls=1)
    centre.seen("berlin", '{"gpus": 1}')

    def refuse(*_, **__):
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(centre.registry.store, "write", refuse)
        with pytest.raises(StorageError):
            centre.registry.flush()
    centre.registry.flush()
    record = centre.registry.show("berlin")
    assert (record.up_bytes, record.down_bytes, record.calls, record.report) == (10, 20, 1, {"gpus": 1})


def test_a_report_stays_when_a_site_is_seen_without_one(centre):
    kit.join(centre, "berlin")
    centre.seen("berlin", '{"gpus": 1}')
    centre.registry.flush()
    before = centre.registry.show("berlin")
    centre.registry.now = kit.Clock(before.seen_s + 60)
    centre.seen("berlin", "")
    centre.registry.flush()
    after = centre.registry.show("berlin")
    assert (after.seen_s, after.report) == (before.seen_s + 60, {"gpus": 1})


def test_the_release_is_what_the_site_said_last(centre):
    joined = kit.join(centre, "berlin")
    assert centre.registry.show("berlin").release == request_of(joined.token, joined.keys).version
    centre.seen("berlin", '{"facts": {"fedfleet": "9.9"}}')
    centre.registry.flush()
    assert centre.registry.show("berlin").release == "9.9"
    centre.seen("berlin", '{"facts": []}')
    centre.registry.flush()
    assert centre.registry.show("berlin").release == request_of(joined.token, joined.keys).version


@pytest.mark.parametrize("report", ["[]", "1", "{", "x" * 100_000, "[" * 60_000], ids=range(5))
def test_a_report_that_is_none_is_refused(centre, report):
    with pytest.raises(RefusedError, match="the report"):
        centre.seen("berlin", report)


def test_certificates_are_forgotten_long_after_their_end(centre):
    kit.join(centre, "berlin")
    centre.registry.now = kit.Clock(time.time() + 8 * DAY_S)
    kit.join(centre, "berlin", again=True)
    with centre.registry.store.write() as session:
        session.query(Request).update({"certificate": None})  # which would hold them
    centre.registry.now = kit.Clock(time.time() + 200 * DAY_S)
    centre.registry.tidy()
    with centre.registry.store.read() as session:
        assert session.query(Certificate).count() == 0


def test_what_happened_to_a_site_is_told_in_order(centre):
    kit.join(centre, "berlin")
    centre.registry.quarantine("berlin", "odd")
    centre.registry.release("berlin")
    centre.registry.revoke("berlin", "stolen")
    what = [what for _, what, _ in centre.registry.events("berlin")]
    assert what == ["invited", "asked", "approved", "node", "quarantined", "active", "revoked"]


def test_the_list_says_who_waits(tmp_path):
    centre = kit.make_centre(tmp_path / "server", approval="operator")
    kit.join(centre, "berlin")
    (record,) = centre.registry.all()
    assert (record.site, record.state, record.waiting) == ("berlin", "invited", True)
    assert record.certificate_expires_s is None


def test_the_thread_of_a_centre_writes_counts_and_follows_superlink(centre):
    centre.superlink.reachable = False
    kit.join(centre, "berlin")
    centre.count("berlin", 1, up=10, down=0, calls=1)
    with centre:
        centre.superlink.reachable = True
        deadline = time.monotonic() + 60
        while centre.registry.show("berlin").up_bytes < 10 or not centre.registry.node_of("berlin"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert (centre.home.gateway / "server.crt").exists()
