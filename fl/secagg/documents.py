"""Signed JSON documents that people can read: the text, then one line ``signature <hex>``.

The signature covers the received bytes before that line, so nothing is ever written again in order to check it.
"""

from __future__ import annotations

from fl.secagg.errors import SignatureError
from fl.secagg.identity import Identity, verify

SIGNATURE_LINE = b"\nsignature "


def sign_document(body: bytes, identity: Identity, label: str) -> bytes:
    """A document with its signature line."""
    return body + SIGNATURE_LINE + identity.sign(label, body).hex().encode() + b"\n"


def text_of(data: bytes) -> bytes:
    """A document's text without its signature line, if it has one. Nothing is checked."""
    return data.rpartition(SIGNATURE_LINE)[0] or data


def verify_document(data: bytes, public: bytes, who: str, label: str) -> bytes:
    """The text of a signed document.

    Raises:
        SignatureError: If it has no signature, bytes behind it, or not that of ``who``.
    """
    body, _, line = data.rpartition(SIGNATURE_LINE)
    if not body:
        raise SignatureError("the document is not signed")
    try:
        signature = bytes.fromhex(line.decode("ascii").removesuffix("\n"))
    except ValueError as err:
        raise SignatureError("the document's signature is not in hexadecimal") from err
    if line != signature.hex().encode() + b"\n":
        raise SignatureError("the document has bytes behind its signature")
    verify(public, signature, who, label, body)
    return body
