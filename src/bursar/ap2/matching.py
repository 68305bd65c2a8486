"""Which article fulfils which requirement, where one may fulfil several: a maximal flow.

The rule that lives here: every article counts for one requirement and every requirement is met in
full; so trying them in order is not enough, and what could be reassigned is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

SOURCE, SINK = 0, 1


class _Network:
    """Edges in pairs: the one at an odd index is the way back of the one before it."""

    def __init__(self) -> None:
        self.to: list[int] = []
        self.free: list[int] = []
        self.out: list[list[int]] = [[], []]

    def node(self) -> int:
        self.out.append([])
        return len(self.out) - 1

    def edge(self, begin: int, end: int, capacity: int) -> None:
        for start, stop, free in ((begin, end, capacity), (end, begin, 0)):
            self.out[start].append(len(self.to))
            self.to.append(stop)
            self.free.append(free)

    def levels(self) -> list[int] | None:
        """Return how many edges each node is from the source; None if the sink is out of reach."""
        level = [-1] * len(self.out)
        level[SOURCE] = 0
        waiting = deque([SOURCE])
        while waiting:
            node = waiting.popleft()
            for edge in self.out[node]:
                if self.free[edge] and level[self.to[edge]] < 0:
                    level[self.to[edge]] = level[node] + 1
                    waiting.append(self.to[edge])
        return None if level[SINK] < 0 else level

    def push(self, level: Sequence[int], tried: list[int]) -> int:
        """Send as much as one more path can take; 0 if there is none on these levels."""
        path: list[int] = []
        node = SOURCE
        while node != SINK:
            edges = self.out[node]
            while tried[node] < len(edges):
                edge = edges[tried[node]]
                if self.free[edge] and level[self.to[edge]] == level[node] + 1:
                    break
                tried[node] += 1
            else:
                if not path:
                    return 0
                node = self.to[path.pop() ^ 1]  # back, and never this way again
                tried[node] += 1
                continue
            path.append(edges[tried[node]])
            node = self.to[path[-1]]
        sent = min(self.free[edge] for edge in path)
        for edge in path:
            self.free[edge] -= sent
            self.free[edge ^ 1] += sent
        return sent


def most_assigned(
    required: Sequence[tuple[int, frozenset[str]]], available: Mapping[str, int]
) -> int:
    """Return how many pieces can be assigned at most.

    Args:
        required: for each requirement, how many pieces, and which articles are acceptable.
        available: how many pieces there are of each article.
    """
    network = _Network()
    articles = {article: network.node() for article in available}
    for article, quantity in available.items():
        network.edge(articles[article], SINK, quantity)
    for quantity, acceptable in required:
        requirement = network.node()
        network.edge(SOURCE, requirement, quantity)
        for article in sorted(acceptable & articles.keys()):
            network.edge(requirement, articles[article], quantity)
    total = 0
    while (level := network.levels()) is not None:
        tried = [0] * len(network.out)
        while sent := network.push(level, tried):
            total += sent
    return total
