"""A bundle for a site holds no other party's secret, whichever form the secret has."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fl.errors import RefusedError
from fl.link.bundle import check_certificates, check_no_secrets
from fl.link.identity import spki
from server.ca import TransportCA

KEYS = [ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()]


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    ca = TransportCA(tmp_path_factory.mktemp("ca"))
    ca.create()
    return ca


@pytest.fixture(scope="module")
def key():
    return ec.generate_private_key(ec.SECP256R1())


def forms(key):
    plain, locked = serialization.NoEncryption(), serialization.BestAvailableEncryption(b"x")
    formats, encodings = serialization.PrivateFormat, serialization.Encoding
    yield key.private_bytes(encodings.PEM, formats.PKCS8, plain)
    yield key.private_bytes(encodings.PEM, formats.PKCS8, locked)
    yield key.private_bytes(encodings.PEM, formats.OpenSSH, plain)
    yield key.private_bytes(encodings.DER, formats.PKCS8, plain)
    yield key.private_bytes(encodings.DER, formats.PKCS8, locked)


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param(form, id=f"{type(key).__name__} {number}")  # the same in every worker, unlike the bytes
        for key in KEYS
        for number, form in enumerate(forms(key))
    ],
)
def test_a_private_key_in_any_form_is_found_and_not_shown(secret):
    with pytest.raises(RefusedError, match="the bundle's roster holds a secret") as caught:
        check_no_secrets({"chain": b"fine", "roster": secret})
    assert secret.hex()[:32] not in caught.value.message


def test_a_join_token_is_a_secret_too():
    with pytest.raises(RefusedError, match="holds a secret"):
        check_no_secrets({"roster": b'{"note": "fl1.AAAA"}'})


def test_what_is_public_passes(ca, key):
    issued = ca.issue_site("berlin", spki(key.public_key()), days=7)
    check_certificates(issued.pem, ca.bundle(), site="berlin", public=spki(key.public_key()))
    check_no_secrets({"roster": b'{"sites": {}}', "authorities": ca.bundle()})


def test_a_key_behind_a_certificate_is_found(ca, key):
    issued = ca.issue_site("berlin", spki(key.public_key()), days=7)
    with pytest.raises(RefusedError, match="holds a secret"):
        check_certificates(issued.pem + next(forms(key)), ca.bundle(), site="berlin", public=spki(key.public_key()))


def test_a_certificate_of_another_site_key_or_authority_is_refused(ca, key, tmp_path):
    public = spki(key.public_key())
    issued = ca.issue_site("berlin", public, days=7)
    with pytest.raises(RefusedError, match="is for 'berlin', this site is 'paris'"):
        check_certificates(issued.pem, ca.bundle(), site="paris", public=public)
    with pytest.raises(RefusedError, match="is for another key"):
        check_certificates(issued.pem, ca.bundle(), site="berlin", public=spki(KEYS[0].public_key()))
    other = TransportCA(tmp_path / "other")
    other.create()
    with pytest.raises(RefusedError, match="is not signed by an authority"):
        check_certificates(issued.pem, other.bundle(), site="berlin", public=public)
    with pytest.raises(RefusedError, match="is a certificate that is none"):
        check_certificates(issued.pem, ca.bundle() + issued.pem, site="berlin", public=public)


@pytest.mark.parametrize("chain", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_refused(ca, key, chain):
    with pytest.raises(RefusedError, match="the bundle's certificate"):
        check_certificates(chain, ca.bundle(), site="berlin", public=spki(key.public_key()))
