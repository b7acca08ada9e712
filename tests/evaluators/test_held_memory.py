"""Memory is what the operating system counts: told by how much it grows."""

import torch
from torch import nn

from autocompress.evaluators.held_memory import most_held, tensor_bytes

MIB = 2**20
CPU = torch.device("cpu")
SLACK = 24 * MIB
"""What an allocator and libraries that load late may add."""


def ones(mebibytes: int) -> torch.Tensor:
    return torch.ones(mebibytes * MIB, dtype=torch.uint8)


def test_it_is_what_the_work_takes_at_most() -> None:
    before = ones(50)

    def work() -> None:
        kept = ones(60)
        ones(100)
        ones(30)
        assert kept.numel() == 60 * MIB

    held = most_held(work, CPU)

    assert before.numel() == 50 * MIB
    assert held is not None
    assert abs(held - 160 * MIB) < SLACK


def test_what_was_freed_before_hides_nothing() -> None:
    del_me = [ones(1) for _ in range(100)]
    del_me.clear()

    held = most_held(lambda: [ones(1) for _ in range(100)], CPU)

    assert held is not None
    assert abs(held - 100 * MIB) < SLACK


def test_tied_tensors_count_once() -> None:
    first, second = nn.Linear(8, 16, bias=False), nn.Linear(8, 16, bias=False)
    second.weight = first.weight

    assert tensor_bytes(nn.Sequential(first, second)) == 4 * 8 * 16
