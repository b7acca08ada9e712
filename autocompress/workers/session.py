"""One loaded model in one worker: builds levels and measures shards."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autocompress.evaluators.population import EvaluatorLimits, PopulationEvaluator
from autocompress.models.loading import load_model
from autocompress.models.streaming import Checkpoint
from autocompress.models.surgery import ShapedModel
from autocompress.operators.base import Group, Operator
from autocompress.operators.database import LevelDatabase, settings_of
from autocompress.operators.statistics import gather
from autocompress.operators.structured_obs import StructuredObs
from autocompress.spaces.base import Choice, SearchSpace
from autocompress.trial import Split
from autocompress.workers.base import BuildJob, Measured, Shard

CALIBRATION_SEQUENCES = 128


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """All that a worker needs to make its session; travels pickled.

    Args:
        sequences: For each split, (sequences, T) token ids.
        levels: Folder of the level database.
        weights_bytes: Of the layers' weights on the device; the others are streamed from the
            checkpoint. None holds all.
    """

    model: Path
    device: str
    dtype: str
    trust_remote_code: bool
    space: SearchSpace
    sequences: Mapping[Split, np.ndarray]
    levels: Path
    seed: int
    limits: EvaluatorLimits
    weights_bytes: int | None = None

    def __call__(self) -> "ModelSession":
        """Load the model and open the session."""
        return ModelSession(self, StructuredObs())


class ModelSession:
    """A loaded model with its level database and its text.

    On a CPU it computes on one thread: sums are added in one order whatever the machine, so a
    shard gives the same numbers in every worker, and two workers use two cores better than two
    threads.
    """

    def __init__(self, plan: SessionPlan, operator: Operator) -> None:
        device = torch.device(plan.device)
        if device.type == "cpu":
            torch.set_num_threads(1)
        self._space = plan.space
        self._operator = operator
        self._database = LevelDatabase(plan.levels)
        self._text = torch.from_numpy(plan.sequences[Split.SEARCH]).long()
        self._shaped = _shaped(plan, device, self._database)
        self._evaluator = PopulationEvaluator(self._shaped, plan.sequences, plan.seed, plan.limits)
        self._device = device

    def build(self, job: BuildJob) -> int:
        """Build all widths of the sites of some layers that the database lacks."""
        missing = [
            site
            for site in self._space.sites
            if site.layer in job.layers
            and settings_of(site)
            and not self._database.has(site, settings_of(site))
        ]
        if not missing:
            return 0
        sequences = self._text[:CALIBRATION_SEQUENCES].to(self._device)
        layers = sorted({site.layer for site in missing})
        statistics = gather(self._shaped, layers, sequences)
        built = 0
        for site in missing:
            index = self._space.sites.index(site)
            self._shaped.set(index, Choice(site.units, site.units))
            linear = self._shaped.output_projection(index)
            group = Group(linear.weight, linear.weight.shape[1] // site.units)
            with torch.inference_mode():
                levels = self._operator.build(
                    group, statistics[site.layer, site.kind], settings_of(site)
                )
            self._database.write(site, levels)
            built += len(levels)
        return built

    def measure(self, shard: Shard) -> Measured:
        """Measure one shard; a loss may be no finite number."""
        return tuple(self._evaluator.measure(shard.genotypes, shard.fidelity))


def _shaped(plan: SessionPlan, device: torch.device, levels: LevelDatabase) -> ShapedModel:
    """Load what a plan wants on the device."""
    whole = plan.weights_bytes is None
    model = load_model(plan.model, device, plan.dtype, plan.trust_remote_code, with_layers=whole)
    if plan.weights_bytes is None:
        return ShapedModel(model, plan.space, levels)
    streamed = (Checkpoint(plan.model), plan.weights_bytes)
    return ShapedModel(model, plan.space, levels, streamed=streamed)
