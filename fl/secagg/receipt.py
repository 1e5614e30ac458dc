"""Receipts: what a round leaves behind at the server and at every site, to be checked offline, years later.

A receipt holds the configuration, every site's signed keys, who shared and who survived, and the survivors' agreement
signatures. It proves who agreed to what; it says nothing about the honesty of the updates.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from fl.secagg.config import RoundConfig, config_hash, decode_config
from fl.secagg.documents import sign_document, text_of, verify_document
from fl.secagg.errors import ConsistencyError, MessageError
from fl.secagg.identity import Identity, fingerprint
from fl.secagg.messages import Agreement, agreement_context, ordered_names
from fl.secagg.parameters import Thresholds
from fl.secagg.roster import Roster, roster_hash
from fl.secagg.session import check_remaining, check_sharers, read_cohort, session_model_id, sharers_hash

FORMAT = "fl-secagg-receipt/v1"
LABEL = "receipt"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a receipt that was checked says.

    Attributes:
        role: ``site`` or ``server``.
        signer: Whose receipt it is.
        config: Of the round.
        thresholds: Of the session.
        sid: The session's id.
        cohort: Sites whose keys were in the session.
        survivors: Sites whose updates are in the sum.
        agreed: Sites that signed these survivors.
        model: Digest of the model that the updates are relative to.
        result: Digest of the mean update, in the server's receipt.
    """

    role: str
    signer: str
    config: RoundConfig
    thresholds: Thresholds
    sid: bytes
    cohort: tuple[str, ...]
    survivors: tuple[str, ...]
    agreed: tuple[str, ...]
    model: bytes
    result: bytes | None

    def in_words(self) -> list[str]:
        """What was checked, what it proves, and what it does not, one sentence each."""
        limits, config = self.thresholds, self.config
        whose = "The server's receipt" if self.role == "server" else f"The receipt of site {self.signer}"
        key = f"key {fingerprint(bytes.fromhex(config.aggregator))}" if self.role == "server" else "its roster key"
        honest = limits.min_aggregate - limits.corrupt
        sentences = [
            f"{whose} is about round {config.round}, attempt {config.attempt}, of run {config.run_id}, and is "
            f"signed with {key}.",
            f"Proved: {limits.n} sites of the roster signed keys for exactly this configuration (profile "
            f"{config.profile}, {config.parameters} parameters).",
            f"Proved: {len(self.agreed)} of them signed, once each, that the sum covers exactly these "
            f"{len(self.survivors)} sites: {', '.join(self.survivors)}. {limits.threshold} signatures were needed, "
            "so no other set of sites can have collected enough.",
            f"Proved: they trained from the model with digest {self.model.hex()}.",
            f"It follows that each honest site's update was revealed only inside a sum with at least {honest} honest "
            f"updates, as long as at most {limits.corrupt} of the {limits.n} sites worked with the server.",
        ]
        if self.result is not None:
            sentences.append(f"Claimed by the server alone: the mean update has digest {self.result.hex()}.")
        sentences.append(
            "Not proved: that the updates were honest, that the server used the sum as agreed, or what the sum "
            "itself says about the data."
        )
        return sentences

    def as_dict(self) -> dict[str, Any]:
        """The same facts for a program."""
        return {
            "role": self.role,
            "signer": self.signer,
            "run": self.config.run_id,
            "round": self.config.round,
            "attempt": self.config.attempt,
            "session": self.sid.hex(),
            "thresholds": dataclasses.asdict(self.thresholds),
            "cohort": list(self.cohort),
            "survivors": list(self.survivors),
            "agreed": list(self.agreed),
            "model": self.model.hex(),
            "result": self.result.hex() if self.result else None,
            "sentences": self.in_words(),
        }


def make_receipt(
    identity: Identity,
    *,
    config: bytes,
    roster: bytes,
    keys: Sequence[bytes],
    sharers: Sequence[str],
    survivors: Sequence[str],
    model: bytes,
    agreements: Sequence[bytes],
    role: str = "site",
    result: bytes | None = None,
) -> bytes:
    """A receipt, signed by a site, or by the server with the digest of its result."""
    document = {
        "format": FORMAT,
        "role": role,
        "signer": identity.name,
        "config": config.decode(),
        "roster": roster_hash(roster).hex(),
        "keys": [message.hex() for message in keys],
        "sharers": list(sharers),
        "survivors": list(survivors),
        "model": model.hex(),
        "agreements": [message.hex() for message in agreements],
        "result": result.hex() if result else None,
    }
    return sign_document(json.dumps(document, indent=1).encode(), identity, LABEL)


def verify_receipt(data: bytes, roster: Roster, roster_data: bytes) -> Findings:
    """Check a receipt against a roster whose own signature was checked before (``read_roster``).

    Raises:
        MessageError: If it is no receipt.
        ConsistencyError: If it is about another roster, or its agreements are too few.
        SecAggError: If anything else in it does not hold, by class as in the protocol.
    """
    try:
        document: Mapping[str, Any] = json.loads(text_of(data))
        if document["format"] != FORMAT or document["role"] not in ("site", "server"):
            raise ValueError("another format")
        role, signer = document["role"], str(document["signer"])
        config_bytes = str(document["config"]).encode()
        keys, agreements = (tuple(bytes.fromhex(item) for item in document[name]) for name in ("keys", "agreements"))
        sharers, survivors = (tuple(str(item) for item in document[name]) for name in ("sharers", "survivors"))
        model, named_roster = bytes.fromhex(document["model"]), str(document["roster"])
        result = bytes.fromhex(document["result"]) if document["result"] else None
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise MessageError(f"not a receipt of the format {FORMAT}") from err
    config = decode_config(config_bytes)
    public = bytes.fromhex(config.aggregator) if role == "server" else roster.key_of(signer)
    verify_document(data, public, f"the {role} {signer}", LABEL)
    if not named_roster == config.roster == roster_hash(roster_data).hex():
        raise ConsistencyError(
            "the receipt is about another roster than this one", hint="pass the roster file of that round"
        )
    digest = config_hash(config_bytes)
    cohort = read_cohort(config, digest, roster, keys)
    check_sharers(cohort, sharers)
    check_remaining(cohort, ordered_names(survivors, "survivors"), set(sharers), "survivors")
    context = agreement_context(session_model_id(cohort.sid, model), digest, model, sharers_hash(sharers), survivors)
    agreed = []
    for message in agreements:
        agreement = Agreement.decode(message)
        if agreement.site not in survivors or agreement.site in agreed:
            raise ConsistencyError(f"the site {agreement.site} agreed twice, or is no survivor")
        agreement.check(roster.key_of(agreement.site), context)
        agreed.append(agreement.site)
    if len(agreed) < cohort.thresholds.threshold:
        raise ConsistencyError(f"{len(agreed)} sites agreed, {cohort.thresholds.threshold} are needed")
    return Findings(
        role=role,
        signer=signer,
        config=config,
        thresholds=cohort.thresholds,
        sid=cohort.sid,
        cohort=cohort.sites,
        survivors=survivors,
        agreed=tuple(sorted(agreed)),
        model=model,
        result=result,
    )
