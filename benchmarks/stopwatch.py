"""Times the parts of an evaluation from outside, by wrapping the functions that do them."""

import contextlib
import time
from collections.abc import Callable, Iterator

from autocompress.evaluators import population
from autocompress.models.stepping import Stepper
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import SearchSpace, SiteKind
from autocompress.store.study_store import SqlStudyStore

SWAPS, HEAD, LOSSES, STORE = "weight swaps", "head", "losses", "store"
PARTS = (*(kind.value for kind in SiteKind), HEAD, LOSSES, SWAPS)


@contextlib.contextmanager
def watch(space: SearchSpace) -> Iterator[dict[str, float]]:
    """Yield the seconds of each part, added up while the context lasts; no part holds another.

    What is left of an evaluation's time is copying of residual streams, and Python.
    """
    seconds = dict.fromkeys(PARTS, 0.0)

    def of_site(args: tuple[object, ...]) -> str:
        return space.sites[int(str(args[1]))].kind.value

    with contextlib.ExitStack() as stack:
        for owner, name, part in (
            (ShapedModel, "set", lambda _: SWAPS),
            (Stepper, "run", of_site),
            (Stepper, "finish", lambda _: HEAD),
            (Stepper, "logits", lambda _: HEAD),
            (population, "losses", lambda _: LOSSES),
        ):
            stack.enter_context(_timed(owner, name, part, seconds))
        yield seconds


@contextlib.contextmanager
def watch_store() -> Iterator[dict[str, float]]:
    """Yield the seconds in which a study records, added up while the context lasts."""
    seconds = {STORE: 0.0}
    with _timed(SqlStudyStore, "record", lambda _: STORE, seconds):
        yield seconds


@contextlib.contextmanager
def _timed(
    owner: object,
    name: str,
    part: Callable[[tuple[object, ...]], str],
    seconds: dict[str, float],
) -> Iterator[None]:
    function = getattr(owner, name)

    def timed(*args: object) -> object:
        started = time.perf_counter()
        result = function(*args)
        seconds[part(args)] += time.perf_counter() - started
        return result

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, function)
