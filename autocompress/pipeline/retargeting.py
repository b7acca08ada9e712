"""Answers a new target from a study's store, without torch: it takes a second, not a minute."""

import contextlib
from dataclasses import dataclass

from autocompress.errors import SpecError, UnreachableTarget
from autocompress.evaluators.latency_model import read_table
from autocompress.pipeline.shapes import from_document, space_of
from autocompress.search.base import Task
from autocompress.search.listed import SINGLE_SEQUENCES
from autocompress.search.memo import Memo
from autocompress.search.retarget import retarget
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.cost import least_left, under
from autocompress.spec import SearchSpec, from_mapping
from autocompress.store.base import StudyStore
from autocompress.store.study_store import open_study
from autocompress.trial import Genotype


@dataclass(frozen=True, slots=True)
class Retargeted:
    """What a study says of another target; nothing of it was measured.

    Args:
        layers: What is done to each site, in order, as words.
    """

    study: str
    target: float
    genotype: Genotype
    speedup: float
    speedup_interval: tuple[float, float]
    kl: float
    kl_interval: tuple[float, float]
    layers: tuple[tuple[int, str, str], ...]

    def to_json(self) -> dict[str, object]:
        """Return it as plain values."""
        return {
            "study": self.study,
            "target_speedup": self.target,
            "measured": False,
            "genotype": list(self.genotype.levels),
            "speedup": {
                "predicted": self.speedup,
                "predicted_interval": list(self.speedup_interval),
            },
            "kl": {"predicted": self.kl, "predicted_interval": list(self.kl_interval)},
            "layers": [
                {"layer": layer, "kind": kind, "choice": choice}
                for layer, kind, choice in self.layers
            ],
        }


def answer(storage: str, study: str, target: float) -> Retargeted:
    """Return the best expected candidate for another speedup.

    Raises:
        SpecError: If the study has not measured enough.
        UnreachableTarget: If no candidate of the space is that fast.
    """
    if not target > 1:
        raise SpecError(f"`target_speedup > 1` must hold, but got {target:g}.")
    with contextlib.closing(open_study(storage, study)) as store:
        spec = from_mapping(store.row().spec)
        if spec.target_speedup is None:
            raise SpecError(
                f"Study {study!r} has no latency table, for its target is no speedup: search anew "
                "with --target-speedup."
            )
        space = _space(store, study, spec)
        recorded = store.document("latency")
        if recorded is None:
            raise _too_early(study)
        table = read_table(recorded, space)
        memo = Memo.of(store.measurements().values())
    cost = table.cost(space)
    fastest = cost.dense / least_left(cost)
    if target > fastest:
        raise UnreachableTarget(
            f"No candidate reaches {target:g}x: the fastest of this space is predicted at "
            f"{fastest:.2f}x. Lower the target."
        )
    task = Task(under(space, cost, cost.dense / target), spec.seed, spec.context, 10**9)
    found = retarget(task, memo, SINGLE_SEQUENCES)
    speedup = cost.dense / cost.of(space.entries(found.genotype))
    half = table.check(space).half_width
    choices = space.choices(found.genotype)
    return Retargeted(
        study,
        target,
        found.genotype,
        speedup,
        (speedup * (1 - half), speedup * (1 + half)),
        found.kl,
        found.interval,
        tuple(
            (site.layer, site.kind.value, str(choice))
            for site, choice in zip(space.sites, choices, strict=True)
        ),
    )


def _space(store: StudyStore, study: str, spec: SearchSpec) -> SearchSpace:
    shape = store.document("shape")
    if shape is None:
        raise _too_early(study)
    return space_of(spec, from_document(shape))


def _too_early(study: str) -> SpecError:
    return SpecError(
        f"Study {study!r} has not come to a latency table yet; go on with "
        f"`autocompress resume {study}`."
    )
