import stat

import pytest

from edge import supernode
from edge.home import Home, SiteFile
from fl.errors import ConfigError


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "home")
    for directory in (made.keys, made.secagg):
        directory.mkdir(parents=True)
    return made


def site(**changes):
    return SiteFile(**({"id": "site-1", "gateways": ("127.0.0.1:9",)} | changes))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_partitions": 0}, "num_partitions is 0, must be at least 1"),
        ({"partition_id": 3, "num_partitions": 3}, "partition_id is 3, must be below 3"),
        ({"partition_id": -1}, "partition_id is -1, must be at least 0"),
        ({"threads": 0}, "threads is 0, must be at least 1"),
    ],
)
def test_a_wrong_option_is_refused_with_its_value(changes, complaint):
    with pytest.raises(ConfigError) as caught:
        site(**changes)
    assert complaint in caught.value.message


def test_the_secret_is_new_in_every_life_and_only_the_owner_can_read_it(home):
    supernode.make_secret(home)
    first = home.executor_secret.read_bytes()
    assert stat.S_IMODE(home.executor_secret.stat().st_mode) == 0o600
    supernode.make_secret(home)
    assert home.executor_secret.read_bytes() != first


def test_apps_are_told_about_the_site_in_flowers_own_syntax(home, tmp_path):
    from flwr.common.config import parse_config_args

    (tmp_path / "my data").mkdir()
    config = site(id="clinic_7", partition_id=2, num_partitions=5, data_dir=tmp_path / "my data")
    told = {
        "site": "clinic_7",
        "partition-id": 2,
        "num-partitions": 5,
        "data-dir": str(tmp_path / "my data"),
    }
    assert parse_config_args([supernode.node_config(home, config)]) == told
    (home.secagg / "authority.pub").touch()
    secured = told | {"secagg-dir": str(home.secagg)}
    assert parse_config_args([supernode.node_config(home, config)]) == secured
    assert "data-dir" not in supernode.node_config(home, site())
