"""The contexts of all nodes: made when a node is first used, kept when they hold something."""

from __future__ import annotations

from flwr.app import Context, RecordDict, UserConfig

from simulations.engine.flower.records import own_context


class Contexts:
    """What each node remembers from one message to the next.

    Args:
        run_id: The run's.
        node_ids: All nodes; the first has partition 0.
        run_config: The app's.
    """

    def __init__(self, run_id: int, node_ids: range, run_config: UserConfig) -> None:
        self._run_id = run_id
        self._node_ids = node_ids
        self._run_config = run_config
        self._kept: dict[int, Context] = {}

    def __len__(self) -> int:
        """How many nodes have something to remember."""
        return len(self._kept)

    def of(self, node_id: int) -> Context:
        """A node's context, for its app to write to: it counts only when it is kept."""
        if (kept := self._kept.get(node_id)) is not None:
            return own_context(kept)
        return self._new(node_id)

    def keep(self, context: Context) -> None:
        """Remember what an app left, if it is more than there was at first."""
        if context.state or context != self._new(context.node_id):
            self._kept[context.node_id] = context
        else:
            self._kept.pop(context.node_id, None)

    def _new(self, node_id: int) -> Context:
        place: UserConfig = {"partition-id": node_id - self._node_ids.start, "num-partitions": len(self._node_ids)}
        return Context(self._run_id, node_id, place, RecordDict(), dict(self._run_config))
