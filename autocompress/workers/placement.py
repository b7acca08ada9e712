"""How many workers fit into the nodes of a cluster, by what each node has to give."""

from collections.abc import Mapping, Sequence

Node = Mapping[str, float]
"""What a node has to give, as Ray calls it: `CPU`, `GPU`."""


def room(nodes: Sequence[Node], share: float) -> int:
    """Return how many workers fit into nodes, each with a CPU and a share of GPUs.

    A worker fits into one node, and a share below 1 into one GPU: of two GPUs, two workers with
    0.6 each leave nothing that a third could use.
    """
    places = 0
    for node in nodes:
        here = int(node.get("CPU", 0.0))
        if share:
            gpus = node.get("GPU", 0.0)
            # Three thirds are one, whatever is lost in writing them down; so they are to Ray.
            fitting = int(gpus) * int(1 / share + 1e-6) if share <= 1 else int(gpus / share)
            here = min(here, fitting)
        places += here
    return places


def largest_share(nodes: Sequence[Node], n_workers: int) -> float:
    """Return how large a part of one GPU all workers can have; a whole one if none leaves room."""
    shares = [1 / sharers for sharers in range(1, n_workers + 1)]
    return next((share for share in shares if room(nodes, share) >= n_workers), 1.0)
