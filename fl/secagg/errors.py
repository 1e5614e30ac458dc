"""What can go wrong in secure aggregation: one class a check, so that a program can tell them apart.

::

    SecAggError                     1  a check of the protocol failed; the session that failed is over
    ├── MessageError                   truncated, foreign, malformed, or not from whom it says
    │   ├── StageError                 out of order, or sent twice
    │   ├── SignatureError             a signature that does not fit
    │   └── DuplicateError             one site or one key twice
    ├── KeySubstitutionError           the server replaced a key
    ├── AttemptError                   a round, attempt or session that was used before
    ├── CohortError                    the sets of sites do not fit each other
    │   ├── TooFewSurvivorsError       fewer sites left than the sum may cover
    │   └── NeighboursError            so many sites dropped that one site's mask could be bare
    ├── ConsistencyError               sites were shown different survivors, models or configurations
    ├── ModelMismatchError             another model than the one announced
    ├── ShareError                     an encrypted share that does not open
    ├── VectorError                    a masked vector of the wrong length or content, or too late
    ├── UnmaskError                    the sum does not carry its own check values
    ├── RestartError                   the sparse mask graph needs a new attempt without some sites
    ├── SealError                      sealed session state that does not open
    ├── PolicyError                 2  the site's own policy forbids what the server proposes
    ├── RingError                   2  more sites than the ring of integers has room for
    ├── UpdateError                 2  an update that cannot be aggregated: NaN, infinity, weight 0, wrong size
    └── RosterError                 2  the roster cannot be used
        ├── RosterSignatureError       unsigned, or not by the pinned authority
        ├── RosterExpiredError         too old, or from the future
        ├── RosterRollbackError        older than one that was seen before
        └── RosterSiteError            a site that is missing, revoked, or has another key

No message of these classes holds a secret: they name sites, numbers and public digests only.
"""

from __future__ import annotations

from fl.errors import FLError, InputError


class SecAggError(FLError):
    """A check of the protocol failed; the session in which it failed is over."""


class MessageError(SecAggError):
    """A message that is truncated, foreign or malformed."""


class StageError(MessageError):
    """A message out of order, or sent twice; the session is burnt."""


class SignatureError(MessageError):
    """A signature that does not fit its message and signer."""


class DuplicateError(MessageError):
    """One site, or one key, twice."""


class KeySubstitutionError(SecAggError):
    """The server replaced a key that a site had announced."""


class AttemptError(SecAggError):
    """A round, attempt or session that was used before."""


class CohortError(SecAggError):
    """Sets of sites that do not fit each other: a site outside, ourselves left out."""


class TooFewSurvivorsError(CohortError):
    """Fewer sites are left than the sum may cover."""


class NeighboursError(CohortError):
    """More dropouts than the mask graph stands: one site's mask could be bare."""


class ConsistencyError(SecAggError):
    """Too few sites signed the same survivors, model and configuration as ours."""


class ModelMismatchError(SecAggError):
    """Another model, or another layout, than the one that was announced."""


class ShareError(SecAggError):
    """An encrypted share that does not open with the keys of its sender and receiver."""


class VectorError(SecAggError):
    """A masked vector of the wrong length, with another digest than signed, or after the survivors were fixed."""


class UnmaskError(SecAggError):
    """The sum does not carry its own check values, or a secret could not be rebuilt."""


class RestartError(SecAggError):
    """The sparse mask graph needs a new attempt without some sites.

    Attributes:
        missing: The sites to leave out.
    """

    def __init__(self, message: str, *, missing: tuple[str, ...], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.missing = missing


class SealError(SecAggError):
    """Sealed session state that does not open with this key."""


class PolicyError(SecAggError, InputError):
    """The site's own policy forbids what the server proposes."""


class RingError(SecAggError, InputError):
    """More sites than the ring of integers has room for."""


class UpdateError(SecAggError, InputError):
    """An update that cannot be aggregated: NaN, infinity, weight 0, wrong size."""


class RosterError(SecAggError, InputError):
    """A roster that cannot be used."""


class RosterSignatureError(RosterError):
    """A roster that is unsigned, changed, or not signed by the pinned authority."""


class RosterExpiredError(RosterError):
    """A roster past its date, or from the future."""


class RosterRollbackError(RosterError):
    """A roster older than one that was seen before, or another one of the same version."""


class RosterSiteError(RosterError):
    """A site that the roster lacks, has revoked, or knows under another key."""
