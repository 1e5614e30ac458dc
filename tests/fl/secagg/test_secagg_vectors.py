"""Published vectors of every primitive, and our own wire vectors made by one implementation and checked by another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl.secagg import ciphers, keys, shamir
from fl.secagg.ciphers import BLOCK_BYTES, GCM_MOST_BYTES, LONG_BYTES, cipher, counter_through_gcm, fill
from fl.secagg.encoding import dec, enc, kdf
from fl.secagg.errors import MessageError
from fl.secagg.keystream import SEGMENT_BYTES, Stream, add_streams, keystream
from fl.secagg.messages import Advertisement, MaskedInput, Reveal, Shares, SharesHeader
from fl.secagg.profiles import AES_SUITE, CHACHA_SUITE, PROFILES
from fl.secagg.quantise import quantise
from fl.secagg.session import session_model_id
from fl.secagg.vectors import vector_digest
from tests.fl.secagg import reference
from tests.fl.secagg.federation import Federation, random_source

VECTORS = Path(__file__).parents[2] / "vectors" / "secagg-v1.json"


def test_aes_256_ctr_is_that_of_sp_800_38a() -> None:
    # F.5.5, CTR-AES256.Encrypt; its counter starts at f0f1...ff, so the library's own mode is checked.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    encryptor = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    expected = "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    assert encryptor.update(plain).hex() == expected


def test_the_stream_of_a_known_key() -> None:
    out = bytearray(16)
    assert cipher(b"1" * 32, 0, AES_SUITE).update_into(bytes(16), out) == 16
    assert out.hex() == "b08ecf9ec7eb5f0d7b78c42556d668ac"


def test_the_stream_of_a_known_key_comes_through_gcm_too() -> None:
    assert counter_through_gcm(b"1" * 32, 0).update(bytes(16)).hex() == "b08ecf9ec7eb5f0d7b78c42556d668ac"


@pytest.mark.parametrize("offset", [0, 64, BLOCK_BYTES, SEGMENT_BYTES - 64, 2**32, GCM_MOST_BYTES - 64])
def test_gcm_makes_the_stream_of_counter_mode_from_any_offset(offset: int) -> None:
    random = random_source(offset)
    for key in [bytes(32), b"\xff" * 32, *(random(32) for _ in range(20))]:
        expected = cipher(key, offset, AES_SUITE).update(bytes(100))  # short: counter mode itself
        assert counter_through_gcm(key, offset).update(bytes(100)) == expected


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_masks_are_the_same_in_either_way_of_making_them(monkeypatch: pytest.MonkeyPatch, dtype: type) -> None:
    made = []
    for faster in (False, True):
        monkeypatch.setattr(ciphers, "gcm_is_faster", lambda faster=faster: faster)
        vector = np.arange(4 * LONG_BYTES // np.dtype(dtype).itemsize + 5).astype(dtype)
        streams = [Stream(bytes([number]) * 32, "vector") for number in range(5)]
        add_streams(vector, streams[:3], streams[3:], threads=3)
        made.append(vector)
    assert np.array_equal(*made)


def test_an_update_is_rounded_the_same_in_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    update = np.random.default_rng(3).standard_normal(LONG_BYTES, dtype=np.float32)
    made = []
    for faster in (False, True):
        monkeypatch.setattr(ciphers, "gcm_is_faster", lambda faster=faster: faster)
        # Odd sizes of tensors: the dither is read in pieces that end within a cipher's block.
        sizes, clips = [70_001, 3, LONG_BYTES - 70_004], [1.0, 2.0, 3.0]
        rounded = quantise(
            update, sizes, clips, weight=0.3, profile=PROFILES["standard"], n_max=10, dither_key=b"d" * 32
        )
        made.append(rounded.vector)
    assert np.array_equal(*made)


def test_chacha20_is_that_of_rfc_8439() -> None:
    # Appendix A.1, test vector 1: key and nonce zero, counter 0.
    out = bytearray(64)
    cipher(bytes(32), 0, CHACHA_SUITE).update_into(bytes(64), out)
    assert out[:32].hex() == "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    second = bytearray(64)
    cipher(bytes(32), 64, CHACHA_SUITE).update_into(bytes(64), second)  # counter 1: test vector 2
    assert second[:16].hex() == "9f07e7be5551387a98ba977c732d080d"


def test_hkdf_is_that_of_rfc_5869() -> None:
    # Test case 1, cut to one block by both implementations.
    key, salt, info = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    assert reference.hkdf(key, salt, info).hex() == expected
    assert kdf(key, AES_SUITE, salt, "x") == reference.kdf(key, salt, "x")
    assert kdf(key, AES_SUITE, b"", "x", 7) == reference.kdf(key, b"", "x", 7)


def test_x25519_is_that_of_rfc_7748() -> None:
    # Section 5.2, first vector.
    private = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    public = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    expected = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert keys.exchange(keys.private_key(private), public, "alice").hex() == expected


def test_ed25519_is_that_of_rfc_8032() -> None:
    # Section 7.1, test 1: the empty message.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = Ed25519PrivateKey.from_private_bytes(seed)
    assert key.public_key().public_bytes_raw().hex() == (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    )
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b"
    )


def test_shamir_rebuilds_what_another_implementation_shared() -> None:
    """Five shares with threshold 3 from the tests of google-parfait/federated-compute (two words of 31 bits)."""
    prime = 2**31 + 11
    published = [
        (112, 207, 118, 46, 110, 212, 170, 28),
        (48, 160, 197, 172, 38, 235, 145, 204),
        (63, 115, 238, 144, 40, 68, 183, 71),
        (29, 72, 240, 207, 114, 224, 26, 141),
        (74, 31, 204, 116, 6, 189, 187, 136),
    ]
    for points in ((1, 2, 3), (1, 3, 5), (2, 4, 5)):
        words = []
        for start in (0, 4):
            values = [int.from_bytes(bytes(published[point - 1][start : start + 4]), "big") for point in points]
            factors = shamir.lagrange_at_zero(points, prime)
            words.append(sum(value * factor for value, factor in zip(values, factors, strict=True)) % prime)
        assert sorted(words) == [0, 33]


@pytest.mark.parametrize(("threshold", "count"), [(1, 1), (2, 3), (7, 10), (67, 100)])
def test_any_threshold_of_shares_rebuilds_the_secret(threshold: int, count: int) -> None:
    draw = random_source("shamir", threshold)
    for secret in (bytes(32), b"\xff" * 32, draw(32)):
        shares = shamir.split(secret, threshold, count, draw)
        assert {len(share) for share in shares} == {shamir.SHARE_BYTES}
        chosen = {point: shares[point - 1] for point in range(count - threshold + 1, count + 1)}
        factors = dict(zip(chosen, shamir.lagrange_at_zero(list(chosen)), strict=True))
        assert shamir.secret_bytes(shamir.combine(chosen, factors)) == secret
        assert reference.rebuild(chosen) == int.from_bytes(secret, "big")


def test_one_share_too_few_says_nothing() -> None:
    """For every possible secret there is a last share that makes the others rebuild it."""
    draw = random_source("few")
    shares = shamir.split(bytes(32), 3, 5, draw)
    known = {1: shares[0], 2: shares[1]}
    factors = dict(zip((1, 2, 3), shamir.lagrange_at_zero((1, 2, 3)), strict=True))
    for secret in (1, 2**255, 12345):
        partial = sum(int.from_bytes(share, "big") * factors[point] for point, share in known.items())
        last = (secret - partial) * pow(factors[3], -1, shamir.PRIME) % shamir.PRIME
        fitting = {**known, 3: last.to_bytes(shamir.SHARE_BYTES, "big")}
        assert shamir.combine(fitting, factors) == secret


def test_encoding_has_one_reading() -> None:
    assert dec(enc("ab", b"", 7)) == [b"ab", b"", (7).to_bytes(8, "big")]
    for broken in (b"\x00", b"\x00\x00\x00\x02a", enc("a")[:-1], b"\xff\xff\xff\xff"):
        with pytest.raises(MessageError):
            dec(broken)


@pytest.mark.parametrize("suite", [AES_SUITE, CHACHA_SUITE])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_streams_are_the_same_for_any_number_of_threads(suite: str, dtype: type) -> None:
    count = 3_000_000 // np.dtype(dtype).itemsize + 1
    whole = keystream(bytes(32), "vector", count, dtype, suite)
    parts = np.full(count, 5, dtype)
    add_streams(parts, [Stream(bytes(32), "vector", suite)], [], threads=3)
    assert np.array_equal(parts - dtype(5), whole)
    add_streams(parts, [Stream(b"a" * 32, "vector", suite)], [Stream(bytes(32), "vector", suite)], threads=2)
    add_streams(parts, [], [Stream(b"a" * 32, "vector", suite)], threads=1)
    assert np.array_equal(parts, np.full(count, 5, dtype))


def test_many_streams_are_added_in_several_passes() -> None:
    vector = np.zeros(100, np.uint32)
    seeds = [bytes([number]) * 32 for number in range(130)]
    add_streams(vector, [Stream(seed, "vector") for seed in seeds], [])
    expected = sum(keystream(seed, "vector", 100, np.uint32) for seed in seeds)
    assert np.array_equal(vector, expected)


def test_a_stream_changes_its_key_between_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    from fl.secagg import keystream as module

    long = keystream(b"k" * 32, "vector", 4000, np.uint32)
    monkeypatch.setattr(module, "SEGMENT_BYTES", 4096)
    cut = keystream(b"k" * 32, "vector", 4000, np.uint32)
    assert np.array_equal(cut[:1024], long[:1024])
    assert not np.array_equal(cut[1024:2048], long[1024:2048])
    assert SEGMENT_BYTES // 16 == 2**24


def test_a_cipher_that_writes_too_little_is_noticed() -> None:
    class Short:
        def update_into(self, data: bytes, into: memoryview) -> int:
            return len(data) - 1

    with pytest.raises(RuntimeError, match="the cipher wrote 99 of 100 bytes"):
        fill(Short(), memoryview(bytearray(100)))  # type: ignore[arg-type]


# ---- wire vectors ----


def play() -> dict[str, object]:
    """Four sites, of which one drops after it dealt shares: every secret and every message, in hexadecimal."""
    federation = Federation(4, parameters=10, seed=1)
    secrets = {}
    for stage in ("advertise", "share"):
        federation.play(stage)
        for name in federation.names:
            state = federation.sites[name]._attempt.state
            secrets[name] = {
                "mask_private": state.mask_private.hex(),
                "channel_private": state.channel_private.hex(),
                "self_secret": state.self_secret.hex(),
                "nonce": state.nonce.hex(),
            }
    late = federation.names[2]
    for stage in ("mask", "agree", "unmask"):
        federation.play(stage, {late})
    return {
        "config": federation.server.config.encode().decode(),
        "model": vector_digest(federation.model).hex(),
        "sites": secrets,
        "messages": {
            stage: {name: data.hex() for name, data in replies.items()} for stage, replies in federation.replies.items()
        },
        "vectors": {name: vector.tolist() for name, vector in federation.vectors.items()},
        "updates": {name: federation.updates[name].tolist() for name in federation.names},
        "num_examples": federation.num_examples,
        "mean": federation.server.result().mean_P.tolist(),
        "length": federation.server.config.length,
    }


def test_the_wire_format_has_not_changed() -> None:
    """``python -m tests.fl.secagg.test_secagg_vectors`` writes the file anew, after a change of the protocol."""
    assert json.loads(VECTORS.read_text()) == json.loads(json.dumps(play()))


def test_a_second_implementation_agrees_with_the_wire_vectors() -> None:
    recorded = json.loads(VECTORS.read_text())
    names, messages = sorted(recorded["sites"]), recorded["messages"]
    private = {name: bytes.fromhex(recorded["sites"][name]["mask_private"]) for name in names}
    secret = {name: bytes.fromhex(recorded["sites"][name]["self_secret"]) for name in names}
    adverts = {name: Advertisement.decode(bytes.fromhex(messages["advertise"][name])) for name in names}
    sid = reference.session_id(
        recorded["config"].encode(),
        [(name, adverts[name].mask_key, adverts[name].channel_key, adverts[name].commitment) for name in names],
    )
    model = bytes.fromhex(recorded["model"])
    sid2 = reference.sha("sid2", sid, model)
    assert session_model_id(sid, model) == sid2

    # Commitments and hashes of what was dealt.
    for name in names:
        shares = Shares.decode(bytes.fromhex(messages["share"][name]))
        header = SharesHeader.decode(shares.header)
        cut = [shares.commitments[start : start + 32] for start in range(0, len(shares.commitments), 32)]
        assert header.root == reference.sha("commitments", *cut)
        assert header.self_hash == reference.sha("self", sid, name, secret[name])
        assert adverts[name].commitment == reference.sha("nonce", name, header.nonce)

    # Masks come off each vector by the formula; what is left is the quantised update with its trailer.
    survivors = sorted(recorded["vectors"])
    config = json.loads(recorded["config"])
    q_max = (2**31 - 1) // config["n_max"]
    total_V = [0] * recorded["length"]
    for name in survivors:
        others = {other: adverts[other].mask_key for other in names if other != name}
        masks = reference.masked(
            [0] * recorded["length"], 32, "vector", name, secret[name], private[name], others, sid2
        )
        q = [(y - m) % 2**32 for y, m in zip(recorded["vectors"][name], masks, strict=True)]
        weight = min(recorded["num_examples"][name], config["weight_cap"]) / config["weight_cap"]
        for value, update in zip(q, recorded["updates"][name], strict=False):
            signed = value - 2**32 if value >= 2**31 else value
            assert abs(signed - weight * update * q_max) < 2
        assert q[-2:] == [1, 0x01234567]
        total_V = [(a + b) % 2**32 for a, b in zip(total_V, q, strict=True)]

    # Revealed shares rebuild the secrets: self masks of survivors, the mask key of the site that dropped.
    reveals = {name: Reveal.decode(bytes.fromhex(messages["unmask"][name])).shares for name in survivors}
    for place, dealer in enumerate(names):
        points = {names.index(holder) + 1: shares[33 * place : 33 * place + 33] for holder, shares in reveals.items()}
        wanted = secret[dealer] if dealer in survivors else private[dealer]
        assert reference.rebuild(points) == int.from_bytes(wanted, "big")

    weights = sum(min(recorded["num_examples"][name], 100) / 100 for name in survivors)
    for value, mean in zip(total_V, recorded["mean"], strict=False):
        signed = value - 2**32 if value >= 2**31 else value
        assert signed / (q_max * weights) == pytest.approx(mean, rel=1e-6, abs=1e-9)
    for name in survivors:
        message = MaskedInput.decode(bytes.fromhex(messages["mask"][name]))
        assert message.digest == vector_digest(np.array(recorded["vectors"][name], "<u4"))


if __name__ == "__main__":
    VECTORS.parent.mkdir(exist_ok=True)
    VECTORS.write_text(json.dumps(play(), indent=1) + "\n")
