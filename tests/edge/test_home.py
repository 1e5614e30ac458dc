import pytest

from edge.home import Home, split_address
from fl.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("gateway.example.org:8443", ("gateway.example.org", 8443)),
        ("gateway.example.org", ("gateway.example.org", 443)),
        ("192.0.2.1:1", ("192.0.2.1", 1)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
        ("[::1]", ("::1", 443)),
    ],
)
def test_addresses_of_both_kinds_are_read(text, address):
    assert split_address(text) == address


@pytest.mark.parametrize("text", ["", ":443", "host:0", "host:65536", "host:http", "2001:db8::1", "[host]:1", "a/b:1"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ConfigError, match="is no address host:port"):
        split_address(text)


def test_an_address_of_version_6_without_brackets_is_told_how_to_write_it():
    with pytest.raises(ConfigError) as caught:
        split_address("2001:db8::1")
    assert caught.value.hint == "[2001:db8::1]:443"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('id = "site-1"', "gateways is missing"),
        ('id = "../etc"\ngateways = ["a:1"]', "cannot be a site's id"),
        ('id = "site-1"\ngateways = []', "gateways is empty"),
        ('id = "site-1"\ngateways = ["a:1"]\nproxy = "socks5://p:1"', "must be http://host:port"),
        ('id = "site-1"\ngateways = ["a:1"]\nproxy = "http://me:pw@p:1"', "proxy is 'p:1', must be http://host:port"),
        ('id = "site-1"\ngateways = ["a:1"]\nhealth = "8080"', "is no address"),
        ('id = "site-1"\ngateways = ["a:1"]\ngateway = "b"', "unknown key gateway"),
        ('id = "site-1"\ngateways = ["a:1"]\npartition_id = 2\nnum_partitions = 2', "partition_id is 2"),
    ],
)
def test_a_wrong_key_of_site_toml_is_named(tmp_path, text, complaint):
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        Home(tmp_path).site()
    assert complaint in caught.value.message


def test_a_password_of_the_proxy_is_not_printed(tmp_path):
    (tmp_path / "site.toml").write_text('id = "a"\ngateways = ["a:1"]\nproxy = "http://me:secret@p:1"')
    with pytest.raises(ConfigError) as caught:
        Home(tmp_path).site()
    assert "secret" not in caught.value.message


def test_a_home_that_has_not_joined_says_what_to_type(tmp_path):
    with pytest.raises(ConfigError, match=r"no site.toml") as caught:
        Home(tmp_path).site()
    assert caught.value.hint == "fl site join TOKEN"
