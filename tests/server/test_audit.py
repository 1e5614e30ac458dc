import pytest
from sqlalchemy import delete, update

from server import audit
from server.audit import Actor, AuditError
from server.store import Store
from server.store.runs import Audit

ADA = Actor(who="ada", via="api", address="192.0.2.7")


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store.db")
    with store.write() as session:
        for number in range(5):
            audit.append(session, ADA, "run.stop", f"run-{number}", before={"state": "running"}, after={"n": number})
    yield store
    store.close()


def verified(store, **options):
    with store.read() as session:
        return audit.verify(audit.rows(session), **options)


def test_an_untouched_audit_holds(store):
    number, chain = verified(store)
    assert number == 5
    assert len(chain) == 64
    assert verified(store, expect=chain) == (5, chain)


@pytest.mark.parametrize(
    "change", [{"who": "eve"}, {"at_s": 1.0}, {"address": ""}, {"before": ""}, {"after": '{"n": 9}'}, {"action": "x"}]
)
def test_an_altered_row_is_named(store, change):
    with store.write() as session:
        session.execute(update(Audit).where(Audit.number == 3).values(**change))
    with pytest.raises(AuditError, match=r"audit row 3 \(.* run-2\) was altered"):
        verified(store)


def test_a_removed_row_is_named(store):
    with store.write() as session:
        session.execute(delete(Audit).where(Audit.number == 2))
    with pytest.raises(AuditError, match="audit row 2 is missing: after row 1 comes row 3"):
        verified(store)


def test_rows_removed_from_the_end_are_missed_by_who_wrote_down_the_chain(store):
    _, chain = verified(store)
    with store.write() as session:
        session.execute(delete(Audit).where(Audit.number == 5))
    assert verified(store)[0] == 4
    with pytest.raises(AuditError, match=f"no row with chain value {chain}"):
        verified(store, expect=chain)


def change_and_fail(store):
    with store.write() as session:
        audit.append(session, ADA, "run.stop", "r")
        raise ZeroDivisionError


def test_an_error_takes_the_audit_row_back_with_the_change(store):
    with pytest.raises(ZeroDivisionError):
        change_and_fail(store)
    assert verified(store)[0] == 5


def test_fields_that_look_like_secrets_are_not_written_down(store):
    with store.write() as session:
        row = audit.append(session, ADA, "user.add", "bob", after={"name": "bob", "token": "t", "password_hash": "h"})
        assert row.after == '{"name": "bob"}'
