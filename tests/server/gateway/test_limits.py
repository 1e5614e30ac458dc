import pytest

from fl.errors import ConfigError, RefusedError
from server.gateway.config import GatewayConfig
from server.gateway.limits import Bucket, SiteLimits


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate():
    bucket = Bucket(rate_per_s=10.0, burst=3.0, now=0.0)
    delays = [bucket.take(now=0.0) for _ in range(5)]
    assert delays == pytest.approx([0.0, 0.0, 0.0, 0.1, 0.2])


def test_a_bucket_never_saves_more_than_its_burst():
    bucket = Bucket(rate_per_s=10.0, burst=2.0, now=0.0)
    assert [bucket.take(now=1000.0) for _ in range(3)] == pytest.approx([0.0, 0.0, 0.1])


def test_a_site_that_is_a_little_too_fast_waits_and_one_that_is_far_too_fast_is_refused():
    limits = SiteLimits(GatewayConfig(calls_per_s=2.0, calls_burst=1, calls_at_once=1000))
    delays = [limits.enter() for _ in range(11)]
    with pytest.raises(RefusedError, match="more than 2 calls a second"):
        limits.enter()
    assert delays[0] == 0.0
    assert 4.0 < delays[-1] <= 5.0


def test_a_refused_call_does_not_make_the_next_one_wait_longer():
    limits = SiteLimits(GatewayConfig(calls_per_s=1.0, calls_burst=1, calls_at_once=1000))
    for _ in range(6):
        limits.enter()
    for _ in range(1000):
        with pytest.raises(RefusedError):
            limits.enter()
    assert limits._calls.delay_s() < 7.0


def test_a_site_has_only_so_many_calls_open():
    limits = SiteLimits(GatewayConfig(calls_at_once=4))
    for _ in range(4):
        limits.enter()
    with pytest.raises(RefusedError, match="4 calls of this site are open"):
        limits.enter()
    limits.leave()
    limits.enter()


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"hold_s": 60.0}, "gateway.hold_s is 60.0, must be at most 28"),
        ({"listen": ()}, "gateway.listen is empty"),
        ({"listen": ("gateway",)}, "address 'gateway' must be host:port"),
        ({"health": "8080"}, "address '8080' must be host:port"),
        ({"polls_per_s": 0.0}, "gateway.polls_per_s is 0.0, must be above 0"),
    ],
)
def test_a_bound_that_cannot_hold_is_refused_by_name(keys, complaint):
    with pytest.raises(ConfigError, match=complaint.replace("[", r"\[")):
        GatewayConfig(**keys)
