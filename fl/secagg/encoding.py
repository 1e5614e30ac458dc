"""Bytes that mean one thing: length-prefixed fields, labelled hashes, labelled keys.

``enc`` is injective, and ``dec`` accepts exactly what ``enc`` makes, so a message has one encoding and its received
bytes can be hashed. Every hash and every derived key carries a label; none is used for two purposes.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fl.config import SITE_NAME
from fl.secagg.errors import MessageError

PROTOCOL = "fl-secagg/v1"
LENGTH_BYTES = 4

Field = bytes | str | int


def as_bytes(field: Field) -> bytes:
    """A field as bytes: text as UTF-8, an integer from 0 as 8 bytes, most significant first."""
    if isinstance(field, str):
        return field.encode()
    return field.to_bytes(8, "big") if isinstance(field, int) else bytes(field)


def enc(*fields: Field) -> bytes:
    """Fields one after the other, each behind its length in 4 bytes, most significant first.

    Example:
        >>> enc("ab", b"").hex()
        '00000002616200000000'
    """
    parts = []
    for field in fields:
        data = as_bytes(field)
        parts += [len(data).to_bytes(LENGTH_BYTES, "big"), data]
    return b"".join(parts)


def dec(data: bytes) -> list[bytes]:
    """The fields of ``enc``.

    Raises:
        MessageError: If the bytes are cut short or too long.
    """
    fields, position, end = [], 0, len(data)
    while position < end:
        start = position + LENGTH_BYTES
        position = start + int.from_bytes(data[position:start], "big")
        if start > end or position > end:
            raise MessageError("the message is cut short")
        fields.append(data[start:position])
    return fields


def whole(data: bytes) -> int:
    """How many bytes of ``enc`` there are before a field that is cut short."""
    position, end = 0, len(data)
    while True:
        start = position + LENGTH_BYTES
        after = start + int.from_bytes(data[position:start], "big")
        if start > end or after > end:
            return position
        position = after


def pieces(data: bytes, size: int, count: int) -> list[bytes]:
    """``count`` fields of one size.

    Raises:
        MessageError: If the bytes are not that many.
    """
    if len(data) != size * count:
        raise MessageError(f"{count} fields of {size} bytes were expected, {len(data)} bytes came")
    return [data[start : start + size] for start in range(0, len(data), size)]


def dec_text(data: bytes) -> str:
    """A text field.

    Raises:
        MessageError: If it is not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        raise MessageError("a text in the message is not UTF-8") from err


def dec_site(data: bytes) -> str:
    """A site's id; nothing else gets from a message into an error's words.

    Raises:
        MessageError: If it is not one.
    """
    try:
        site = data.decode("ascii")
    except UnicodeDecodeError:
        site = ""
    if not SITE_NAME.fullmatch(site):
        raise MessageError("a site's id in the message is not one")
    return site


def printable(text: str, limit: int) -> str:
    """Text of others for one line of a terminal or log: without control characters, and cut."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:limit]


def H(label: str, *fields: Field) -> bytes:  # noqa: N802  # the specification's name
    """SHA-256 of a label and fields, 32 bytes."""
    return hashlib.sha256(enc(label, *fields)).digest()


def kdf(key: bytes, suite: str, salt: bytes, *info: Field) -> bytes:
    """A 32-byte key for one purpose: HKDF-SHA256 over the protocol's name, the suite and ``info``."""
    return HKDF(SHA256(), 32, salt, enc(PROTOCOL, suite, *info)).derive(key)
