"""Scale groups: a union of quantizers that must end up with one scale.

The links are kept, not only their closure, so that a range guard or `unshare` can take one back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """Two quantizers that share one scale, and why.

    `guard` splits the pair when their amax differ by more than this factor; 0 never does.
    """

    a: str
    b: str
    reason: str
    author: str
    guard: float = 0.0


class Groups:
    """Union-find over quantizer ids, with path halving: almost constant time a step.

    >>> groups = Groups()
    >>> groups.union("a", "b"); groups.union("b", "c")
    >>> groups.find("a") == groups.find("c"), groups.find("d")
    (True, 'd')
    """

    def __init__(self, links: Iterable[Link] = ()) -> None:
        self._parent: dict[str, str] = {}
        for link in links:
            self.union(link.a, link.b)

    def find(self, item: str) -> str:
        """The representative of the group that holds `item`."""
        parent = self._parent
        while item in parent:
            above = parent[item]
            if above in parent:
                parent[item] = parent[above]
            item = above
        return item

    def union(self, a: str, b: str) -> None:
        """Put both into one group; the smaller name stays representative."""
        a, b = self.find(a), self.find(b)
        if a != b:
            low, high = sorted((a, b))
            self._parent[high] = low
