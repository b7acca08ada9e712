"""Who fits where: nodes and GPUs are not to be added up."""

import pytest

from autocompress.workers.placement import largest_share, room

NODES = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 4.0}, {"GPU": 4.0}]


@pytest.mark.parametrize(
    ("share", "places"),
    [(0.0, 13), (0.25, 9), (1 / 3, 7), (0.5, 5), (0.6, 3), (1.0, 3), (2.0, 1)],
)
def test_room_is_counted_node_by_node_and_gpu_by_gpu(share: float, places: int) -> None:
    assert room(NODES, share) == places


@pytest.mark.parametrize(
    ("n_workers", "share"), [(1, 1.0), (3, 1.0), (4, 0.5), (5, 0.5), (6, 1 / 3), (9, 0.25)]
)
def test_a_gpu_is_shared_by_as_few_as_leave_room_for_all(n_workers: int, share: float) -> None:
    assert largest_share(NODES, n_workers) == share


def test_too_many_workers_are_no_reason_to_share() -> None:
    assert largest_share(NODES, 10) == 1.0
