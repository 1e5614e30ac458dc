"""Names of sites that nobody has named: numbered, however many there are, in no memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

PREFIX = "site-"


class Numbered(Sequence[str]):
    """``site-01``, ``site-02``, …: as many digits as the largest number has, so that sorting keeps their order.

    Args:
        count: How many.

    Guarantees:
        Every operation takes the same time and memory whatever the count. Sequences of the same count are equal.

    Example:
        >>> names = Numbered(1_000_000)
        >>> names[0], names[-1], names.index("site-0000042"), "site-42" in names
        ('site-0000001', 'site-1000000', 41, False)
    """

    __slots__ = ("_count", "_width")

    def __init__(self, count: int) -> None:
        self._count, self._width = count, len(str(count))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self._name(i) for i in range(self._count)[index]]
        return self._name(range(self._count)[index])

    def __iter__(self) -> Iterator[str]:
        return map(self._name, range(self._count))

    def __contains__(self, name: object) -> bool:
        return self._place(name) is not None

    def index(self, name: object, start: int = 0, stop: int | None = None) -> int:
        """The place of a name.

        Raises:
            ValueError: If it is none of them.
        """
        place = self._place(name)
        if place is None or place not in range(self._count)[start:stop]:
            raise ValueError(f"{name!r} is none of {self!r}")
        return place

    def count(self, name: object) -> int:
        """1 for a name that is among them, else 0."""
        return int(name in self)

    def __eq__(self, other: object) -> bool:
        return self._count == other._count if isinstance(other, Numbered) else NotImplemented

    def __hash__(self) -> int:
        return hash((Numbered, self._count))

    def __repr__(self) -> str:
        return f"Numbered({self._count})"

    def _name(self, place: int) -> str:
        return f"{PREFIX}{place + 1:0{self._width}d}"

    def _place(self, name: object) -> int | None:
        if not isinstance(name, str) or not name.startswith(PREFIX):
            return None
        digits = name[len(PREFIX) :]
        if len(digits) != self._width or not (digits.isascii() and digits.isdecimal()):
            return None
        number = int(digits)
        return number - 1 if 1 <= number <= self._count else None
