"""Mutated messages to both ends: refused as a SecAggError, without a traceback, and without a secret in any word."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest

from fl.secagg.encoding import dec, enc
from fl.secagg.errors import MessageError, SecAggError
from fl.secagg.messages import STAGES
from tests.fl.secagg.federation import Federation

KEY = bytes(32)
MUTATIONS = 2_000


def flip(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def extend(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.randrange(1, 40))


def repeat(data: bytes, rng: random.Random) -> bytes:
    start, stop = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:stop] + data[start:]


def overwrite(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + rng.randbytes(min(8, len(data) - start)) + data[start + 8 :]


def noise(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(len(data) + 1))


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip, truncate, extend, repeat, overwrite, noise)


def mutate(data: bytes, rng: random.Random, depth: int = 3) -> bytes:
    """A change of the bytes, or of a field at any depth with the lengths around it put right."""
    if depth and rng.random() < 0.7:
        try:
            fields = dec(data)
        except MessageError:
            fields = []
        if len(fields) > 1:
            place, how = rng.randrange(len(fields)), rng.random()
            if how < 0.6 and fields[place]:
                fields[place] = mutate(fields[place], rng, depth - 1)
            elif how < 0.75:
                fields.pop(place)
            elif how < 0.9:
                fields.insert(place, rng.choice(fields))
            else:
                rng.shuffle(fields)
            return enc(*fields)
    return rng.choice(BYTES)(data, rng)


def secrets_of(federation: Federation) -> list[bytes]:
    found = []
    for site in federation.sites.values():
        state = site._attempt.state
        found += [bytes(item) for item in (state.mask_private, state.channel_private, state.self_secret) if item]
        found += [bytes(share[:33]) for share in state.shares.values()]
    return found


def check_silent(error: SecAggError, secrets: list[bytes]) -> None:
    text = f"{error.message} {error.hint}"
    assert "\n" not in text
    assert len(text) < 2000
    for secret in secrets:
        assert secret.hex() not in text
        assert secret[:8].hex() not in text
        assert repr(secret)[2:-1] not in text


def attack(count: int, seed: int) -> int:
    """Play a round, and before each honest message try mutated ones; returns how many were refused."""
    rng = random.Random(seed)  # not a secret
    federation = Federation(4, parameters=8)
    refused = 0
    share = count // (2 * len(STAGES))
    honest: list[bytes] = [b"x"]
    for _ in STAGES:
        server = federation.server
        requests = server.next_requests()
        honest += requests.values()
        sealed = {name: site.seal(KEY) for name, site in federation.sites.items()}
        secrets = secrets_of(federation)
        for _ in range(share):
            name = rng.choice(federation.names)
            payload = rng.choice(honest) if rng.random() < 0.1 else mutate(requests[name], rng)
            if payload == requests[name]:
                continue
            site = federation.new_site(name)
            site.ledger = site._attempt.ledger = copy.deepcopy(federation.ledgers[name])
            site.open(KEY, sealed[name])
            reply = site.answer(payload, model=federation.local_model(name))
            if reply.refused:
                check_silent(reply.refused, secrets)
                refused += 1
        replies = {name: federation.site_handles(name, requests[name]) for name in federation.names}
        honest += [reply.payload for reply in replies.values()]
        spare = copy.deepcopy(server)
        for _ in range(share):
            name = rng.choice(federation.names)
            payload = rng.choice(honest) if rng.random() < 0.1 else mutate(replies[name].payload, rng)
            if payload == replies[name].payload:
                continue
            try:
                spare.receive(name, payload, replies[name].vector)
            except SecAggError as error:
                check_silent(error, secrets)
                refused += 1
                spare.faults.clear()
            else:
                spare = copy.deepcopy(server)
        for name, reply in replies.items():
            server.receive(name, reply.payload, reply.vector)
        server.close_stage()
    assert len(server.result().survivors) == 4
    return refused


def test_mutated_messages_are_refused_and_the_honest_round_goes_on() -> None:
    refused = attack(MUTATIONS, seed=1)
    # A few mutations are harmless: a permutation that changes nothing, a ciphertext that only its receiver can judge.
    assert refused > 0.85 * MUTATIONS


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_mutated_messages() -> None:
    refused = sum(attack(10_000, seed) for seed in range(2, 12))
    assert refused > 85_000
