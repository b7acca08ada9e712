"""What a report holds: the typed form of report.json, and the verdict.

Intervals are (lo, hi) at 95 % unless said otherwise; speedups are ratios to dense, above 1 is
faster; KL divergences are nats a token. None means: not measured, or not predicted.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from autocompress.errors import ExportError
from autocompress.export.report_json import Json, from_plain, to_plain
from autocompress.training.validation import Validation


class Verdict(enum.StrEnum):
    """Whether what was found can be deployed as it stands."""

    USABLE = "USABLE"
    UNUSABLE = "UNUSABLE WITHOUT RECOVERY"
    TARGET_NOT_MET = "TARGET NOT MET"


def verdict(
    perplexity: float, dense_perplexity: float, quality_floor: float, met: bool
) -> Verdict:
    """Judge a winner; quality comes first, for a fast model that does not answer is of no use.

    Args:
        quality_floor: The highest acceptable ratio of held-out perplexity to dense.
        met: Whether the target is met.
    """
    if not perplexity <= quality_floor * dense_perplexity:
        return Verdict.UNUSABLE
    return Verdict.USABLE if met else Verdict.TARGET_NOT_MET


@dataclass(frozen=True, slots=True)
class Target:
    """What was asked.

    Args:
        kind: `speedup`, `latency` (ms), `throughput` (tokens a second), `memory` (bytes), `bytes`,
            `bits` or `params` (the share kept).
        met: Whether the winner meets it; None where no winner was held against it alone.
        counted: Which `bits`, as a spec says it: `nominal`, `stored` or `whole`; None for others.
    """

    kind: str
    value: float
    met: bool | None = None
    counted: str | None = None


@dataclass(frozen=True, slots=True)
class Speedup:
    """How much faster than dense: what the latency model said, and what the engine did.

    Args:
        milliseconds: Of a mean request of the workload, measured: dense, compressed.
        milliseconds_interval: Of the compressed model's.
        milliseconds_predicted: As `milliseconds`, as the latency model has them.
        first_token: Milliseconds until the first token, of each workload: dense, compressed; empty
            where nothing was timed.
        further_token: Of each workload those of a further token, if it generates one.
    """

    predicted: float | None
    predicted_interval: tuple[float, float] | None
    measured: float | None
    measured_interval: tuple[float, float] | None
    milliseconds: tuple[float, float] | None = None
    milliseconds_interval: tuple[float, float] | None = None
    milliseconds_predicted: tuple[float, float] | None = None
    first_token: tuple[tuple[float, float], ...] = ()
    further_token: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class SpeedupPoint:
    """The predicted and the measured speedup of one held-out configuration."""

    predicted: float
    measured: float


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """How far the latency predictor can be trusted.

    Args:
        mape: Mean absolute relative error on held-out configurations; 0.05 is 5 %.
        rank_correlation: Spearman's, on the same; None if all were equal.
        coverage: Share of held-out configurations that fell into the interval.
        held_out: Number of held-out configurations.
        interval_half_width: Relative half-width of the interval around a prediction.
        repeat_error: Median relative difference of measuring one configuration twice.
    """

    mape: float
    rank_correlation: float | None
    coverage: float | None
    held_out: int
    interval_half_width: float | None = None
    repeat_error: float | None = None
    points: tuple[SpeedupPoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Loss:
    """What the compression cost, on text that nothing before has read."""

    kl: float
    kl_stderr: float | None
    perplexity: float
    dense_perplexity: float
    held_out_tokens: int

    @property
    def ratio(self) -> float:
        """Perplexity as a multiple of dense."""
        return self.perplexity / self.dense_perplexity


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a simpler method gives at the same target, on the same text.

    Args:
        paired_difference: 95 % interval of this baseline's KL minus ours, paired by sequence;
            above 0, ours is better.
    """

    kl: float
    perplexity: float
    kl_stderr: float | None = None
    paired_difference: tuple[float, float] | None = None
    speedup_predicted: float | None = None


@dataclass(frozen=True, slots=True)
class Baselines:
    """The methods that every search is held against; None for one that found no candidate."""

    uniform: Baseline | None = None
    additive: Baseline | None = None
    random: Baseline | None = None


@dataclass(frozen=True, slots=True)
class Bytes:
    """The whole model's bytes, embeddings and head included; `on_disk` is read from the file."""

    dense: int
    compressed: int
    on_disk: int | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that the engine's process holds at most while it runs the workload.

    Above what it holds before it opens the model: weights, KV cache and all that a request takes.
    """

    dense: int
    compressed: int


@dataclass(frozen=True, slots=True)
class Bits:
    """Average bits of the searched linears; `true` counts scales, zero points and masks.

    Args:
        whole: Of all that the model stores, embeddings and head too, for each of the dense
            model's parameters; None where it was not counted.
    """

    nominal: float
    true: float
    whole: float | None = None


@dataclass(frozen=True, slots=True)
class Parameters:
    """The whole model's parameters, embeddings and head included."""

    dense: int
    compressed: int


@dataclass(frozen=True, slots=True)
class SearchCost:
    """What the search spent; `tokens` are summed over candidates, warm start included.

    Args:
        seconds: In all runs of the study, those that were interrupted too.
    """

    trials: int
    tokens: int
    seconds: float
    generations: int
    stopped_because: str


@dataclass(frozen=True, slots=True)
class Recovery:
    """What training the winner gave back.

    Args:
        tokens: Trained on, those read again counted again.
        text_tokens: Of the text, different ones.
        rate: The highest learning rate.
        before: What the winner lost before it was trained, on the report's text.
        history: The first before any training.
    """

    tokens: int
    text_tokens: int
    rate: float
    seconds: float
    before: Loss
    history: tuple[Validation, ...]


@dataclass(frozen=True, slots=True)
class GateResult:
    """What the engine said of the file on disk.

    Args:
        perplexity: Of the file on the report text, as the engine reads it; None where losses are
            measured with the same engine.
    """

    passed: bool
    engine: str
    engine_version: str
    max_logit_difference: float | None
    bytes_match: bool
    answered: bool
    perplexity: float | None = None


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """What is done to one layer: "dense", "drop", or a width, settings of weights and of a cache.

    Args:
        attention_kept: Share of the attention's bytes that stays; `mlp_kept`, of the MLP's.
    """

    layer: int
    attention: str
    mlp: str
    attention_kept: float
    mlp_kept: float


@dataclass(frozen=True, slots=True)
class Progress:
    """The best loss so far, on search text, after a spend of tokens and seconds."""

    tokens: int
    seconds: float
    generation: int
    loss: float


@dataclass(frozen=True, slots=True)
class Correction:
    """A winner missed the target, or was faster than it must be: another was looked for.

    Args:
        target_used: The predicted speedup that the next search asked for, or that a candidate
            for which speed was given back has; of `memory` the bytes.
        measured: The winner's median, and its 95 % interval; of `memory` the bytes that it held.
        kind: Of the target: `speedup` or `memory`; `given back` where no other search followed.
    """

    target_asked: float
    target_used: float
    measured: float
    measured_interval: tuple[float, float]
    kind: str = "speedup"


@dataclass(frozen=True, slots=True)
class Sample:
    """What both models write after the same prompt."""

    prompt: str
    dense: str
    compressed: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a user is told; `verdict` is derived and never taken from outside.

    Args:
        workload: `BxP+G`: batch, prompt tokens, generated tokens.
        command: The command that repeats this study.
        quality_floor: The highest acceptable ratio of held-out perplexity to dense.
        met: Whether all targets are met.
        also: Further targets.
        gate: None if the checkpoint was not opened by an engine.
        memory: None where nothing ran, or the system does not tell.
        needs_remote_code: Whether the checkpoint brings a modeling file of its own.
        checkpoint: The checkpoint's folder, or its GGUF file, relative to the report's folder.
        recovery: None if the winner was not trained; else `loss` is what it loses afterwards.
    """

    study: str
    model: str
    engine: str
    hardware: str
    workload: str
    command: str
    target: Target
    met: bool
    quality_floor: float
    speedup: Speedup
    latency_model: LatencyModel | None
    loss: Loss
    baselines: Baselines
    bytes: Bytes
    bits: Bits
    parameters: Parameters
    search: SearchCost
    gate: GateResult | None
    layer_map: tuple[LayerChoice, ...]
    history: tuple[Progress, ...]
    sample: Sample | None
    versions: Mapping[str, str]
    seed: int
    needs_remote_code: bool
    also: tuple[Target, ...] = ()
    checkpoint: str = "model"
    memory: Memory | None = None
    recovery: Recovery | None = None
    corrections: tuple[Correction, ...] = ()
    warnings: tuple[str, ...] = ()
    verdict: Verdict = field(init=False)

    def __post_init__(self) -> None:
        judged = verdict(
            self.loss.perplexity, self.loss.dense_perplexity, self.quality_floor, self.met
        )
        object.__setattr__(self, "verdict", judged)

    @property
    def targets(self) -> tuple[Target, ...]:
        """All that was asked, in the order of the spec."""
        return self.target, *self.also

    @property
    def searched(self) -> Loss:
        """What the search's winner loses, before any training."""
        return self.loss if self.recovery is None else self.recovery.before

    def to_json(self) -> dict[str, Json]:
        """Return the content of report.json.

        Raises:
            ExportError: If a number is not finite.
        """
        return cast(dict[str, Json], to_plain(self))

    @classmethod
    def from_json(cls, mapping: Mapping[str, object]) -> "Report":
        """Read what `to_json` wrote.

        Raises:
            ExportError: If a field is missing, of another type or not finite.
        """
        if not isinstance(mapping, Mapping):
            raise ExportError("A report must be a mapping of names to values.")
        return from_plain(cls, mapping)
