"""Keeps the signed roster and the trusted authorities as new as the centre's, while the site is connected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge.home import Home
from edge.link.centre import Centre
from edge.link.channel import LostError
from fl.errors import FLError
from fl.files import write_atomic
from fl.link import link_pb2
from fl.secagg.roster import read_roster
from fl.secagg.storage import read_public_key

LOOK_EVERY_S = 1.0
AGAIN_S = 60.0


async def follow(home: Home, centre: Centre, *, tell: Callable[[str], None]) -> None:
    """Fetch a newer roster whenever the centre says that it has one, until cancelled."""
    asked = _version(home)
    while True:
        wanted = centre.channel.roster_version
        if wanted <= asked:
            await asyncio.sleep(LOOK_EVERY_S)
            continue
        try:
            async with centre.channel.calling() as stub:
                reply = await stub.Trust(link_pb2.TrustRequest(roster_version=asked), timeout=30)
            take(home, reply)
            asked = wanted
        except LostError:
            await asyncio.sleep(LOOK_EVERY_S)
        except FLError as err:
            tell(f"the roster of version {wanted} was not taken: {err.message}")
            await asyncio.sleep(AGAIN_S)


def take(home: Home, reply: link_pb2.TrustReply) -> None:
    """Store what came, if the pinned authority signed it.

    Raises:
        RosterError: If it did not, or the roster is older than ours.
    """
    if reply.authorities:
        write_atomic(home.authorities, reply.authorities, mode=0o600)
    pinned = home.secagg / "authority.pub"
    if reply.roster and pinned.exists():
        roster = read_roster(reply.roster, authority=read_public_key(str(pinned)))
        if roster.version >= _version(home):
            write_atomic(home.roster, reply.roster)


def _version(home: Home) -> int:
    """The version of the roster that is here; 0 without one."""
    try:
        authority = read_public_key(str(home.secagg / "authority.pub"))
        return read_roster(home.roster.read_bytes(), authority=authority).version
    except (OSError, FLError):
        return 0
