"""What a site is given is checked to hold nothing secret of anybody, at the centre before it leaves and at the site."""

from __future__ import annotations

import re
from collections.abc import Mapping

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fl.errors import RefusedError
from fl.link.identity import Who, spki, who

SECRET_TEXTS = (b"PRIVATE KEY-----", b"fl1.")
CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\s*", re.DOTALL)


def check_no_secrets(parts: Mapping[str, bytes]) -> None:
    """Refuse parts that hold a private key or a join token.

    Args:
        parts: Content by name.

    Raises:
        RefusedError: Naming the part; never its content.
    """
    for name, data in parts.items():
        if any(text in data for text in SECRET_TEXTS) or _is_private_key(data):
            raise RefusedError(f"the bundle's {name} holds a secret; nothing of it is used")


def check_certificates(chain: bytes, authorities: bytes, *, site: str, public: bytes) -> None:
    """Check that certificates are a site's own and come from an authority that came with them.

    Args:
        chain: The site's certificate first, PEM.
        authorities: Those that are trusted from now on, PEM.
        site: The site's id.
        public: Its transport key, SubjectPublicKeyInfo, DER.

    Raises:
        RefusedError: If there is anything else in them, or they do not fit.
    """
    check_no_secrets({"certificate": chain, "authorities": authorities})
    leaves, roots = _certificates("certificate", chain), _certificates("authorities", authorities)
    leaf = leaves[0]
    named = who(leaf.public_bytes(serialization.Encoding.DER))
    if named != Who("site", site):
        raise RefusedError(f"the certificate is for {named.name!r}, this site is {site!r}")
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or spki(key) != public:
        raise RefusedError("the certificate is for another key than this site's")
    for root in roots:
        if not _is_authority(root):
            raise RefusedError("among the authorities is a certificate that is none")
    for root in roots:
        try:
            leaf.verify_directly_issued_by(root)
        except Exception:  # noqa: S112  # the library's errors for another name, key or signature are many
            continue
        return
    raise RefusedError("the certificate is not signed by an authority that came with it")


def _certificates(name: str, pem: bytes) -> list[x509.Certificate]:
    if not pem or CERTIFICATE.sub(b"", pem).strip():
        raise RefusedError(f"the bundle's {name} holds something that is no certificate")
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as err:
        raise RefusedError(f"the bundle's {name} cannot be read") from err


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _is_private_key(data: bytes) -> bool:
    try:
        serialization.load_der_private_key(data, None)
    except TypeError:  # encrypted, but a key
        return True
    except Exception:
        return False
    return True
