import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge import supernode
from fl.errors import BusyError, ConfigError
from fl.files import Lock


@pytest.fixture
def site(tmp_path):
    """Make a site's config, with changes."""
    (tmp_path / "ca.crt").touch()

    def site(**changes):
        known = {"name": "site-1", "superlink": "127.0.0.1:9", "ca": tmp_path / "ca.crt", "home": tmp_path / "home"}
        return supernode.SiteConfig(**(known | changes))

    return site


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"name": "über uns"}, "site name 'über uns'"),
        ({"name": ""}, "site name ''"),
        ({"name": "../etc"}, "site name '../etc'"),
        ({"superlink": "example.org"}, "superlink is 'example.org', must be host:port"),
        ({"superlink": ":9"}, "must be host:port"),
        ({"superlink": "host:http"}, "must be host:port"),
        ({"num_partitions": 0}, "num-partitions is 0, must be at least 1"),
        ({"partition_id": 3, "num_partitions": 3}, "partition-id is 3, must be below 3"),
        ({"partition_id": -1}, "partition-id is -1, must be at least 0"),
        ({"threads": 0}, "threads is 0, must be at least 1"),
    ],
)
def test_a_wrong_option_is_refused_with_its_value(site, changes, complaint):
    with pytest.raises(ConfigError) as caught:
        site(**changes)
    assert complaint in caught.value.message


def test_missing_files_are_named(site, tmp_path):
    with pytest.raises(ConfigError, match=r"no such file: .*other.crt"):
        site(ca=tmp_path / "other.crt")
    with pytest.raises(ConfigError, match=r"no such directory: .*data"):
        site(data_dir=tmp_path / "data")


def test_the_key_is_made_once_and_only_the_owner_can_read_it(site):
    config = site()
    config.home.mkdir()
    supernode.make_keys(config)
    path = config.keys / "node.key"
    made = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.keys.stat().st_mode) == 0o700
    assert stat.S_IMODE((config.keys / "executor.secret").stat().st_mode) == 0o600
    supernode.make_keys(config)
    assert path.read_bytes() == made


def test_the_public_key_is_that_of_the_private_one_on_a_curve_that_flower_takes(site):
    config = site()
    config.home.mkdir()
    supernode.make_keys(config)
    private = serialization.load_ssh_private_key((config.keys / "node.key").read_bytes(), password=None)
    public = serialization.load_pem_public_key(config.public_key.read_bytes())
    assert isinstance(public.curve, ec.SECP384R1)
    assert public == private.public_key()


def test_a_key_file_that_holds_none_is_refused_not_replaced(site):
    config = site()
    config.keys.mkdir(parents=True)
    (config.keys / "node.key").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"node.key is no private key"):
        supernode.make_keys(config)
    assert (config.keys / "node.key").read_text() == "nonsense"


def test_apps_are_told_about_the_site_in_flowers_own_syntax(site, tmp_path):
    from flwr.common.config import parse_config_args

    (tmp_path / "my data").mkdir()
    config = site(name="clinic_7", partition_id=2, num_partitions=5, data_dir=tmp_path / "my data")
    assert parse_config_args([supernode.node_config(config)]) == {
        "site": "clinic_7",
        "partition-id": 2,
        "num-partitions": 5,
        "data-dir": str(tmp_path / "my data"),
    }
    assert "data-dir" not in supernode.node_config(site())


def test_a_data_directory_that_flower_could_not_be_told_of_is_refused(site, tmp_path):
    (tmp_path / "it's").mkdir()
    with pytest.raises(ConfigError, match="has a quote in its name"):
        site(data_dir=tmp_path / "it's")


def test_a_site_runs_once(site):
    config = site()
    config.home.mkdir()
    with Lock(config.home / "lock"), pytest.raises(BusyError) as caught:
        supernode.run(config, say=print)
    assert caught.value.hint == "another process runs this site"


def test_the_address_may_be_one_of_version_6(site):
    assert site(superlink="[::1]:8000").address == ("::1", 8000)
