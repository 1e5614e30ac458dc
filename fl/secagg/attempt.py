"""A site's five stages: what each message must prove before it is answered. ``fl.secagg.site`` calls them in order."""

from __future__ import annotations

import dataclasses

import numpy as np

from fl.arrays import F32
from fl.secagg import keys, shamir
from fl.secagg.config import RoundConfig, config_hash, decode_config
from fl.secagg.encoding import H, dec_site, pieces
from fl.secagg.errors import (
    ConsistencyError,
    DuplicateError,
    KeySubstitutionError,
    ModelMismatchError,
    RosterError,
    SignatureError,
    UpdateError,
)
from fl.secagg.identity import Identity
from fl.secagg.keystream import Stream, add_streams
from fl.secagg.ledger import Ledger
from fl.secagg.local import LocalModel, LocalUpdate, Reply
from fl.secagg.messages import (
    Advertisement,
    Agreement,
    Agreements,
    Keys,
    MaskedInput,
    Masking,
    Proposal,
    Reveal,
    Shares,
    SharesHeader,
    Survivors,
    agreement_context,
    ordered_names,
)
from fl.secagg.policy import SitePolicy
from fl.secagg.profiles import Vector
from fl.secagg.quantise import quantise
from fl.secagg.receipt import make_receipt
from fl.secagg.roster import Roster, check_newer, read_roster, roster_hash
from fl.secagg.session import (
    Cohort,
    Neighbours,
    check_graph,
    check_nonce,
    check_remaining,
    check_sharers,
    read_cohort,
    session_model_id,
    sharers_hash,
)
from fl.secagg.sidevector import encode_side, site_weight
from fl.secagg.site_state import SiteState
from fl.secagg.vectors import vector_digest


@dataclasses.dataclass(slots=True, kw_only=True)
class Attempt:
    """A site in one attempt: who it is, what it allows, what it holds."""

    identity: Identity
    policy: SitePolicy
    ledger: Ledger
    authority: bytes
    now_s: float
    random: shamir.Random
    threads: int | None
    state: SiteState
    _config: RoundConfig | None = None
    _roster: Roster | None = None
    _cohort: Cohort | None = None

    def continue_from(self, state: SiteState) -> None:
        """Go on with a state that was sealed; what is derived from it is derived anew."""
        self.state, self._config, self._roster, self._cohort = state, None, None, None

    # ---- R0: check the proposal, make keys ----

    def advertise(self, request: Proposal) -> Reply:
        """Roster, policy and attempt hold: make fresh keys and sign them for this configuration."""
        state, site = self.state, self.identity.name
        config = decode_config(request.config)
        roster = read_roster(request.roster, authority=self.authority)
        digest = roster_hash(request.roster)
        check_newer(roster, digest, seen_version=self.ledger.roster_version, seen_digest=self.ledger.roster_digest)
        roster.check_time(self.now_s)
        if config.roster != digest.hex():
            raise RosterError("the configuration names another roster than the one beside it")
        if roster.key_of(site) != self.identity.public:
            raise RosterError(f"the roster has another key for {site}", hint="the authority must sign this site's key")
        self.policy.check_proposal(config)
        self.ledger.open_attempt(config)
        self.ledger.roster_version, self.ledger.roster_digest = roster.version, digest
        state.config, state.roster = request.config, request.roster
        state.mask_private = bytearray(self.random(32))
        state.channel_private = bytearray(self.random(32))
        state.self_secret = bytearray(self.random(32))
        state.nonce = bytearray(self.random(32))
        message = Advertisement(
            site=site,
            mask_key=keys.public_key(state.mask_private),
            channel_key=keys.public_key(state.channel_private),
            commitment=H("nonce", site, bytes(state.nonce)),
        )
        state.advertisement = message.signed(self.identity, config_hash(state.config)).encode()
        return Reply(payload=state.advertisement)

    # ---- R1: check everybody's keys, deal shares ----

    def share(self, request: Keys) -> Reply:
        """Every key is signed by a site of the roster: deal shares of our two secrets to all of them."""
        state, site = self.state, self.identity.name
        cohort = self._read_cohort(request.advertisements, check=True)
        if site not in cohort.members:
            raise KeySubstitutionError("this site's own keys are missing from the session")
        if state.advertisement not in request.advertisements:
            raise KeySubstitutionError("this site's own keys were replaced")
        self.policy.check_session(cohort.thresholds)
        check_graph(self.config, cohort)
        state.keys, self._cohort = request.advertisements, cohort
        n, t = cohort.thresholds.n, cohort.thresholds.threshold
        suite = self.config.suite
        self_shares = shamir.split(bytes(state.self_secret), t, n, self.random)
        key_shares = shamir.split(bytes(state.mask_private), t, n, self.random)
        ciphertexts, commitments = [], []
        channel = keys.private_key(state.channel_private)
        for other, self_share, key_share in zip(cohort.sites, self_shares, key_shares, strict=True):
            commitments.append(keys.share_commitment(cohort.sid, "self", site, other, self_share))
            commitments.append(keys.share_commitment(cohort.sid, "key", site, other, key_share))
            if other == site:
                state.shares[site] = bytearray(self_share + key_share)
                ciphertexts.append(bytes(keys.CIPHERTEXT_BYTES))
                continue
            secret = keys.exchange(channel, cohort.members[other].channel_key, other)
            ciphertexts.append(keys.seal_share(secret, suite, cohort.sid, site, other, self_share, key_share))
        header = SharesHeader(
            site=site,
            root=H("commitments", *commitments),
            self_hash=keys.self_hash(cohort.sid, site, bytes(state.self_secret)),
            nonce=bytes(state.nonce),
        ).signed(self.identity, cohort.sid)
        message = Shares(header=header.encode(), ciphertexts=b"".join(ciphertexts), commitments=b"".join(commitments))
        return Reply(payload=message.encode())

    # ---- R2: open the shares dealt to us, train, mask ----

    def mask(self, request: Masking, model: LocalModel | None) -> Reply:
        """Enough sites dealt shares, all that are ours open, the model is the announced one: train and mask."""
        state, site, config = self.state, self.identity.name, self.config
        cohort = self.cohort
        headers = self._read_headers(cohort, request)
        if site not in headers:
            raise KeySubstitutionError("this site's own shares are missing from the session")
        sharers = check_sharers(cohort, list(headers))
        channel = keys.private_key(state.channel_private)
        for dealer, ciphertext in zip(
            headers, pieces(request.ciphertexts, keys.CIPHERTEXT_BYTES, len(headers)), strict=True
        ):
            if dealer != site:
                secret = keys.exchange(channel, cohort.members[dealer].channel_key, dealer)
                shares = keys.open_share(secret, config.suite, cohort.sid, dealer, site, ciphertext)
                state.shares[dealer] = bytearray(b"".join(shares))
        neighbours = Neighbours(config, cohort, headers).of(site)
        if model is None:
            raise ModelMismatchError("no global model came with the request to mask an update")
        if model.schema.hex() != config.schema:
            raise ModelMismatchError("the global model has another layout than the configuration announced")
        if model.digest != request.model:
            raise ModelMismatchError("the global model has another digest than the server announced")
        state.headers, state.model = request.headers, request.model
        masked, side = self._masked(cohort, neighbours, model.train())
        message = MaskedInput(site=site, digest=vector_digest(masked), side=side, sharers=sharers_hash(sharers)).signed(
            self.identity, session_model_id(cohort.sid, state.model)
        )
        return Reply(payload=message.encode(), vector=masked)

    def _read_headers(self, cohort: Cohort, request: Masking) -> dict[str, SharesHeader]:
        """The headers of U2, checked, in order."""
        roster = self.roster
        headers = [SharesHeader.decode(header) for header in request.headers]
        ordered_names([header.site for header in headers], "sharers")
        for header in headers:
            header.check(roster.key_of(header.site), cohort.sid)
            if header.site in cohort.members:
                check_nonce(cohort.members[header.site], header)
        return {header.site: header for header in headers}

    def _masked(self, cohort: Cohort, neighbours: frozenset[str], update: LocalUpdate) -> tuple[Vector, bytes]:
        """The update and the side vector, quantised and masked."""
        state, site, config = self.state, self.identity.name, self.config
        if update.num_examples < 1:
            raise UpdateError(f"the update has {update.num_examples} examples behind it, at least one is needed")
        weight = site_weight(update.num_examples, config.weight_cap)
        quantised = quantise(
            _norm_clipped(update.vector_P, config.l2_clip),
            config.sizes,
            config.clips,
            weight=weight,
            profile=config.ring,
            n_max=config.n_max,
            dither_key=self.random(32),
        )
        side = encode_side(
            config.metrics,
            update.metrics,
            num_examples=update.num_examples,
            weight=weight,
            clipped=quantised.clipped,
            n_max=config.n_max,
        )
        sid2 = session_model_id(cohort.sid, state.model)
        plus = [keys.self_seed(bytes(state.self_secret), config.suite, sid2, site)]
        minus: list[bytes] = []
        private = keys.private_key(state.mask_private)
        for other in sorted(neighbours):
            secret = keys.exchange(private, cohort.members[other].mask_key, other)
            # The lower id adds and the higher subtracts; a tie cannot happen (ids are distinct).
            (plus if site < other else minus).append(keys.pair_seed(secret, config.suite, sid2, site, other))
        for label, vector in (("vector", quantised.vector), ("aux", side)):
            add_streams(
                vector,
                [Stream(seed, label, config.suite) for seed in plus],
                [Stream(seed, label, config.suite) for seed in minus],
                threads=self.threads,
            )
        return quantised.vector, side.astype("<u8").tobytes()

    # ---- R3: sign the survivors, once ----

    def agree(self, request: Survivors) -> Reply:
        """The survivors are enough, and were sharers: sign them, once."""
        state, config = self.state, self.config
        cohort = self.cohort
        sharers = self._sharers()
        names = tuple(dec_site(name) for name in request.survivors)
        survivors = check_remaining(cohort, ordered_names(names, "survivors"), set(sharers), "survivors")
        if self.identity.name not in survivors:
            raise ConsistencyError("this site's own update is not in the sum")
        if request.sharers != sharers_hash(sharers):
            raise ConsistencyError("the server names other sharers than it named before")
        if request.model != state.model:
            raise ModelMismatchError("the server names another model than this site trained from")
        self.policy.check_survivors(frozenset(survivors), self.ledger.last_survivors(config.run_id))
        state.survivors = survivors
        message = Agreement(site=self.identity.name).signed(self.identity, self._agreement(cohort))
        return Reply(payload=message.encode())

    # ---- R4: check that enough others signed the same, reveal one share of each ----

    def unmask(self, request: Agreements) -> Reply:
        """Enough survivors signed what we signed: reveal one share of each sharer, and forget everything."""
        state, config, roster = self.state, self.config, self.roster
        cohort, sharers = self.cohort, self._sharers()
        context = self._agreement(cohort)
        agreements = [Agreement.decode(message) for message in request.agreements]
        agreed: set[str] = set()
        for agreement in agreements:
            if agreement.site in agreed:
                raise DuplicateError(f"the site {agreement.site} agreed twice")
            if agreement.site not in state.survivors:
                raise ConsistencyError(f"the site {agreement.site} agreed but is no survivor")
            try:
                agreement.check(roster.key_of(agreement.site), context)
            except SignatureError as err:
                raise ConsistencyError(
                    f"the site {agreement.site} did not agree to the survivors, model and configuration seen here"
                ) from err
            agreed.add(agreement.site)
        need = cohort.thresholds.threshold
        if len(agreed) < need:
            raise ConsistencyError(f"{len(agreed)} sites agreed to these survivors, {need} are needed")
        self.ledger.reveal(config, state.survivors)
        # One share of each, chosen by our own view: never both of one site, whatever the server asks.
        survivors = set(state.survivors)
        shares = b"".join(state.share_of(dealer, of_self_mask=dealer in survivors) for dealer in sharers)
        sid2 = session_model_id(cohort.sid, state.model)
        message = Reveal(site=self.identity.name, shares=shares).signed(self.identity, sid2)
        receipt = make_receipt(
            self.identity,
            config=state.config,
            roster=state.roster,
            keys=state.keys,
            sharers=sharers,
            survivors=state.survivors,
            model=state.model,
            agreements=request.agreements,
        )
        state.erase()
        return Reply(payload=message.encode(), receipt=receipt)

    # ---- what the state says ----

    @property
    def config(self) -> RoundConfig:
        """The proposal that was accepted."""
        self._config = self._config or decode_config(self.state.config)
        return self._config

    @property
    def roster(self) -> Roster:
        """The roster that came with it."""
        self._roster = self._roster or read_roster(self.state.roster, authority=self.authority)
        return self._roster

    @property
    def cohort(self) -> Cohort:
        """U1, whose signatures were checked when its keys came."""
        self._cohort = self._cohort or self._read_cohort(self.state.keys, check=False)
        return self._cohort

    def _read_cohort(self, messages: tuple[bytes, ...], *, check: bool) -> Cohort:
        return read_cohort(self.config, config_hash(self.state.config), self.roster, messages, check=check)

    def _sharers(self) -> tuple[str, ...]:
        return tuple(SharesHeader.decode(header).site for header in self.state.headers)

    def _agreement(self, cohort: Cohort) -> bytes:
        state = self.state
        return agreement_context(
            session_model_id(cohort.sid, state.model),
            config_hash(state.config),
            state.model,
            sharers_hash(self._sharers()),
            state.survivors,
        )


def _norm_clipped(vector_P: F32, bound: float) -> F32:
    """The update scaled so that its L2 norm is at most ``bound``; as it is if the bound is 0."""
    if not bound:
        return vector_P
    norm = float(np.sqrt(np.sum(np.square(vector_P, dtype=np.float64))))
    return vector_P if norm <= bound else (vector_P * (bound / norm)).astype(np.float32)
