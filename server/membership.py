"""Makes Flower's list of nodes what the registry says: who is active is registered, who is not is not.

The registry is changed first, because it is what the gateway asks; SuperLink follows when it can be reached. ``sync``
may be run at any time and as often as one likes: after a change, after a start, every few seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import select

from fl.errors import InputError
from server.sites import Registry
from server.store.models import Key, Site
from server.store.rows import bump, note


class Known(Protocol):
    """A node at SuperLink, as ``server.control.Node``."""

    @property
    def node_id(self) -> int:
        """Flower's number."""

    @property
    def public_key(self) -> bytes:
        """PEM."""


class Nodes(Protocol):
    """What is needed of ``server.control.Control``."""

    def register_node(self, public_key: bytes, *, name: str) -> int:
        """Let a key take part."""

    def unregister_node(self, node_id: int) -> None:
        """Let it take part no longer."""

    def nodes(self) -> Sequence[Known]:
        """All that are registered."""


def sync(registry: Registry, control: Nodes) -> list[str]:
    """Register and unregister nodes until Flower's list is the registry's.

    Args:
        registry: What should be.
        control: SuperLink.

    Returns:
        A line for each thing that was done or could not be.

    Raises:
        UnreachableError: If SuperLink does not answer; what was done until then is noted.
    """
    with registry.store.read() as session:
        rows = session.execute(
            select(Key, Site).join(Site, Site.number == Key.site).where(Key.kind == "node").order_by(Site.id)
        ).all()
        wanted, gone = [], []
        for key, site in rows:
            if key.until_s is None and site.state in ("active", "quarantined"):
                wanted.append((key, site))
            elif key.node_id is not None:
                gone.append((key, site))
    registered = _registered(control)
    lines = []
    for key, site in gone:
        if key.sha256 in registered:
            control.unregister_node(registered[key.sha256])
        _set_node(registry, key, None, f"node {key.node_id} unregistered")
        lines.append(f"unregistered the node of {site.id}")
    for key, site in wanted:
        node_id = registered.get(key.sha256)
        if node_id is None:
            try:
                node_id = control.register_node(key.public, name=site.id)
            except InputError as err:
                node_id = _registered(control).get(key.sha256)  # by another process, a moment ago
                if node_id is None:
                    lines.append(f"{site.id} cannot take part: {err.message}; fl site rejoin {site.id}")
                    continue
            lines.append(f"registered the node of {site.id}")
        if key.node_id != str(node_id):
            _set_node(registry, key, node_id, f"node {node_id} registered")
    return lines


def _registered(control: Nodes) -> dict[str, int]:
    return {hashlib.sha256(node.public_key).hexdigest(): node.node_id for node in control.nodes()}


def _set_node(registry: Registry, key: Key, node_id: int | None, words: str) -> None:
    with registry.store.write() as session:
        row = session.get_one(Key, key.sha256)
        if row.node_id == (None if node_id is None else str(node_id)):
            return  # another process was quicker
        row.node_id = None if node_id is None else str(node_id)
        note(session, row.site, registry.now(), "node", words)
        bump(session)
