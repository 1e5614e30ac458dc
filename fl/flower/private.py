"""The one private part of Flower that the library needs; a contract test holds it to this shape."""

from __future__ import annotations

from flwr.supercore.task_identity import TaskIdentity


def ensure_identity() -> None:
    """Let this process make messages, as every process that Flower starts can: set what is not set yet.

    ``Message(…)`` looks up run, task and node of the process, which only Flower's own task processes have.
    """
    for part in ("run_id", "task_id", "node_id"):
        try:
            getattr(TaskIdentity, part)
        except RuntimeError:
            setattr(TaskIdentity, part, 0)
