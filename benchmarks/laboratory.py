"""What the search benchmarks share: workers on one model, strategies run to their end on them."""

import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autocompress.evaluators.population import EvaluatorLimits
from autocompress.evaluators.subprocess_call import nobody
from autocompress.models import loading
from autocompress.models.surgery import ShapedModel
from autocompress.operators.levels import Levels
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.pipeline.rules import scores_for
from autocompress.search.base import Batch, Strategy, Task
from autocompress.search.driver import SearchDriver
from autocompress.search.strategies import RuleScores
from autocompress.spaces.cost import Constraint
from autocompress.spec import from_mapping
from autocompress.spec_rules import BITS
from autocompress.store.study_store import create_study
from autocompress.trial import Fidelity, Genotype, Measurement, Split
from autocompress.workers.base import BuildJob, WorkerPool
from autocompress.workers.local_pool import LocalPool

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "examples" / "reference-model"
# Enough for the dense model's predictions of all the text: EvoPress draws anew each generation.
TEACHER_BYTES = 2**31
SHARDS = 2
"""Of a batch where time is short: as many as the cores of the machines that these run on."""


@dataclass(frozen=True, slots=True)
class Step:
    """The best candidate of a strategy when it had spent so much."""

    tokens: int
    seconds: float
    best: Genotype


class Laboratory:
    """One model on the local workers."""

    def __init__(
        self,
        prepared: Prepared,
        shaped: ShapedModel,
        levels: Levels,
        pool: WorkerPool,
        folder: Path,
    ) -> None:
        self.prepared = prepared
        self.shaped = shaped
        self._levels = levels
        self._pool = pool
        self._folder = folder
        self._studies = 0
        self._scores: dict[str, RuleScores] = {}
        self._apart = self.driver()

    @property
    def number_format(self) -> str:
        """What losses are computed in: the checkpoint's format where the machine multiplies it."""
        return "float32" if loading.lacks_bfloat16(self.prepared.device) else "bfloat16"

    @property
    def workers(self) -> int:
        """How many workers measure at a time."""
        return self._pool.n_workers

    def task(self, constraint: Constraint, seed: int, max_tokens: int | None = None) -> Task:
        """Return the task of meeting a constraint on all of the search text."""
        return Task(
            constraint,
            seed,
            self.prepared.spec.context,
            len(self.prepared.sequences[Split.SEARCH]),
            max_tokens=max_tokens,
        )

    def run(self, strategy: Strategy, driver: SearchDriver | None = None) -> list[Step]:
        """Run a strategy to its end; return where its best changed.

        Args:
            driver: What it has measured takes no time; None is a study of its own.
        """
        driver = driver or self.driver()
        steps: list[Step] = []
        started = time.monotonic()
        while (batch := strategy.ask()) is not None:
            strategy.tell(driver.measure(batch))
            now = strategy.standing()
            if now.best is not None and (not steps or steps[-1].best != now.best):
                steps.append(Step(now.tokens, time.monotonic() - started, now.best))
        end = strategy.standing()
        if end.best is None:
            raise SystemExit("a strategy ended without a candidate")
        steps.append(Step(end.tokens, time.monotonic() - started, end.best))
        return steps

    def held_out(self, genotypes: Sequence[Genotype]) -> Mapping[Genotype, Measurement]:
        """Measure candidates on all of the report text, which no strategy reads."""
        return self.measured(genotypes, Split.REPORT)

    def measured(
        self, genotypes: Sequence[Genotype], split: Split, sequences: int | None = None
    ) -> Mapping[Genotype, Measurement]:
        """Measure candidates on some sequences of a split's text, or on all of it.

        No strategy's tokens count it.
        """
        n = sequences or len(self.prepared.sequences[split])
        wanted = tuple(dict.fromkeys(genotypes))
        trials = self._apart.measure(Batch(wanted, Fidelity(split, 0, 0, n)))
        found = {}
        for trial in trials:
            if trial.measurement is None:
                raise SystemExit(f"{trial.genotype.key} failed: {trial.error}")
            found[trial.genotype] = trial.measurement
        return found

    def scores(self, strategy: str) -> RuleScores:
        """Return what a strategy's rule says of the dense model, computed once."""
        if strategy not in self._scores:
            self._scores[strategy] = scores_for(strategy, self.prepared, self.shaped, self._levels)
        return self._scores[strategy]

    def driver(self) -> SearchDriver:
        """Return what measures on a study of its own."""
        self._studies += 1
        url = f"sqlite:///{self._folder}/studies.db"
        store = create_study(url, f"study-{self._studies}", {})
        return SearchDriver(self._pool, store, nobody, self.prepared.cut)


@contextlib.contextmanager
def laboratory(
    space: Sequence[str], model: Path = MODEL, **settings: object
) -> Iterator[Laboratory]:
    """Open workers on a model, with all levels built.

    Args:
        settings: Further values of the spec.
    """
    # Constraints are a benchmark's own: a target must only be there.
    usual = {"model": str(model), "target_speedup": 2, "bits": list(BITS)}
    prepared = prepare(from_mapping(usual | {"space": list(space)} | settings))
    levels = prepared.session_plan(loading.fingerprint(prepared.folder)).open_levels()
    with (
        workers(prepared, teacher_bytes=TEACHER_BYTES) as pool,
        tempfile.TemporaryDirectory() as folder,
    ):
        whole = loading.load_model(prepared.folder, prepared.device, "float32")
        shaped = ShapedModel(whole, prepared.space, levels)
        yield Laboratory(prepared, shaped, levels, pool, Path(folder))


@contextlib.contextmanager
def workers(
    prepared: Prepared,
    n: int | None = None,
    teacher_bytes: int = EvaluatorLimits().teacher_bytes,
) -> Iterator[LocalPool]:
    """Open workers with all levels of a prepared search built.

    Args:
        n: How many; None is one for each core, or a single one on a GPU, on which more would
            only take turns.
    """
    if n is None:
        n = 1 if prepared.device.type == "cuda" else len(os.sched_getaffinity(0))
    plan = prepared.session_plan(loading.fingerprint(prepared.folder))
    limits = dataclasses.replace(plan.limits, teacher_bytes=teacher_bytes)
    pool = LocalPool(dataclasses.replace(plan, limits=limits), n)
    with contextlib.closing(pool):
        layers = range(prepared.architecture.n_layers)
        for _, result in pool.build([BuildJob((layer,)) for layer in layers]):
            if isinstance(result, Exception):
                raise result
        yield pool
