import datetime
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge import policy as rules
from edge.home import Home
from edge.policy import Policy
from edge.usage import Usage
from fl.errors import ConfigError, RefusedError

DIGEST = "ab" * 32
NIGHT = datetime.datetime(2026, 1, 5, 3, 0, tzinfo=datetime.UTC)
NOON = datetime.datetime(2026, 1, 5, 12, 0, tzinfo=datetime.UTC)


def policy(tmp_path, text):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return Policy.from_file(path)


def test_without_a_file_everything_is_allowed(tmp_path):
    found = Policy.from_file(tmp_path / "policy.toml")
    rules.check_app(found, DIGEST)
    rules.check_work_hours(found, NIGHT)
    rules.check_transfer_hours(found, NIGHT)
    Usage(tmp_path / "usage.json", found).check()


def test_only_named_apps_may_run(tmp_path):
    found = policy(tmp_path, f'[apps]\nallow = ["{DIGEST}"]')
    rules.check_app(found, DIGEST)
    with pytest.raises(RefusedError, match=f"the app {'cd' * 32} is not in apps.allow of this site's policy"):
        rules.check_app(found, "cd" * 32)
    with pytest.raises(RefusedError, match="the app without a digest"):
        rules.check_app(found, "")
    with pytest.raises(RefusedError):
        rules.check_app(policy(tmp_path, "[apps]\nallow = []"), DIGEST)


def test_hours_are_refused_with_the_next_ones(tmp_path):
    found = policy(tmp_path, '[hours]\ntime_zone = "Europe/Berlin"\nwork = ["daily 22:00-06:00"]\ntransfer = []')
    rules.check_work_hours(found, NIGHT)
    rules.check_transfer_hours(found, NOON)
    with pytest.raises(RefusedError) as caught:
        rules.check_work_hours(found, NOON)
    assert caught.value.message == (
        "outside hours.work of this site's policy; the next begin Mon 2026-01-05 22:00 Europe/Berlin"
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[apps]\nalow = []", "unknown key apps.alow"),
        ('[apps]\nallow = ["abc"]', "apps.allow[0] is 'abc', must be a SHA-256"),
        (f'[apps]\nallow = ["{DIGEST.upper()}"]', "apps.allow[0]"),
        ('[hours]\nwork = ["weekends"]', "hours.work: 'weekends' is no window"),
        ('[hours]\ntime_zone = "Mars"', "no time zone 'Mars'"),
        ("[limits]\nupload_mbit_per_s = 0", "limits.upload_mbit_per_s is 0.0, must be at least 0.01"),
        ("[limits]\nmib_per_day = -1", "limits.mib_per_day is -1.0"),
        ("[secagg]\nmin_sites = 1", "min_sites is 1, must be at least"),
        ("[budget]\n", "unknown key budget"),
        ("apps = 3", "apps is 3, must be a table"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, text, complaint):
    with pytest.raises(ConfigError) as caught:
        policy(tmp_path, text)
    assert complaint in caught.value.message


def test_budgets_count_down_and_start_anew_at_midnight_of_the_owners_zone(tmp_path):
    text = '[hours]\ntime_zone = "Asia/Tokyo"\n[limits]\nmib_per_day = 10\ngpu_minutes_per_day = 2'
    usage = Usage(tmp_path / "usage.json", policy(tmp_path, text))
    before = datetime.datetime(2026, 1, 5, 14, 59, tzinfo=datetime.UTC)  # 23:59 in Tokyo
    after = before + datetime.timedelta(minutes=2)
    usage.add(up_bytes=4 << 20, down_bytes=5 << 20, gpu_s=30, now=before)
    assert usage.bytes_left(before) == 1 << 20
    assert usage.gpu_left_s(now=before) == 90
    usage.check(before)
    usage.add(down_bytes=2 << 20, now=before)
    with pytest.raises(RefusedError, match=r"the 10 MiB of limits.mib_per_day are spent; .* midnight, Asia/Tokyo"):
        usage.check(before)
    assert usage.bytes_left(after) == 10 << 20
    usage.check(after)
    usage.add(gpu_s=120, now=after)
    with pytest.raises(RefusedError, match=r"the 2 minutes of limits.gpu_minutes_per_day are spent"):
        usage.check(after)


def test_a_damaged_count_begins_anew_instead_of_stopping_the_site(tmp_path):
    usage = Usage(tmp_path / "usage.json", Policy())
    (tmp_path / "usage.json").write_text('{"day": 1')
    assert usage.today().up_bytes == 0
    usage.add(up_bytes=3)
    assert usage.today().up_bytes == 3


def test_two_writers_lose_no_count(tmp_path):
    def count():
        usage = Usage(tmp_path / "usage.json", Policy())
        for _ in range(25):
            usage.add(up_bytes=1, now=NOON)

    writers = [threading.Thread(target=count) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert Usage(tmp_path / "usage.json", Policy()).today(NOON).up_bytes == 100


@pytest.fixture
def owner(tmp_path):
    """A home that takes a signed policy only, and the owner's key."""
    key = Ed25519PrivateKey.generate()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "policy.pub").write_text(key.public_key().public_bytes_raw().hex())
    return Home(tmp_path), key


def test_a_signed_policy_is_taken_and_any_other_is_not(owner):
    home, key = owner
    home.policy.write_text("[limits]\nmib_per_day = 5\n")
    with pytest.raises(RefusedError, match="takes a signed policy only") as caught:
        Policy.from_file(home.policy)
    assert "fl site policy sign" in caught.value.hint
    rules.sign(home.policy, key)
    assert Policy.from_file(home.policy).limits.mib_per_day == 5
    home.policy.write_text("[limits]\nmib_per_day = 5000\n")
    with pytest.raises(RefusedError, match=r"no signature of policy.toml by the pinned key"):
        Policy.from_file(home.policy)
    rules.sign(home.policy, Ed25519PrivateKey.generate())
    with pytest.raises(RefusedError, match="no signature"):
        Policy.from_file(home.policy)


def test_a_policy_that_was_removed_does_not_open_the_site(owner):
    home, key = owner
    home.policy.write_text("")
    rules.sign(home.policy, key)
    home.policy.unlink()
    with pytest.raises(RefusedError, match=r"no such file: .*policy.toml"):
        Policy.from_file(home.policy)


def test_a_policy_that_cannot_be_used_is_not_signed(tmp_path):
    (tmp_path / "policy.toml").write_text("[limit]")
    with pytest.raises(ConfigError, match="unknown key limit"):
        rules.sign(tmp_path / "policy.toml", Ed25519PrivateKey.generate())
    assert not (tmp_path / "policy.toml.sig").exists()
