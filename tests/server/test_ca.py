"""The transport authority: whom it vouches for, how it is followed by another, what a real handshake makes of it."""

import ssl
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from fl.errors import ConfigError
from fl.link.identity import GATEWAY_NAME, spki, who
from server import certificates
from server.ca import TransportCA
from tests.server import handshake

DAY_S = 86_400.0
NOW_S = 1_800_000_000.0


@pytest.fixture
def ca(tmp_path):
    ca = TransportCA(tmp_path / "ca")
    ca.create()
    return ca


def site(ca, name="berlin", days=7.0, now_s=None):
    key = ec.generate_private_key(ec.SECP256R1())
    return key, ca.issue_site(name, spki(key.public_key()), days=days, now_s=now_s)


def serving_number(ca, at_s):
    return ca.serving(at_s).number


def test_only_the_owner_can_read_it(ca):
    assert stat.S_IMODE(ca.directory.stat().st_mode) == 0o700
    for path in ca.directory.iterdir():
        if b"PRIVATE" in path.read_bytes():
            assert path.suffix == ".key"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_is_made_once(ca):
    with pytest.raises(ConfigError, match="holds an authority"):
        ca.create()


def test_a_missing_one_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no authority in"):
        TransportCA(tmp_path / "nowhere").trusted()


def test_a_certificate_names_its_site_and_can_only_be_a_clients(ca):
    _, issued = site(ca)
    certificate = x509.load_der_x509_certificate(issued.der)
    assert who(issued.der).name == "berlin"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_rotation_overlaps(ca):
    old = ca.all()[0]
    begin_s = old.certificate.not_valid_before_utc.timestamp() + 2 * DAY_S
    new = ca.rotate(overlap_days=7, now_s=begin_s)
    assert [one.number for one in ca.trusted(begin_s)] == [2, 1]
    assert serving_number(ca, begin_s + 6.9 * DAY_S) == 1
    _, issued = site(ca, now_s=begin_s)
    assert issued.authority == 2  # sites get the new one's certificates at once
    after_s = begin_s + 7.1 * DAY_S
    assert serving_number(ca, after_s) == 2
    assert [one.number for one in ca.trusted(after_s)] == [2]
    assert new.fingerprint != old.fingerprint


def test_after_the_overlap_the_old_key_is_erased(ca):
    begin_s = ca.all()[0].certificate.not_valid_before_utc.timestamp() + 2 * DAY_S
    ca.rotate(overlap_days=7, now_s=begin_s)
    ca.keep(overlap_days=7, now_s=begin_s + 6 * DAY_S)
    assert (ca.directory / "0001.key").exists()
    ca.keep(overlap_days=7, now_s=begin_s + 8 * DAY_S)
    assert sorted(path.name for path in ca.directory.iterdir()) == ["0002.crt", "0002.json", "0002.key"]


def test_two_rotations_do_not_run_at_once(ca):
    begin_s = ca.all()[0].certificate.not_valid_before_utc.timestamp() + 2 * DAY_S
    ca.rotate(overlap_days=7, now_s=begin_s)
    with pytest.raises(ConfigError, match="authority 2 takes over at"):
        ca.rotate(overlap_days=7, now_s=begin_s + DAY_S)
    assert ca.rotate(overlap_days=0, now_s=begin_s + DAY_S).number == 3  # a key was stolen: at once
    assert [one.number for one in ca.trusted(begin_s + DAY_S)] == [3]


def test_a_successor_is_made_when_two_thirds_of_a_life_are_over(ca):
    begin_s = ca.all()[0].certificate.not_valid_before_utc.timestamp() + DAY_S
    assert ca.keep(overlap_days=7, now_s=begin_s + 1000 * DAY_S) is None
    assert ca.keep(overlap_days=7, now_s=begin_s + 1300 * DAY_S).number == 2


def names(path):
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return certificate, certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_the_gateways_certificate_is_made_when_it_is_due_and_not_before(ca, tmp_path):
    made, now_s = tmp_path / "gateway", ca.all()[0].certificate.not_valid_before_utc.timestamp() + 2 * DAY_S
    assert ca.refresh_gateway(made, ["fl.example.org"], days=7, now_s=now_s)
    assert not ca.refresh_gateway(made, ["fl.example.org"], days=7, now_s=now_s + 4.6 * DAY_S)
    _, has = names(made / "server.crt")
    assert {GATEWAY_NAME, "fl.example.org", "localhost"} <= set(has.get_values_for_type(x509.DNSName))
    key = (made / "server.key").read_bytes()
    assert ca.refresh_gateway(made, ["fl.example.org"], days=7, now_s=now_s + 4.7 * DAY_S)
    assert ca.refresh_gateway(made, ["2001:db8::1"], days=7, now_s=now_s + 4.7 * DAY_S)  # another address
    assert (made / "server.key").read_bytes() == key
    assert stat.S_IMODE((made / "server.key").stat().st_mode) == 0o600


def test_the_gateways_certificate_follows_the_authority_when_its_time_comes(ca, tmp_path):
    made, now_s = tmp_path / "gateway", ca.all()[0].certificate.not_valid_before_utc.timestamp() + 2 * DAY_S
    first = ca.serving(now_s)
    ca.refresh_gateway(made, [], days=7, now_s=now_s)
    second = ca.rotate(overlap_days=7, now_s=now_s)
    ca.refresh_gateway(made, [], days=7, now_s=now_s + 1)
    assert names(made / "server.crt")[0].issuer == first.certificate.subject
    assert (made / "authorities.pem").read_bytes().count(b"BEGIN CERTIFICATE") == 2
    ca.refresh_gateway(made, [], days=7, now_s=now_s + 7.5 * DAY_S)
    assert names(made / "server.crt")[0].issuer == second.certificate.subject
    assert (made / "authorities.pem").read_bytes().count(b"BEGIN CERTIFICATE") == 1


# ---- real handshakes ----


def shake_hands(tmp_path, ca, client_chain, client_key):
    """The gateway's TLS with a client, in memory, as strictly as Python can; raises what either side raises."""
    gateway = tmp_path / "gateway"
    ca.refresh_gateway(gateway, [], days=7)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.minimum_version = ssl.TLSVersion.TLSv1_3
    server_context.load_cert_chain(gateway / "server.crt", gateway / "server.key")
    server_context.load_verify_locations(gateway / "authorities.pem")
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.verify_flags |= ssl.VERIFY_X509_STRICT
    (tmp_path / "client.crt").write_bytes(client_chain)
    (tmp_path / "client.key").write_bytes(certificates.private_pem(client_key))
    client_context = ssl.create_default_context(cadata=ca.bundle().decode())
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    client_context.load_cert_chain(tmp_path / "client.crt", tmp_path / "client.key")
    server, client = handshake.shake_hands(server_context, client_context, GATEWAY_NAME)
    client.write(b"x")
    assert server.read(1) == b"x"
    return server.getpeercert(binary_form=True)


def test_a_site_and_the_gateway_know_each_other(ca, tmp_path):
    key, issued = site(ca)
    assert shake_hands(tmp_path, ca, issued.pem, key) == issued.der


def test_a_stolen_certificate_without_its_key_is_worth_nothing(ca, tmp_path):
    _, issued = site(ca)
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        shake_hands(tmp_path, ca, issued.pem, ec.generate_private_key(ec.SECP256R1()))


def test_a_certificate_of_another_authority_is_not_taken(ca, tmp_path):
    other = TransportCA(tmp_path / "other")
    other.create()
    key, issued = site(other)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path, ca, issued.pem, key)


def test_an_expired_certificate_is_not_taken(ca, tmp_path):
    key, issued = site(ca, days=-0.5)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(tmp_path, ca, issued.pem, key)


def test_a_site_cannot_play_the_gateway(ca, tmp_path):
    key, issued = site(ca)
    gateway = tmp_path / "gateway"
    ca.refresh_gateway(gateway, [], days=7)
    other_key, other = site(ca, "paris")
    (gateway / "server.crt").write_bytes(issued.pem)
    (gateway / "server.key").write_bytes(certificates.private_pem(key))
    ca.refresh_gateway = lambda *_, **__: False  # the thief's gateway keeps what it has
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(tmp_path, ca, other.pem, other_key)


def test_a_certificate_holds_on_both_sides_of_a_rotation(ca, tmp_path):
    key, issued = site(ca)
    ca.rotate(overlap_days=7)
    assert shake_hands(tmp_path, ca, issued.pem, key) == issued.der
    new_key, new = site(ca)
    assert new.authority == 2
    assert shake_hands(tmp_path, ca, new.pem, new_key) == new.der
