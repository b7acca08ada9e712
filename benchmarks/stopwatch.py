"""Times the parts of an evaluation from outside, by wrapping the functions that do them."""

import contextlib
import time
from collections.abc import Callable, Iterator
from unittest import mock

import torch

from autocompress.evaluators import population
from autocompress.models.stepping import Stepper
from autocompress.models.streaming import Streamer
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import SUB_BLOCKS, SearchSpace
from autocompress.spaces.settings import DENSE_CACHE, CacheSetting
from autocompress.store.study_store import SqlStudyStore

SWAPS, HEAD, LOSSES, STREAMING = "weight swaps", "head", "losses", "streaming"
STORE = "store"
PARTS = (*(kind.value for kind in SUB_BLOCKS), HEAD, LOSSES, SWAPS, STREAMING)
Part = Callable[[tuple[object, ...]], str]


@contextlib.contextmanager
def watch(space: SearchSpace) -> Iterator[dict[str, float]]:
    """Yield the seconds of each part, added up while the context lasts; no part holds another.

    What is left of an evaluation's time is copying of residual streams, and Python. A GPU is
    waited for before and after each part: the parts are right, their sum is slower than unwatched.
    """
    seconds = dict.fromkeys(PARTS, 0.0)

    def of_site(args: tuple[object, ...]) -> str:
        return space.sites[int(str(args[1]))].kind.value

    within: list[float] = []
    with contextlib.ExitStack() as stack:
        for owner, name, part in (
            (ShapedModel, "set", lambda _: SWAPS),
            (Stepper, "run", of_site),
            (Stepper, "finish", lambda _: HEAD),
            (Stepper, "logits", lambda _: HEAD),
            (population, "losses", lambda _: LOSSES),
            (Streamer, "bring", lambda _: STREAMING),
        ):
            stack.enter_context(_timed(owner, name, part, seconds, within))
        yield seconds


@contextlib.contextmanager
def count_sequences() -> Iterator[list[int]]:
    """Yield, one for each batch that goes through a site meanwhile, how many sequences it holds.

    Their sum is the sub-blocks computed, as `count_sub_blocks` counts them, times sequences.
    """
    counted: list[int] = []
    function = Stepper.run

    def run(
        stepper: Stepper, index: int, states: torch.Tensor, cache: CacheSetting = DENSE_CACHE
    ) -> torch.Tensor:
        counted.append(len(states))
        return function(stepper, index, states, cache)

    with mock.patch.object(Stepper, "run", run):
        yield counted


def synchronized() -> float:
    """Return the time at which all that was asked of a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def watch_store() -> Iterator[dict[str, float]]:
    """Yield the seconds in which a study records, added up while the context lasts."""
    seconds = {STORE: 0.0}
    with _timed(SqlStudyStore, "record", lambda _: STORE, seconds, []):
        yield seconds


@contextlib.contextmanager
def _timed(
    owner: object, name: str, part: Part, seconds: dict[str, float], within: list[float]
) -> Iterator[None]:
    """Wrap a function.

    Args:
        within: For each wrapped call that is under way, the seconds of those it has made itself.
    """
    function = getattr(owner, name)

    def timed(*args: object) -> object:
        started = synchronized()
        within.append(0.0)
        result = function(*args)
        whole = synchronized() - started
        seconds[part(args)] += whole - within.pop()
        if within:
            within[-1] += whole
        return result

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, function)
