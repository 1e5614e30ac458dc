"""The server's home: made once, read back, and its gateway told of changes."""

import shutil
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from fl.errors import ConfigError, UnreachableError
from server.home import Home, ServerConfig
from tests.server import kit


@pytest.fixture
def home(tmp_path):
    return kit.make_home(tmp_path / "server", address=["fl.example.org:443", "[2001:db8::1]:443"])


def test_the_configuration_reads_back(home):
    config = home.config()
    assert config.addresses == ("fl.example.org:443", "[2001:db8::1]:443")
    assert config.hosts == ("fl.example.org", "2001:db8::1")
    assert config.enrolment.approval == "automatic"
    home.write_config(config)
    assert home.config() == config


def test_every_key_is_written_that_is_not_the_default(home):
    home.config_file.write_text(
        'addresses = ["a:1"]\n[enrolment]\ntoken_hours = 2.0\n[gateway]\nhold_s = 5.0\nlisten = ["127.0.0.1:1"]\n'
    )
    config = home.config()
    home.write_config(config)
    assert home.config() == config
    assert "polls_per_s" not in home.config_file.read_text()


def test_private_keys_are_their_owners_only(home):
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    for path in home.path.rglob("*"):
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("addresses = []", "addresses is empty"),
        ('addresses = ["nowhere"]', "'nowhere' is no address"),
        ('addresses = ["a:1"]\n[enrolment]\napprovall = "operator"', "unknown key enrolment.approvall"),
        ('addresses = ["a:1"]\n[enrolment]\ncertificate_days = 0', "enrolment.certificate_days is 0"),
        ('addresses = ["a:1"]\n[enrolment]\napproval = "nobody"', "enrolment.approval is 'nobody'"),
    ],
)
def test_a_wrong_configuration_is_refused_in_words(home, text, words):
    home.config_file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        home.config()


def test_what_is_no_home_is_named(tmp_path):
    with pytest.raises(ConfigError, match="is no server's home") as caught:
        Home(tmp_path).config()
    assert "fl server init" in caught.value.hint


def test_a_home_is_not_made_over_another(home):
    with pytest.raises(ConfigError, match="is a server's home already"):
        kit.make_home(home.path)


def test_a_making_that_was_interrupted_goes_on(home):
    before = (home.ca / "0001.crt").read_bytes(), (home.secagg / "authority.pub").read_bytes()
    home.config_file.unlink()  # it is written last
    kit.make_home(home.path)
    assert ((home.ca / "0001.crt").read_bytes(), (home.secagg / "authority.pub").read_bytes()) == before


def test_one_way_to_sign_rosters_is_chosen(tmp_path):
    with pytest.raises(ConfigError, match="either --roster-authority KEY or --roster-key-here"):
        kit.make_home(tmp_path / "server", roster_key_here=False)
    home = kit.make_home(tmp_path / "server", roster_key_here=False, roster_authority="ab" * 32)
    assert not (home.secagg / "authority.key").exists()


def test_without_a_superlink_its_client_says_so(home):
    with pytest.raises(UnreachableError, match="no SuperLink runs in"):
        home.connect()


def test_the_gateway_hears_of_a_change_however_long_its_path_is(home):
    folder = tempfile.mkdtemp()
    try:
        deep = Home(Path(folder) / ("x" * 100) / ("y" * 100))
        deep.path.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as server:
            short = Path(folder) / "s"
            server.bind(str(short))
            short.rename(deep.socket)
            server.listen()
            server.settimeout(30)
            deep.tell_gateway()
            talk, _ = server.accept()
            assert talk.makefile("rb").readline() == b'{"changed": true}\n'
            talk.close()
    finally:
        shutil.rmtree(folder)


def test_no_gateway_is_no_error(home):
    home.tell_gateway()


def test_defaults_are_valid():
    assert ServerConfig(addresses=("a:1",)).enrolment.approval == "operator"
