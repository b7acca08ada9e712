"""What is kept of changed tensors is what walks over the sites come back to."""

from collections.abc import Iterable

import pytest
import torch
from torch import nn

from autocompress.models.linear_parts import Changed, Key, TensorCache
from autocompress.spaces.settings import WeightSetting

SETTINGS = [WeightSetting(bits=bits) for bits in (2, 3, 4)]
NUMBERS = 16
SITES = 6


def tensors() -> Changed:
    return ((nn.Parameter(torch.zeros(NUMBERS), requires_grad=False), None),)


def key(site: int, level: int = 0) -> Key:
    return Key(site, 0, 1, SETTINGS[level])


def cache_of(n_tensors: int) -> TensorCache:
    return TensorCache(n_tensors * NUMBERS * 4)


def hits(cache: TensorCache, walk: Iterable[Key]) -> int:
    """Ask for keys in turn, as surgery does; return how many were known."""
    found = 0
    for own in walk:
        if cache.get(own) is None:
            cache.add(own, tensors())
        else:
            found += 1
    return found


@pytest.mark.parametrize(("n_sites", "fitting"), [(5, 4), (10, 4), (40, 10), (40, 39)])
def test_every_walk_finds_nearly_all_that_fits(n_sites: int, fitting: int) -> None:
    cache = cache_of(fitting)
    walk = [key(site) for site in range(n_sites)]

    found = [hits(cache, walk) for _ in range(12)]

    assert found[0] == 0
    assert min(found[1:]) >= fitting - 1


def test_what_fits_is_found_whole() -> None:
    cache = cache_of(SITES)
    walk = [key(site) for site in range(SITES)]

    assert [hits(cache, walk) for _ in range(3)] == [0, SITES, SITES]


def test_what_is_no_longer_asked_for_makes_room() -> None:
    cache = cache_of(SITES)
    before, after = ([key(site, level) for site in range(SITES)] for level in (0, 1))
    hits(cache, before)

    found = [hits(cache, after) for _ in range(5)]

    assert found[-1] == SITES


def test_levels_of_one_site_that_take_turns_are_kept_while_it_is_walked_through() -> None:
    cache = cache_of(4)
    hits(cache, [key(site) for site in range(SITES)])

    # Three levels of a site, for each of four batches.
    found = hits(cache, [key(3, level) for _ in range(4) for level in range(3)])

    assert found >= 3 * 3


def test_the_newest_are_kept_however_large_they_are() -> None:
    cache = cache_of(0)

    assert hits(cache, [key(0), key(0), key(1), key(1), key(0)]) == 2
