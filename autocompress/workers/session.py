"""One loaded model in one worker: builds levels and measures shards."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from autocompress.errors import EvaluationError
from autocompress.evaluators.out_of_memory import is_out_of_memory, out_of_memory
from autocompress.evaluators.population import EvaluatorLimits, PopulationEvaluator
from autocompress.models.loading import in_fast_numbers, load_model
from autocompress.models.streaming import Checkpoint
from autocompress.models.surgery import ShapedModel
from autocompress.operators.database import LevelDatabase
from autocompress.operators.ggml_ends import stored_ends
from autocompress.operators.gradients import Gradients, gather_gradients
from autocompress.operators.levels import Levels, Operators, stored_as
from autocompress.operators.shared_storage import SharedStorage
from autocompress.operators.statistics import dense, gather
from autocompress.operators.structured_obs import StructuredObs
from autocompress.operators.weight_operators import load_weight_operator, reads_gradients
from autocompress.spaces.base import Choice, SearchSpace, Site
from autocompress.spaces.settings import WeightSetting
from autocompress.training.short import ShortTraining, TrainedEvaluator
from autocompress.trial import Split
from autocompress.workers.base import BuildJob, Measured, Shard

CALIBRATION_SEQUENCES = 128


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """All that a worker needs to make its session; travels pickled.

    Args:
        sequences: For each split, (sequences, T) token ids.
        levels: Folder of the level database, on each node.
        shared_levels: URL of the storage through which nodes share levels; None for a folder
            that all of them see.
        codes: Name of the operator that builds codes; `zeros`, of the one that builds zeros.
        upstream: How layers are stored while those after them are calibrated, whatever the
            size of groups; None leaves them dense.
        weights_bytes: Of the layers' weights on the device; the others are streamed from the
            checkpoint. None holds all.
        training: How candidates are trained where they are measured after a training.
        embeddings: In which of GGUF's types candidates store token embedding and head; None
            leaves them dense.
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
    codes: str = "gptq"
    zeros: str = "sparsegpt"
    upstream: WeightSetting | None = None
    shared_levels: str | None = None
    training: ShortTraining | None = None
    embeddings: str | None = None

    def __call__(self) -> "ModelSession":
        """Load the model and open the session."""
        return ModelSession(self)

    def open_levels(self) -> Levels:
        """Return the level database with what builds it.

        Raises:
            SpecError: If an operator is unknown, or no storage is meant.
        """
        names = (self.codes, self.zeros, "round-to-nearest", "ggml")
        operators = Operators(StructuredObs(), *map(load_weight_operator, names))
        shared = None if self.shared_levels is None else SharedStorage(self.shared_levels)
        return Levels(LevelDatabase(self.levels, shared), operators, torch.device(self.device))


class ModelSession:
    """A loaded model with its level database and its text.

    On a CPU it computes on one thread: sums are added in one order whatever the machine, so a
    shard gives the same numbers in every worker, and two workers use two cores better than two
    threads.
    """

    def __init__(self, plan: SessionPlan) -> None:
        device = torch.device(plan.device)
        if device.type == "cpu":
            torch.set_num_threads(1)
        self._plan = plan
        self._space = plan.space
        self._levels = plan.open_levels()
        self._text = torch.from_numpy(plan.sequences[Split.SEARCH]).long()
        self._shaped, self._stored = _shaped(plan, device, self._levels)
        self._evaluator = PopulationEvaluator(self._shaped, plan.sequences, plan.seed, plan.limits)
        self._device = device
        self._trained: TrainedEvaluator | None = None
        if plan.training is not None:
            self._trained = TrainedEvaluator(
                self._shaped, plan.sequences, plan.seed, plan.training
            )

    def build(self, job: BuildJob) -> int:
        """Build what the database lacks of the sites of some layers; return how many levels.

        Raises:
            EvaluationError: If memory runs out, or numbers do.
        """
        missing = [
            index
            for index, site in enumerate(self._space.sites)
            if site.layer in job.layers and self._levels.lacks(site)
        ]
        if not missing:
            return 0
        try:
            return self._built(missing)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            layers = f"the levels of layers {', '.join(map(str, job.layers))}"
            raise EvaluationError(out_of_memory(layers, str(error))) from None

    def _built(self, missing: Sequence[int]) -> int:
        sequences = self._text[:CALIBRATION_SEQUENCES].to(self._device)
        gradients: Gradients = {}
        if reads_gradients(self._plan.zeros):
            gradients = gather_gradients(self._shaped, missing, sequences)
        built = 0
        for index, statistics in gather(self._shaped, missing, sequences, self._upstream):
            statistics = dataclasses.replace(statistics, gradients=gradients.pop(index, None))
            weights = [linear.weight.to(self._stored) for linear in self._shaped.linears(index)]
            site = self._space.sites[index]
            try:
                with torch.inference_mode():
                    built += self._levels.build(site, weights, statistics)
            except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # it is there
                raise EvaluationError(
                    f"The levels of layer {site.layer} {site.kind} cannot be built: what it reads "
                    f"has no finite Hessian in {self._shaped.model.dtype}, or none that can be "
                    "factored; try --dtype float32."
                ) from error
        return built

    def _upstream(self, site: Site) -> Choice:
        """Return how a site is stored while those after it are calibrated."""
        if self._plan.upstream is None:
            return dense(site)
        return stored_as(site, self._plan.upstream)

    def measure(self, shard: Shard) -> Measured:
        """Measure one shard; of several candidates some losses may be no finite numbers.

        Raises:
            EvaluationError: If the loss of the only candidate is not finite, with the site that
                makes it so; or if memory runs out however little is measured at a time.
        """
        if shard.fidelity.trained and self._trained is not None:
            return tuple(self._trained.measure(shard.genotypes, shard.fidelity))
        measured = tuple(self._evaluator.measure(shard.genotypes, shard.fidelity))
        if len(measured) == 1 and not measured[0].is_finite:
            raise EvaluationError(self._evaluator.cause(shard.genotypes[0], shard.fidelity))
        return measured


def _shaped(
    plan: SessionPlan, device: torch.device, levels: Levels
) -> tuple[ShapedModel, torch.dtype]:
    """Load what a plan wants on the device; return it with the number format of its weights."""
    whole = plan.weights_bytes is None
    model = load_model(plan.model, device, plan.dtype, plan.trust_remote_code, with_layers=whole)
    stored = model.dtype
    model = in_fast_numbers(model, plan.dtype)
    ends = stored_ends(model, plan.embeddings)
    if plan.weights_bytes is None:
        return ShapedModel(model, plan.space, levels, ends=ends), stored
    streamed = (Checkpoint(plan.model), plan.weights_bytes)
    return ShapedModel(model, plan.space, levels, streamed=streamed, ends=ends), stored
