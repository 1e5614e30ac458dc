"""Secure aggregation ``fl-secagg/v1``: the server learns the sum of the updates and nothing else, even if it lies.

Double masking after Bonawitz et al. (CCS 2017) in its form against malicious servers, with the sparse mask graph of
Bell et al. (CCS 2020) above 256 sites, and identities from a roster that an authority signs which the server is not.
``docs/secagg`` has the threat model, what is not protected, and a round with its real messages.

The two state machines do no I/O and know no clock and no global randomness: ``AggregatorSession`` and ``SiteSession``.
``driver`` has the loop around each; ``storage`` is the one module that touches a disk.

How a round engine drives it
----------------------------
One attempt at one round is five exchanges, one message to each site and one reply back:

=========  ================================  =======================================  ============================
stage      goes out                          comes back                               the engine adds
=========  ================================  =======================================  ============================
advertise  configuration, roster             two public keys, a commitment            nothing
share      everybody's advertisement         encrypted shares (146 bytes a site)      nothing
mask       headers and shares for this site  digest, side vector; **the vector**      the model and the job, out
agree      the survivors' names              one signature                            nothing
unmask     the survivors' signatures         33 bytes a site                          nothing
=========  ================================  =======================================  ============================

All payloads are opaque bytes: one ``bytes`` field of a record. Only at ``mask`` do arrays travel: the model out, as in
a round without secure aggregation, and back one vector, uint32 (uint16 with ``packed16``), shape ``(P + trailer,)``,
in place of the update; whole, or in pieces of bytes in any cut. Example counts and metrics come back in the masked
side vector, so the engine's reply carries neither. ``mask`` is the one exchange in which sites train, so it has the
round's deadline; the others need seconds.

At the server, with ``next_requests``, ``receive`` and ``close_stage``, or all of it in ``driver.drive``::

    config = RoundConfig(run_id=..., round=3, attempt=1, roster=roster_hash(roster).hex(), n_max=len(cohort), ...)
    session = AggregatorSession(config, roster, authority=..., identity=..., sites=cohort, model=digest)
    result = drive(session, exchange, checkpoint)    # exchange(stage, {site: payload}) yields (site, payload, vector)
    result.mean_P, result.side.metrics, result.side.num_examples, result.survivors, result.receipt

``close_stage`` may be called as soon as ``waiting`` is empty, or at a deadline once ``needed`` replies are in. It
raises ``TooFewSurvivorsError`` or ``RestartError`` (leave out ``err.missing``): begin the next attempt, with a new
``RoundConfig.attempt``. Why a site is out stands in ``faults``, refusals by its policy among them. Updates of an
aborted attempt are gone: sites train again. ``mean_P`` is the weighted mean already, so the only rule that fits it is
averaging; a strategy's server step (momentum, Adam) works on it as on any mean.

A server that is killed loses no round: ``checkpoint`` stores ``dump()`` and ``sum_vector`` before each stage's
messages go out, and ``replay`` brings a new session there. Without them a round whose ``unmask`` messages went out is
over for good, because no site reveals twice: go on with the next round.

At a site, ``driver.answer`` is one call a message, in a process of its own: ``sealed`` state in and out (Flower's
``Context.state`` holds it), its key from the memory of a process that stays, the ledger on the site's disk. Whether
the model fits is checked before ``LocalModel.train`` is called. A failed check becomes a signed refusal.
"""

from fl.secagg.aggregator import AggregatorSession
from fl.secagg.config import RoundConfig, schema_hash
from fl.secagg.driver import SiteFiles, answer, drive
from fl.secagg.local import LocalModel, LocalUpdate, Reply
from fl.secagg.masked_sum import RoundSum
from fl.secagg.policy import SitePolicy
from fl.secagg.replay import replay
from fl.secagg.roster import Roster, read_roster, roster_hash
from fl.secagg.site import SiteSession
from fl.secagg.vectors import vector_digest

__all__ = [
    "AggregatorSession",
    "LocalModel",
    "LocalUpdate",
    "Reply",
    "Roster",
    "RoundConfig",
    "RoundSum",
    "SiteFiles",
    "SitePolicy",
    "SiteSession",
    "answer",
    "drive",
    "read_roster",
    "replay",
    "roster_hash",
    "schema_hash",
    "vector_digest",
]
