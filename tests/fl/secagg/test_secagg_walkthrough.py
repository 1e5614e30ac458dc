"""The page that walks through one round shows the real messages of a real round.

``python -m tests.fl.secagg.test_secagg_walkthrough`` writes it anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fl.secagg.encoding import dec
from fl.secagg.errors import MessageError
from fl.secagg.messages import STAGES
from fl.secagg.receipt import verify_receipt
from fl.secagg.roster import read_roster
from tests.fl.secagg.federation import AUTHORITY, Federation

PAGE = Path(__file__).parents[3] / "docs" / "secagg" / "one-round.md"

WORDS = {
    "advertise": (
        "R0, advertise",
        "The server proposes a configuration and shows the roster. Each site checks the authority's signature, that "
        "the roster is no older than one it has seen, its own policy, and its ledger; then it makes two fresh X25519 "
        "keys and signs them for this configuration.",
    ),
    "share": (
        "R1, share keys",
        "The server passes all advertisements on. Each site checks every signature against the roster, counts the "
        "sites and computes the thresholds itself. It cuts two secrets into shares (the seed of its own mask, and its "
        "mask key), encrypts one of each for every other site, and commits to every share.",
    ),
    "mask": (
        "R2, masked input",
        "Each site opens the shares dealt to it, checks that the model is the one announced, trains, rounds its "
        "update to integers and adds its masks. In this round `paris` falls silent here: it dealt shares, so the "
        "others added masks that only its vector could cancel.",
    ),
    "agree": (
        "R3, consistency",
        "The server says whose vectors arrived. Each survivor checks that they are enough, that they had all dealt "
        "shares and that it is one of them, and signs them, once.",
    ),
    "unmask": (
        "R4, unmask",
        "The server shows the signatures. A site that finds enough of them over *its own* view reveals one share for "
        "each sharer: of the mask seed of those that survived, of the mask key of `paris`. Never both of one site. "
        "It overwrites its keys, and the session is over.",
    ),
}


def short(data: bytes) -> str:
    """Bytes as text if they are a word, else their size and beginning."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    if text and text.isprintable() and len(text) < 40:
        return f'"{text}"'
    return f"{len(data)} bytes {data[:8].hex()}…" if len(data) > 8 else (data.hex() or "empty")


def shown(payload: bytes) -> str:
    """A message field by field, lists one level down."""
    lines = []
    for field in dec(payload):
        lines.append(short(field))
        try:
            inner = dec(field)
        except MessageError:
            inner = []
        if len(inner) > 1 and len(field) < 4000:
            lines += [f"  {short(item)}" for item in inner]
    return "\n".join(lines)


def render() -> str:
    federation = Federation(4, parameters=6, seed=3, names=["berlin", "london", "paris", "rome"])
    parts = [HEAD]
    for stage in STAGES:
        title, words = WORDS[stage]
        silent = {"paris"} if stage in ("mask", "agree", "unmask") else set()
        federation.play(stage, silent)
        name = "berlin"
        parts.append(f"## {title}\n\n{words}\n")
        parts.append(f"Server to {name}:\n\n```text\n{shown(federation.requests[stage][name])}\n```\n")
        parts.append(f"{name} to server:\n\n```text\n{shown(federation.replies[stage][name])}\n```\n")
        if stage == "mask":
            update = ", ".join(f"{value:+.3f}" for value in federation.updates[name])
            vector = " ".join(f"{value:08x}" for value in federation.vectors[name])
            parts.append(
                f"Beside it travels the masked vector. The update is `{update}`; what the server gets, six parameters "
                f"and three check values, is indistinguishable from noise:\n\n```text\n{vector}\n```\n"
            )
    result = federation.server.result()
    expected = federation.expected_mean(result.survivors)
    mean = ", ".join(f"{value:+.6f}" for value in result.mean_P)
    plain = ", ".join(f"{value:+.6f}" for value in expected)
    assert np.abs(result.mean_P - expected).max() < 1e-6
    parts.append(
        "## The sum\n\nThe server rebuilds three mask seeds and one mask key, takes the masks off the sum, and checks "
        f"that the trailer counts three sites. The mean that it decodes, and the one computed without masks:\n\n"
        f"```text\ndecoded  {mean}\nplain    {plain}\n```\n\n"
        f"The side vector says, of all three together: {result.side.num_examples} examples, loss "
        f"{result.side.metrics['loss']:.4f}.\n"
    )
    findings = verify_receipt(
        result.receipt, read_roster(federation.roster, authority=AUTHORITY.public), federation.roster
    )
    quoted = "\n>\n".join(f"> {line}" for line in findings.in_words())
    parts.append(f"## The receipt\n\n`fl secagg verify` says of it:\n\n{quoted}\n")
    return "\n".join(parts)


HEAD = """# One round, message by message

Four sites, a model of six parameters, one dropout. Every byte below is from a real round: a test plays it and compares
it with this page. Messages are length-prefixed fields, shown one a line; lists are shown one level down. The letters
are those of [the notation](../notation.md).
"""


def test_the_page_shows_what_really_travels() -> None:
    assert PAGE.read_text() == render()


if __name__ == "__main__":
    PAGE.write_text(render())
