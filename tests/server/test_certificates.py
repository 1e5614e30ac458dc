import datetime
import ssl
import stat

import pytest
from cryptography import x509

from server import certificates
from tests.server import handshake


@pytest.fixture
def files(tmp_path):
    return certificates.create(tmp_path / "keys")


def test_only_the_owner_can_read_secrets(files):
    assert stat.S_IMODE(files.directory.stat().st_mode) == 0o700
    for path in (files.key, files.executor_secret):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_private_key_of_the_authority_is_nowhere(files):
    private = [path for path in files.directory.iterdir() if b"PRIVATE KEY" in path.read_bytes()]
    assert private == [files.key]


def test_certificates_do_not_live_long(files):
    for path in (files.ca, files.certificate):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert life < datetime.timedelta(days=31)


def test_each_life_has_its_own_secrets(files, tmp_path):
    other = certificates.create(tmp_path / "other")
    assert other.executor_secret.read_bytes() != files.executor_secret.read_bytes()
    assert other.ca.read_bytes() != files.ca.read_bytes()


def shake_hands(files, ca, name):
    """A strict client and a server with these files, in memory; raises what the client raises."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(files.certificate, files.key)
    client_context = ssl.create_default_context(cafile=ca)
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    handshake.shake_hands(server_context, client_context, name)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "::1"])
def test_a_strict_client_accepts_the_server_under_each_of_its_names(files, name):
    shake_hands(files, files.ca, name)


def test_a_client_refuses_another_name_and_another_authority(files, tmp_path):
    other = certificates.create(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        shake_hands(files, files.ca, "example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(files, other.ca, "localhost")
