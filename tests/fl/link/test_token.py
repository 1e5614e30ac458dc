"""Join tokens: read back as written, and refused in words when anything in them was changed."""

import base64
import dataclasses
import random

import pytest

from fl.errors import ConfigError
from fl.link.token import JoinToken, check_address, decode
from server.ca import TransportCA


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    ca = TransportCA(tmp_path_factory.mktemp("ca"))
    ca.create()
    return ca


def make(ca, **changes):
    issued, key = ca.issue_enrolment("0123456789abcdef", until_s=4_000_000_000)
    token = JoinToken(
        id="0123456789abcdef",
        site="berlin",
        expires_s=3_000_000_000,
        gateways=("fl.example.org:8443", "[2001:db8::1]:443"),
        authorities=tuple(one.der for one in ca.trusted()),
        certificate=issued.der,
        key=key,
        roster_authority=bytes(range(32)),
    )
    return dataclasses.replace(token, **changes)


def test_a_token_is_one_line_that_reads_back(ca):
    token = make(ca, new_keys=True)
    line = token.encode()
    assert line.startswith("fl1.")
    assert line.isprintable()
    assert len(line) < 2000
    assert decode(line) == token


def test_line_breaks_of_a_mail_do_no_harm(ca):
    line = make(ca).encode()
    broken = "\n".join(line[start : start + 72] for start in range(0, len(line), 72))
    assert decode(f"  {broken}\r\n") == decode(line)


def test_its_private_key_is_not_shown(ca):
    token = make(ca)
    assert token.key.hex() not in repr(token)
    assert repr(token.key) not in repr(token)


def test_any_changed_letter_is_found(ca):
    line = make(ca).encode()
    dice = random.Random(20261125)
    for _ in range(200):
        place = dice.randrange(4, len(line))
        letter = dice.choice([other for other in "ABCDwxyz0189-_" if other != line[place]])
        with pytest.raises(ConfigError, match="the join token is damaged"):
            decode(line[:place] + letter + line[place + 1 :])


@pytest.mark.parametrize("cut", [1, 5, 100, 1000])
def test_a_token_that_was_cut_is_found(ca, cut):
    with pytest.raises(ConfigError, match="damaged"):
        decode(make(ca).encode()[:-cut])


def test_what_is_no_token_is_told_from_one_of_a_newer_version():
    with pytest.raises(ConfigError, match="no join token"):
        decode("hello")
    with pytest.raises(ConfigError, match="newer fedfleet"):
        decode("fl2.abc")


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "another"},
        {"key": b"\x01" * 32},
        {"gateways": ()},
        {"gateways": ("no address",)},
        {"site": "../etc"},
        {"roster_authority": b"short"},
        {"authorities": ()},
        {"certificate": b"nonsense"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_parts_that_do_not_fit_each_other_are_refused(ca, changes):
    with pytest.raises(ConfigError, match="damaged"):
        decode(make(ca, **changes).encode())


def test_an_authority_put_in_place_of_the_real_one_does_not_fit(ca, tmp_path):
    other = TransportCA(tmp_path / "other")
    other.create()
    with pytest.raises(ConfigError, match="damaged"):
        decode(make(ca, authorities=(other.serving().der,)).encode())


def test_a_longer_line_than_any_token_is_not_looked_at():
    with pytest.raises(ConfigError, match="damaged"):
        decode("fl1." + base64.urlsafe_b64encode(bytes(100_000)).decode())


def test_a_token_past_its_date_is_named_with_both_clocks(ca):
    token = make(ca, expires_s=1_000_000_000)
    with pytest.raises(ConfigError, match=r"for berlin expired at 2001-09-09 01:46 UTC, .* says 2001-09-09 02:46 UTC"):
        token.check_time(1_000_003_600)
    token.check_time(999_999_999)


@pytest.mark.parametrize("address", ["a:1", "fl.example.org:443", "[::1]:65535", "10.0.0.1:8443"])
def test_addresses(address):
    assert check_address(address) == address


@pytest.mark.parametrize("address", ["a", "a:", ":1", "a:0", "a:65536", "::1:443", "http://a:1", "a:1/x", "a b:1"])
def test_what_is_no_address(address):
    with pytest.raises(ConfigError, match="is no address"):
        check_address(address)
