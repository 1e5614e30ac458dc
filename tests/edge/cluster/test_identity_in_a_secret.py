"""A site's identity in a Secret: kept, restored into an empty home, and never another site's."""

import tomllib

import pytest
import tomli_w

from edge.cluster import identity
from edge.home import Home
from fl.errors import ConfigError


class Kept(dict):
    """A store that is as strict as a Secret: whole or not at all."""

    def read(self):
        return dict(self)

    def write(self, files):
        assert all(isinstance(content, bytes) for content in files.values())
        self.clear()
        self.update(files)


def joined(path, site="berlin"):
    """A home as fl site join leaves it."""
    home = Home(path)
    for directory in (home.keys, home.certificates, home.secagg):
        directory.mkdir(parents=True)
    home.site_file.write_text(tomli_w.dumps({"id": site, "gateways": ["gateway.example.org:443"], "threads": 2}))
    home.transport_key.write_text("transport")
    home.node_key.write_text("node")
    home.chain.write_text("chain")
    home.authorities.write_text("authorities")
    (home.secagg / "identity.key").write_text("identity")
    (home.secagg / "ledger.json").write_text("one")
    (home.keys / "executor.secret").write_text("of this life only")
    return home


def test_an_empty_home_becomes_the_site_again_with_keys_that_only_its_owner_reads(tmp_path):
    kept = Kept()
    assert identity.keep(joined(tmp_path / "old"), kept)
    home = Home(tmp_path / "new")
    home.path.mkdir()
    assert identity.restore(home, kept)
    assert home.node_key.read_text() == "node"
    assert home.node_key.stat().st_mode & 0o777 == 0o600
    assert not (home.keys / "executor.secret").exists()


def test_nothing_is_written_when_nothing_has_changed(tmp_path):
    home, kept = joined(tmp_path / "home"), Kept()
    assert [identity.keep(home, kept) for _ in range(2)] == [True, False]
    before = identity.mark(home)
    home.chain.write_text("renewed")
    assert identity.mark(home) != before
    assert identity.keep(home, kept)
    assert kept["chain.pem"] == b"renewed"


def test_a_home_that_outlived_its_pod_keeps_its_own_ledger(tmp_path):
    home, kept = joined(tmp_path / "home"), Kept()
    identity.keep(home, kept)
    (home.secagg / "ledger.json").write_text("one, two")
    home.chain.write_text("older than the Secret")
    identity.restore(home, kept)
    assert (home.secagg / "ledger.json").read_text() == "one, two"
    assert home.chain.read_text() == "chain"


def test_settings_of_the_chart_replace_what_the_file_has_and_a_dropped_one_falls_back(tmp_path):
    home, settings = joined(tmp_path / "home"), tmp_path / "settings.toml"
    settings.write_text('id = "berlin"\nhealth = "0.0.0.0:8080"\n')
    identity.apply_settings(home, settings)
    found = tomllib.loads(home.site_file.read_text())
    assert found == {"id": "berlin", "gateways": ["gateway.example.org:443"], "health": "0.0.0.0:8080"}


@pytest.mark.parametrize(
    ("text", "words"), [('id = "lyon"', "the Secret is 'berlin'"), ("thraeds = 1", "unknown key thraeds")]
)
def test_settings_that_are_wrong_leave_the_site_as_it_was(tmp_path, text, words):
    home, settings = joined(tmp_path / "home"), tmp_path / "settings.toml"
    before = home.site_file.read_text()
    settings.write_text(text)
    with pytest.raises(ConfigError, match=words):
        identity.apply_settings(home, settings)
    assert home.site_file.read_text() == before


def test_without_a_token_an_empty_secret_is_no_site(tmp_path):
    with pytest.raises(ConfigError, match="there is no join token"):
        identity.enrol(Home(tmp_path / "home"), Kept(), "", None, say=print)


def test_the_token_is_not_looked_at_once_the_secret_knows_the_site(tmp_path):
    kept = Kept()
    identity.keep(joined(tmp_path / "old"), kept)
    said = []
    identity.enrol(Home(tmp_path / "new"), kept, "not a token", None, say=said.append)
    assert said == ["this site has joined before: its identity is in the Secret"]
