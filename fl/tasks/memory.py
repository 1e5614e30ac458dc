"""What to do when memory runs out: cut the batch into smaller pieces and go on.

The batch stays the same: gradients of its pieces, each weighted by its share of the examples, add up to the
gradient of the batch. (Layers that look at the whole batch, batch normalisation above all, see the pieces
instead; prefer group normalisation, which also federates better.)
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fl.errors import TaskError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# How the allocators of a CPU, of oneDNN and of Apple's GPUs say it: they raise a plain RuntimeError.
_WORDS = ("can't allocate memory", "out of memory", "bad_alloc", "could not create a memory object")


class MicroBatches:
    """Runs batches in pieces of at most ``size`` examples, and halves ``size`` whenever memory runs out.

    Attributes:
        size: Examples in a piece; it never grows again.
        halvings: How often memory ran out.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        self.halvings = 0
        self._device = device

    def run(self, num_examples: int, *, start: Callable[[], None], piece: Callable[[int, int], None]) -> None:
        """Run one batch.

        Args:
            num_examples: How many examples the batch has.
            start: Called before the first piece, again after memory ran out: forget what pieces have done so
                far.
            piece: Works on examples ``start`` to ``stop`` of the batch.

        Raises:
            TaskError: If memory does not suffice for one example.
        """
        while True:
            start()
            problem = self._attempt(num_examples, piece)
            if problem is None:
                return
            self._halve(min(self.size, num_examples), problem)

    def _attempt(self, num_examples: int, piece: Callable[[int, int], None]) -> str | None:
        """Run the pieces; what ran out, if something did.

        Only the text leaves this frame: the exception would keep the activations of the failed piece alive.
        """
        try:
            for first in range(0, num_examples, self.size):
                piece(first, min(first + self.size, num_examples))
        except (RuntimeError, MemoryError) as err:
            if not is_out_of_memory(err):
                raise
            return str(err).split("\n", 1)[0] or "out of memory"
        return None

    def _halve(self, failed: int, problem: str) -> None:
        import torch

        if failed == 1:
            raise TaskError(
                f"out of memory on {self._device.type} with one example at a time: {problem}",
                hint="use a smaller model or smaller inputs, or a machine with more memory",
            )
        self.size = failed // 2
        self.halvings += 1
        log.warning(
            "out of memory on %s with %d examples at once: going on with %d, the gradient stays the same",
            self._device.type,
            failed,
            self.size,
        )
        if self._device.type != "cpu":
            getattr(torch, self._device.type).empty_cache()


@contextlib.contextmanager
def explained(device: torch.device) -> Iterator[None]:
    """Say what it means when memory runs out where smaller pieces cannot help.

    Raises:
        TaskError: In place of an allocator's exception.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as err:
        if not is_out_of_memory(err):
            raise
        reason = str(err).split("\n", 1)[0] or "nothing left"
        raise TaskError(
            f"the model, its gradients and its optimiser do not fit into the memory of {device.type}: {reason}",
            hint="use a smaller model, an optimiser with less state, or a machine with more memory",
        ) from err


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocator had nothing left."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _WORDS)
