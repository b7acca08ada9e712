"""Times configurations of one loaded model on the torch engine, in this process."""

from collections.abc import Sequence

import numpy as np

from autocompress.evaluators.compiled_layers import compiled_layers
from autocompress.evaluators.kernel_shapes import KernelShapes
from autocompress.evaluators.latency_rows import Spent, median_spent
from autocompress.evaluators.profile import Ratios
from autocompress.evaluators.subprocess_call import Progress
from autocompress.evaluators.timing import make_prompt, run
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import Choice, Site
from autocompress.workload import Workload

DECODE_STEPS = 16


class ShapedStopwatch:
    """A model that takes one configuration after another, on the kernels that torch has.

    Args:
        reads_codes: Whether checkpoints are multiplied as codes where torch has a kernel.
        compiled: Whether layers are compiled, and the KV cache is of a fixed length.
    """

    rounds = 7

    def __init__(
        self,
        shaped: ShapedModel,
        workload: Workload,
        *,
        reads_codes: bool = True,
        compiled: bool = False,
    ) -> None:
        self._shaped = shaped
        self._kernels = KernelShapes(shaped, reads_codes=reads_codes)
        self._dense = [Choice(site.units, site.units) for site in shaped.space.sites]
        self._prompt = make_prompt(shaped.model, workload)
        # Decoding is timed half-way through the generated tokens: a cached token costs its share.
        extra = max(0, (workload.generated - DECODE_STEPS) // 2)
        self._longer = make_prompt(shaped.model, workload, extra)
        self._steps = min(DECODE_STEPS, workload.generated)
        self._length = workload.prompt + workload.generated if compiled else None

    def runs(self, site: Site, change: Choice) -> bool:
        """Whether torch has a kernel for one linear group's setting."""
        return self._kernels.runs(site, change)

    def ratios(
        self, plans: Sequence[Sequence[Choice]], rounds: int, seed: int, progress: Progress
    ) -> Ratios:
        """Time configurations in shuffled order, the dense model between any two of them."""
        if self._length is None:
            return self._ratios(plans, rounds, seed, progress)
        with compiled_layers(self._shaped.model):
            for plan in plans:
                self._time(plan)  # Compiled before any time is taken.
            return self._ratios(plans, rounds, seed, progress)

    def _ratios(
        self, plans: Sequence[Sequence[Choice]], rounds: int, seed: int, progress: Progress
    ) -> Ratios:
        rng = np.random.default_rng([seed, 7])
        dense_runs: list[Spent] = []
        pairs: list[list[Spent]] = [[] for _ in plans]
        self._time_dense()
        before = self._time_dense()
        done = 0
        for _ in range(rounds):
            for index in rng.permutation(len(plans)):
                own = self._time(plans[index])
                after = self._time_dense()
                beside = Spent(
                    (before.prefill + after.prefill) / 2, (before.decode + after.decode) / 2
                )
                dense_runs.append(beside)
                pairs[index].append(own.beside(before, after))
                before = after
                done += 1
                progress(done, rounds * len(plans))
        self._kernels.apply(self._dense)
        return Ratios(median_spent(dense_runs), pairs)

    def _time_dense(self) -> Spent:
        return self._time(self._dense)

    def _time(self, choices: Sequence[Choice]) -> Spent:
        self._kernels.apply(choices)
        if self._length is not None:
            # A cache of a fixed length is read whole by every step, early or late.
            timing = run(self._shaped.model, self._prompt, self._steps + 1, self._length)
            return Spent(timing.prefill, timing.decode)
        prefill = run(self._shaped.model, self._prompt, 1).prefill
        steps = run(self._shaped.model, self._longer, self._steps + 1)
        return Spent(prefill, steps.decode)
