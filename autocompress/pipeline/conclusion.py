"""Measures the winner and its baselines on the report text, and writes down what was found."""

import dataclasses
import math
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import transformers

import autocompress
from autocompress.errors import EvaluationError
from autocompress.evaluators.latency_model import Check, LatencyModel
from autocompress.evaluators.roofline import Roofline
from autocompress.export import report as words
from autocompress.export.checkpoint import files_bytes, layer_choices
from autocompress.models.surgery import ShapedModel
from autocompress.pipeline.dense import read_dense
from autocompress.pipeline.deployment import Verified
from autocompress.pipeline.intervals import mean_interval
from autocompress.pipeline.measured_speedup import MeasuredSpeedup
from autocompress.pipeline.prepared import REPORT_SEQUENCES, Prepared
from autocompress.pipeline.searching import Found, baseline
from autocompress.pipeline.targets import (
    DenseSize,
    WrittenSize,
    counted_bits,
    is_met,
    rate_of,
    targets_of,
)
from autocompress.search.base import Batch
from autocompress.search.driver import SearchDriver
from autocompress.spaces import sizes
from autocompress.spaces.base import Choice, SearchSpace, SiteKind
from autocompress.spaces.cost import AdditiveCost
from autocompress.spec import (
    CACHE_BITS,
    DARWIN,
    RECOVERY,
    SPARSITIES,
    TIMING_PROCESSES,
    SearchSpec,
)
from autocompress.spec_rules import (
    COMPRESSED,
    OF_SPACES,
    SERVED_BITS,
    USUAL_EMBEDDINGS,
    of_no_space,
    usual_bits,
    usual_format,
    usual_space,
    usual_warm_start,
)
from autocompress.training.distillation import Trained
from autocompress.trial import Fidelity, Genotype, Measurement, Split

MODEL = "model"
"""The artifact's folder, beside the report."""
BASELINES = ("uniform", "additive", "random")


@dataclass(frozen=True, slots=True)
class Relearned:
    """A winner's training, and what it lost on the report text afterwards, from its file."""

    trained: Trained
    measured: Measurement
    text_tokens: int
    rate: float


@dataclass(frozen=True, slots=True)
class Standings:
    """Measurements on the report text: the winner, the dense model and the baselines by name.

    Args:
        start: The candidate whose sites are all dense: the dense model, but for its token
            embedding and head where candidates store those otherwise.
    """

    winner: Measurement
    dense: Measurement
    baselines: Mapping[str, tuple[Genotype, Measurement]]
    start: Measurement


def measure_standings(
    prepared: Prepared, found: Found, driver: SearchDriver, shaped: ShapedModel
) -> Standings:
    """Measure all that the report compares, on text that nothing before has read.

    The baselines are strategies of their own, under the winner's constraint.

    Args:
        shaped: What reads the text as the dense model, where no candidate is that; left dense.

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
    start = measured[prepared.space.dense]
    return Standings(
        measured[found.winner],
        read_dense(prepared, shaped, n) if prepared.spec.has_stored_ends else start,
        {name: (genotype, measured[genotype]) for name, genotype in names.items()},
        start,
    )


def paired_interval(ours: Measurement, theirs: Measurement) -> tuple[float, float]:
    """Return the 95 % t-interval of their KL minus ours, paired by sequence."""
    return mean_interval(np.asarray(theirs.kl) - np.asarray(ours.kl))


def make_report(
    study: str,
    prepared: Prepared,
    machine: str,
    latency: LatencyModel | None,
    found: Found,
    standings: Standings,
    verified: Verified,
    dense: DenseSize,
    held: int | None,
    driver: SearchDriver,
    profiled_at: str | None,
    strayed: Sequence[str],
    recovered: Relearned | None,
    failure: str,
    seconds: float,
) -> words.Report:
    """Put everything that was found into the report.

    Args:
        machine: What the engine runs on, in words.
        held: Bytes that serving the winner takes; None if that was not measured.
        profiled_at: When the latency tables were measured, if another study did.
        strayed: What they were about and the study went on with instead, each time.
        recovered: What training the winner gave back, if it was trained; `verified` is then of
            the trained one, `standings` are of the searched one.
        failure: Why it was not trained to an end, or what came of it not let pass; often empty.
    """
    spec, space = prepared.spec, prepared.space
    cost = None if latency is None else latency.cost(space)
    check = None if latency is None else latency.check(space)
    ours = standings.winner
    artifact = verified.artifact
    written = WrittenSize(
        artifact.parameters, artifact.tensor_bytes, 8 * artifact.linear_bytes, held
    )
    nominal = sizes.nominal_bits(space, dense.number_bits).of(space.entries(found.winner))
    bits = counted_bits(written, nominal, dense)

    def predicted(genotype: Genotype) -> float | None:
        return None if cost is None else cost.dense / cost.of(space.entries(genotype))

    speedup = _speedup(predicted(found.winner), cost, check, found)
    timed = found.speedup or _as_if_measured(speedup)
    target, *also = (
        dataclasses.replace(asked, met=is_met(asked, spec, written, nominal, dense, timed))
        for asked in targets_of(spec, dense)
    )

    def baseline(name: str) -> words.Baseline | None:
        if name not in standings.baselines:
            return None
        genotype, measurement = standings.baselines[name]
        return words.Baseline(
            kl=measurement.loss,
            perplexity=measurement.perplexity,
            kl_stderr=_finite(measurement.loss_stderr),
            paired_difference=paired_interval(ours, measurement),
            speedup_predicted=predicted(genotype),
        )

    layers = layer_choices(space, space.choices(found.winner))
    kept = _kept(space, found.winner, dense)
    gate = verified.gate
    return words.Report(
        study=study,
        model=spec.model,
        engine=spec.engine,
        hardware=machine,
        workload=str(spec.workload),
        command=command(prepared),
        target=target,
        also=tuple(also),
        met=all(own.met for own in (target, *also)),
        quality_floor=spec.quality_floor,
        speedup=speedup,
        latency_model=None if check is None else _latency_model(check),
        loss=_loss(ours if recovered is None else recovered.measured, standings),
        recovery=None if recovered is None else _recovery(recovered, standings),
        baselines=words.Baselines(
            uniform=baseline("uniform"), additive=baseline("additive"), random=baseline("random")
        ),
        bytes=words.Bytes(
            dense=dense.bytes,
            compressed=artifact.tensor_bytes,
            on_disk=files_bytes(artifact.folder),
        ),
        memory=_memory(dense.peak_memory, held),
        bits=words.Bits(nominal, bits["stored"], bits["whole"]),
        parameters=words.Parameters(dense=dense.parameters, compressed=artifact.parameters),
        search=words.SearchCost(
            trials=driver.n_trials,
            tokens=driver.sequences * spec.context + driver.trained + found.tokens_of_rules,
            seconds=seconds,
            generations=found.generations,
            stopped_because=found.stopped_because,
        ),
        gate=words.GateResult(
            passed=gate.passed,
            engine=gate.engine,
            engine_version=gate.engine_version,
            max_logit_difference=gate.findings.largest_difference,
            bytes_match=gate.bytes_match,
            answered=bool(gate.findings.answer),
            perplexity=verified.perplexity,
        ),
        layer_map=tuple(
            words.LayerChoice(
                layer, str(pair[SiteKind.ATTENTION]), str(pair[SiteKind.MLP]), *kept[layer]
            )
            for layer, pair in layers.items()
        ),
        history=found.history,
        sample=words.Sample(*verified.answers),
        versions=versions(),
        seed=spec.seed,
        needs_remote_code=artifact.needs_remote_code,
        checkpoint=f"{MODEL}/{artifact.file}" if artifact.file else MODEL,
        corrections=found.corrections,
        warnings=_warnings(
            prepared, latency, found, verified.decoded, profiled_at, strayed, standings.start
        )
        + _not_recovered(prepared, found, recovered, failure),
    )


def _loss(own: Measurement, standings: Standings) -> words.Loss:
    return words.Loss(
        kl=own.loss,
        kl_stderr=_finite(own.loss_stderr),
        perplexity=own.perplexity,
        dense_perplexity=standings.dense.perplexity,
        held_out_tokens=len(own.kl) * own.tokens,
    )


def _recovery(recovered: Relearned, standings: Standings) -> words.Recovery:
    trained = recovered.trained
    return words.Recovery(
        tokens=trained.tokens,
        text_tokens=recovered.text_tokens,
        rate=recovered.rate,
        seconds=trained.seconds,
        before=_loss(standings.winner, standings),
        history=trained.history,
    )


def _kept(
    space: SearchSpace, winner: Genotype, dense: DenseSize
) -> dict[int, tuple[float, float]]:
    """Return for each layer the shares of its attention's and its MLP's bytes that stay."""
    bits = dense.number_bits
    shares = {
        (site.layer, site.kind): sizes.site_bytes(site, choice, bits)
        / sizes.site_bytes(site, Choice(site.units, site.units), bits)
        for site, choice in zip(space.sites, space.choices(winner), strict=True)
    }
    return {
        layer: (shares[layer, SiteKind.ATTENTION], shares[layer, SiteKind.MLP])
        for layer, _ in shares
    }


def _speedup(
    predicted: float | None, cost: AdditiveCost | None, check: Check | None, found: Found
) -> words.Speedup:
    interval = None if predicted is None or check is None else check.around(predicted)
    expected = None
    if predicted is not None and cost is not None:
        expected = (cost.dense, cost.dense / predicted)
    measured = found.speedup
    if measured is None:
        return words.Speedup(predicted, interval, None, None, milliseconds_predicted=expected)
    return words.Speedup(
        predicted,
        interval,
        measured.median,
        measured.interval,
        measured.milliseconds,
        measured.compressed_interval,
        expected,
        measured.first_token,
        measured.further_token,
    )


def _as_if_measured(speedup: words.Speedup) -> MeasuredSpeedup:
    """Return what a prediction says in a measurement's words, where nothing was timed."""
    value, times = speedup.predicted, speedup.milliseconds_predicted
    if value is None or times is None:
        return MeasuredSpeedup(math.nan, (math.nan,) * 2, (math.nan,) * 2, (math.nan,) * 2, ())
    return MeasuredSpeedup(value, (value, value), times, (times[1], times[1]), ())


def _memory(dense: int | None, compressed: int | None) -> words.Memory | None:
    if dense is None or compressed is None:
        return None
    return words.Memory(dense, compressed)


def _latency_model(check: Check) -> words.LatencyModel:
    return words.LatencyModel(
        mape=check.mape,
        rank_correlation=_finite(check.rank_correlation),
        coverage=check.coverage,
        held_out=len(check.points),
        interval_half_width=check.half_width,
        repeat_error=check.repeat_error,
        points=tuple(words.SpeedupPoint(p, m) for p, m in check.points),
    )


def command(prepared: Prepared) -> str:
    """Return the command that repeats a search."""
    spec = prepared.spec
    parts = ["autocompress search", spec.model]
    bits = spec.bits
    if "bits" in spec.space:
        bits = usual_bits(spec.engine, spec.format, spec.is_timed, len(spec.targets) - 1)
    space = usual_space(
        spec.engine,
        spec.format,
        is_timed=spec.is_timed,
        device=spec.device,
        whole_layers=spec.whole_layers,
    )
    # A file may hold values for spaces that are not searched; the command line refuses them.
    silent = of_no_space(OF_SPACES, spec.space)
    speedup = None if spec.target_speedup is None else f"{spec.target_speedup:g}x"
    latency = None if spec.target_latency is None else f"{spec.target_latency:g}ms"
    for flag, value, usual in (
        ("target-speedup", speedup, None),
        ("target-latency", latency, None),
        ("target-throughput", spec.target_throughput, None),
        ("target-memory", spec.target_memory, None),
        ("target-bytes", spec.target_bytes, None),
        ("target-bits", spec.target_bits, None),
        ("target-params", spec.target_params, None),
        ("counted-bits", spec.counted_bits, "nominal"),
        ("engine", spec.engine, "torch"),
        ("format", spec.format, usual_format(spec.engine)),
        ("space", ",".join(spec.space), ",".join(space)),
        ("bits", ",".join(spec.bits), ",".join(bits)),
        ("group-size", spec.group_size, None),
        ("sparsities", ",".join(spec.sparsities), ",".join(SPARSITIES)),
        ("sparsity-step", spec.sparsity_step, None),
        ("kv-bits", ",".join(spec.kv_bits), ",".join(CACHE_BITS)),
        ("quantizer", spec.quantizer, "gptq"),
        ("pruner", spec.pruner, "sparsegpt"),
        ("upstream", spec.upstream, "dense"),
        ("embeddings", spec.embeddings, USUAL_EMBEDDINGS),
        ("workload", str(spec.workload), "1x128+64"),
        ("device", spec.device, "auto"),
        ("dtype", spec.dtype, "auto"),
        ("calibration", spec.calibration, None),
        ("latency-table", spec.latency_table, None),
        ("quality-floor", spec.quality_floor, 1.3),
        ("recover", spec.recover, None),
        ("strategy", spec.strategy, "evolve"),
        *(
            (key.replace("_", "-"), getattr(spec, key), usual)
            for key, usual in {**RECOVERY, **DARWIN}.items()
        ),
        ("start", spec.start, None),
        ("warm-start", spec.warm_start, usual_warm_start(dataclasses.asdict(spec))),
        ("budget", spec.budget_seconds, None),
        ("max-tokens", spec.max_tokens, None),
        ("context", spec.context, 256),
        ("teacher-tokens", spec.teacher_tokens, 512),
        ("shards", spec.shards, 16),
        ("timing-processes", spec.timing_processes, TIMING_PROCESSES),
        ("weights-bytes", spec.weights_bytes, None),
        ("seed", spec.seed, None),
    ):
        is_said = flag.replace("-", "_") not in silent
        if is_said and value is not None and value != usual:
            plain = ",".join(value) if isinstance(value, tuple) else value
            told = f"{plain:g}" if isinstance(plain, float) else shlex.quote(str(plain))
            parts.append(f"--{flag} {told}")
    for flag, is_set in (
        ("whole-layers", spec.whole_layers and spec.format in ("hf", "decilm")),
        ("symmetric", spec.symmetric and spec.format == "hf"),
        ("per-linear", spec.per_linear),
        ("trust-remote-code", spec.trust_remote_code),
    ):
        parts += [f"--{flag}"] if is_set and flag.replace("-", "_") not in silent else []
    return " ".join(parts)


def versions() -> dict[str, str]:
    """Return the versions of all that a result depends on."""
    return {
        "autocompress": autocompress.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _not_recovered(
    prepared: Prepared, found: Found, recovered: Relearned | None, failure: str
) -> tuple[str, ...]:
    """Say why a winner that was to be trained is published as it was found."""
    if prepared.spec.recover is None or recovered is not None:
        return ()
    if failure:
        return (failure,)
    if all(choice.is_whole for choice in prepared.space.choices(found.winner)):
        said = "Nothing was trained: the winner keeps all of all layers, in fewer bits."
    else:
        said = (
            "The winner was trained, and lost no less afterwards on the text that winners are "
            "picked by: it is published as it was found. Try --recovery-rate or --recovery-text."
        )
    return (said,)


def _warnings(
    prepared: Prepared,
    latency: LatencyModel | None,
    found: Found,
    decoded: Sequence[str],
    profiled_at: str | None,
    strayed: Sequence[str],
    start: Measurement,
) -> tuple[str, ...]:
    warnings = [
        f"The latency table was measured with {changed}: what the study predicted since is off by "
        "as much as that changes. A new study measures it again."
        for changed in strayed
    ]
    if profiled_at is not None:
        warnings.append(
            f"The latency table is one that this machine was measured at {profiled_at} for: "
            "--fresh-profile measures it again."
        )
    if isinstance(latency, Roofline):
        on = latency.on
        rate = on.flops[latency.number_format] / 1e12
        warnings.append(
            f"Nothing was timed. Times are the least that {on.name} could take at its peak rates, "
            f"{on.bandwidth / 1e12:g} TB/s and {rate:g} TFLOP/s ({on.source}): whatever an engine "
            "spends beside matrix products and attention makes a request slower and the speedup "
            "less. Weights of fewer bits count as read by kernels for them. Measure the "
            "checkpoint on the engine before you rely on it."
        )
    elif prepared.imported is not None and latency is not None:
        warnings.append(
            f"The latency table was imported (measured on {latency.hardware}): the search "
            "trusted it, and the speedup measured here corrected nothing."
        )
    if prepared.spec.calibration is None:
        warnings.append(
            "Losses were measured on the built-in sample, source of Python's standard library: "
            "give --calibration for text like that of your users."
        )
    longest = _undecided(prepared.spec, found.speedup)
    if longest:
        warnings.append(
            f"The measured median meets the target and its interval, which {longest}, does not: "
            "a target counts as met when all of it does."
        )
    choices = prepared.space.choices(found.winner)
    is_packed = prepared.spec.format == "hf" and any(choice.weights for choice in choices)
    if decoded:
        warnings.append(
            f"The torch engine has no kernel here for {', '.join(decoded)}: it decodes such "
            "weights when the model is loaded. They save bytes on disk, and neither time nor "
            "memory there."
        )
    rare = _rarely_served(prepared.spec, choices)
    if rare:
        warnings.append(
            f"vLLM and SGLang run {', '.join(rare)} of compressed-tensors only in versions that "
            f"have kernels for such codes; {' and '.join(SERVED_BITS)} bits, all do."
        )
    if prepared.spec.engine == "vllm":
        warnings.append(
            "Losses were measured with torch; vLLM read the text, answered and was timed. Not "
            "load-tested in SGLang."
        )
    elif prepared.spec.format in COMPRESSED:
        warnings.append(
            "Loaded and measured with transformers, which decodes every weight: not load-tested "
            "in vLLM or SGLang."
        )
    if prepared.spec.engine == "llama.cpp":
        warnings.append(
            f"{_ends(prepared.spec, start)} llama.cpp ran without its kernels for repacked "
            "weights and for AMX: as it is usually compiled, it may be faster than measured here."
        )
    if any(not choice.cache.is_dense for choice in choices):
        warnings.append(
            "Losses were measured with quantized KV caches; the checkpoint names their settings, "
            "and no engine was seen to use them."
        )
    if is_packed:
        warnings += foreseen(prepared.spec)
    return tuple(warnings)


def foreseen(spec: SearchSpec) -> tuple[str, ...]:
    """Return the warnings that hold of every winner whose weights are stored otherwise.

    They are told before the search too: nobody should wait hours for what no engine loads.
    """
    stores_otherwise = bool({"bits", "sparsity"} & {*spec.space})
    if not (spec.per_linear and spec.format == "hf" and stores_otherwise):
        return ()
    fused = (
        "Linear layers that engines fuse (q, k and v; gate and up) have settings of their own: "
        "vLLM, SGLang and TensorRT-LLM do not load that."
    )
    return (fused,)


def _ends(spec: SearchSpec, start: Measurement) -> str:
    """Say how token embedding and head are stored, and what that alone loses."""
    if not spec.has_stored_ends:
        return "Embedding and head stay in f16."
    return (
        f"Token embedding and output head are stored in {spec.embeddings}, in the winner and in "
        f"all that it is compared with but the dense model: that alone loses {start.loss:.3g} "
        "nats a token."
    )


def _rarely_served(spec: SearchSpec, choices: Sequence[Choice]) -> list[str]:
    """Return the integer settings of compressed-tensors that not every engine runs, sorted."""
    if spec.format not in COMPRESSED:
        return []
    settings = {setting for choice in choices for setting in choice.weights if setting.bits}
    return sorted(str(setting) for setting in settings if str(setting.bits) not in SERVED_BITS)


def _undecided(spec: SearchSpec, speedup: MeasuredSpeedup | None) -> str:
    """Say which end of the measured interval misses what the median meets; empty if none does."""
    if speedup is None:
        return ""
    asked, most, taken = spec.target_speedup, spec.most_milliseconds, speedup.milliseconds[1]
    if asked is not None and speedup.interval[0] < asked <= speedup.median:
        return f"begins at {speedup.interval[0]:.2f}x"
    longest = speedup.compressed_interval[1]
    if most is not None and taken <= most < longest:
        if spec.target_throughput is not None:
            return f"begins at {rate_of(spec, longest)}"
        return f"ends at {longest:.3g} ms"
    return ""


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
