"""Measures the winner and its baselines on the report text, and writes down what was found."""

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from scipy import stats

import autocompress
from autocompress.errors import EvaluationError
from autocompress.evaluators.latency_model import LatencyTable
from autocompress.export import report as words
from autocompress.export.checkpoint import Artifact, files_bytes, layer_choices
from autocompress.export.gate import GateReport
from autocompress.pipeline.latency import hardware
from autocompress.pipeline.prepared import REPORT_SEQUENCES, Prepared
from autocompress.pipeline.searching import Found, baseline
from autocompress.search.base import Batch
from autocompress.search.driver import SearchDriver
from autocompress.spaces.base import SiteKind
from autocompress.trial import Fidelity, Genotype, Measurement, Split

BASELINES = ("uniform", "additive", "random")


@dataclass(frozen=True, slots=True)
class Verified:
    """The exported winner and what the gate and the engine said of it.

    Args:
        dense_parameters: Of the untouched model, tied ones once.
        dense_bytes: Of its tensors.
        answers: Text after the sample prompt: the prompt, the dense model's, the winner's.
    """

    artifact: Artifact
    gate: GateReport
    dense_parameters: int
    dense_bytes: int
    bits: int
    answers: tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Standings:
    """Measurements on the report text: the winner, the dense model and the baselines by name."""

    winner: Measurement
    dense: Measurement
    baselines: Mapping[str, tuple[Genotype, Measurement]]


def measure_standings(prepared: Prepared, found: Found, driver: SearchDriver) -> Standings:
    """Measure all that the report compares, on text that nothing before has read.

    The baselines are strategies of their own, under the winner's constraint.

    Raises:
        EvaluationError: If one of them could not be measured.
    """
    tried = {name: baseline(name, found.task, driver) for name in BASELINES}
    names = {name: genotype for name, genotype in tried.items() if genotype is not None}
    wanted = tuple(dict.fromkeys([found.winner, prepared.space.dense, *names.values()]))
    n = min(REPORT_SEQUENCES, len(prepared.sequences[Split.REPORT]))
    trials = driver.measure(Batch(wanted, Fidelity(Split.REPORT, 0, 0, n)))
    measured: dict[Genotype, Measurement] = {}
    for trial in trials:
        if trial.measurement is None:
            raise EvaluationError(f"{trial.genotype.key} failed on the report text: {trial.error}")
        measured[trial.genotype] = trial.measurement
    return Standings(
        measured[found.winner],
        measured[prepared.space.dense],
        {name: (genotype, measured[genotype]) for name, genotype in names.items()},
    )


def paired_interval(ours: Measurement, theirs: Measurement) -> tuple[float, float]:
    """Return the 95 % t-interval of their KL minus ours, paired by sequence."""
    difference = np.asarray(theirs.kl) - np.asarray(ours.kl)
    if not difference.any():
        return (0.0, 0.0)
    interval = stats.ttest_1samp(difference, 0.0).confidence_interval(0.95)
    return (float(interval.low), float(interval.high))


def make_report(
    study: str,
    prepared: Prepared,
    table: LatencyTable,
    found: Found,
    standings: Standings,
    verified: Verified,
    driver: SearchDriver,
    seconds: float,
) -> words.Report:
    """Put everything that was found into the report."""
    spec, space = prepared.spec, prepared.space
    cost = table.cost(space)
    check = table.check(space)
    predicted = cost.dense / cost.of(space.entries(found.winner))
    ours = standings.winner

    def baseline(name: str) -> words.Baseline | None:
        if name not in standings.baselines:
            return None
        genotype, measurement = standings.baselines[name]
        return words.Baseline(
            kl=measurement.loss,
            perplexity=measurement.perplexity,
            kl_stderr=_finite(measurement.loss_stderr),
            paired_difference=paired_interval(ours, measurement),
            speedup_predicted=cost.dense / cost.of(space.entries(genotype)),
        )

    layers = layer_choices(space, space.choices(found.winner))
    gate = verified.gate
    return words.Report(
        study=study,
        model=spec.model,
        engine=table.engine,
        hardware=hardware(prepared.device, table.threads),
        workload=str(spec.workload),
        command=command(prepared),
        target=words.Target("speedup", spec.target_speedup),
        met=found.speedup.median >= spec.target_speedup,
        quality_floor=spec.quality_floor,
        speedup=words.Speedup(
            predicted=predicted,
            predicted_interval=(
                predicted * (1 - check.half_width),
                predicted * (1 + check.half_width),
            ),
            measured=found.speedup.median,
            measured_interval=found.speedup.interval,
        ),
        latency_model=words.LatencyModel(
            mape=check.mape,
            rank_correlation=_finite(check.rank_correlation),
            coverage=check.coverage,
            held_out=len(check.points),
            interval_half_width=check.half_width,
            repeat_error=check.repeat_error,
            points=tuple(words.SpeedupPoint(p, m) for p, m in check.points),
        ),
        loss=words.Loss(
            kl=ours.loss,
            kl_stderr=_finite(ours.loss_stderr),
            perplexity=ours.perplexity,
            dense_perplexity=standings.dense.perplexity,
            held_out_tokens=len(ours.kl) * ours.tokens,
        ),
        baselines=words.Baselines(
            uniform=baseline("uniform"), additive=baseline("additive"), random=baseline("random")
        ),
        bytes=words.Bytes(
            dense=verified.dense_bytes,
            compressed=verified.artifact.tensor_bytes,
            on_disk=files_bytes(verified.artifact.folder),
        ),
        bits=words.Bits(nominal=float(verified.bits), true=float(verified.bits)),
        parameters=words.Parameters(
            dense=verified.dense_parameters, compressed=verified.artifact.parameters
        ),
        search=words.SearchCost(
            trials=driver.n_trials,
            tokens=driver.sequences * spec.context,
            seconds=seconds,
            generations=found.generations,
            stopped_because=found.stopped_because,
        ),
        gate=words.GateResult(
            passed=gate.passed,
            engine="transformers",
            engine_version=f"{gate.engine_version} on torch {torch.__version__}",
            max_logit_difference=gate.findings.largest_difference,
            bytes_match=gate.bytes_match,
            answered=bool(gate.findings.answer),
        ),
        layer_map=tuple(
            words.LayerChoice(layer, str(pair[SiteKind.ATTENTION]), str(pair[SiteKind.MLP]))
            for layer, pair in layers.items()
        ),
        history=found.history,
        sample=words.Sample(*verified.answers),
        versions=versions(),
        seed=spec.seed,
        needs_remote_code=verified.artifact.needs_remote_code,
        corrections=found.corrections,
        warnings=_warnings(prepared, table, found),
    )


def command(prepared: Prepared) -> str:
    """Return the command that repeats a search."""
    spec = prepared.spec
    parts = ["autocompress search", spec.model, f"--target-speedup {spec.target_speedup:g}x"]
    for flag, value, usual in (
        ("space", ",".join(spec.space), "depth,width"),
        ("workload", str(spec.workload), "1x128+64"),
        ("device", spec.device, "auto"),
        ("dtype", spec.dtype, "auto"),
        ("calibration", spec.calibration, None),
        ("latency-table", spec.latency_table, None),
        ("quality-floor", spec.quality_floor, 1.3),
        ("strategy", spec.strategy, "evolve"),
        ("warm-start", spec.warm_start, "losses"),
        ("budget", spec.budget_seconds, None),
        ("max-tokens", spec.max_tokens, None),
        ("context", spec.context, 256),
        ("teacher-tokens", spec.teacher_tokens, 512),
        ("shards", spec.shards, 16),
        ("weights-bytes", spec.weights_bytes, None),
        ("seed", spec.seed, None),
    ):
        if value is not None and value != usual:
            parts.append(
                f"--{flag} {value:g}" if isinstance(value, float) else f"--{flag} {value}"
            )
    return " ".join(parts)


def versions() -> dict[str, str]:
    """Return the versions of all that a result depends on."""
    return {
        "autocompress": autocompress.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _warnings(prepared: Prepared, table: LatencyTable, found: Found) -> tuple[str, ...]:
    warnings = []
    if prepared.imported is not None:
        warnings.append(
            f"The latency table was imported (measured on {table.hardware}): the search trusted "
            "it, and the speedup measured here corrected nothing."
        )
    if prepared.spec.calibration is None:
        warnings.append(
            "Losses were measured on the built-in sample, source of Python's standard library: "
            "give --calibration for text like that of your users."
        )
    speedup = found.speedup
    if speedup.interval[0] < prepared.spec.target_speedup <= speedup.median:
        warnings.append(
            f"The measured interval begins at {speedup.interval[0]:.2f}x, below the target: on a "
            "noisy machine the next measurement may miss it."
        )
    return tuple(warnings)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
