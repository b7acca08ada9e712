"""Measures published models from their files, side by side, as the search's spec measures."""

from collections.abc import Sequence
from pathlib import Path

from autocompress.evaluators.text_loss import Reading, measure_checkpoint
from autocompress.models import loading
from autocompress.pipeline.evaluating import Asked, shared_sequences
from autocompress.pipeline.latency import engine_device, hardware, measure_speedup
from autocompress.pipeline.measured_speedup import MeasuredSpeedup
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.on_disk import OnDisk, open_model
from autocompress.pipeline.prepared import REPORT_SEQUENCES
from autocompress.pipeline.timing_turn import timing_turn
from autocompress.spec import SearchSpec
from autocompress.spec_rules import COMPILED_TORCH
from autocompress.trial import Measurement


def losses_of(
    spec: SearchSpec, models: Sequence[Path], observer: Observer
) -> tuple[Measurement, ...]:
    """Return what each model loses against the dense one, on the same report text.

    Raises:
        AutocompressError: If one of them does not load, or is not of the spec's model.
    """
    how = Reading(
        str(loading.pick_device(spec.device)),
        spec.dtype,
        spec.teacher_tokens,
        spec.trust_remote_code,
    )
    dense = _opened(spec, spec.model)
    found = []
    for model in models:
        asked = Asked(
            path=str(model),
            against=spec.model,
            calibration=spec.calibration,
            sequences=REPORT_SEQUENCES,
            context=spec.context,
            teacher_tokens=spec.teacher_tokens,
            workload=spec.workload,
            device=spec.device,
            dtype=spec.dtype,
            seed=spec.seed,
            trust_remote_code=spec.trust_remote_code,
        )
        own = _opened(spec, str(model))
        sequences = shared_sequences(asked, own, dense)
        observer.stage(f"loss of {model}")
        found.append(measure_checkpoint(own.path, dense.path, sequences, how, observer.advance)[0])
    return tuple(found)


def speedup_between(
    spec: SearchSpec, before: str, after: str, observer: Observer
) -> MeasuredSpeedup | None:
    """Return how many times as fast the second model is, of runs in turn.

    Returns:
        None where the two need two engines: a GGUF file and the folder that it was made of.
    """
    first, second = _opened(spec, before), _opened(spec, after)
    if first.engine.name != second.engine.name:
        return None
    observer.stage(f"latency of {after}")
    with timing_turn(observer):
        return measure_speedup(
            second.engine,
            first.path,
            second.path,
            spec.workload,
            processes=spec.timing_processes,
        )


def machine_of(spec: SearchSpec) -> str:
    """Name what a spec's models are measured on, in words."""
    return hardware(engine_device(spec.engine, loading.pick_device(spec.device)), 0)


def _opened(spec: SearchSpec, named: str) -> OnDisk:
    return open_model(
        named,
        loading.pick_device(spec.device),
        spec.dtype,
        spec.trust_remote_code,
        by_vllm=spec.engine == "vllm",
        compiled=spec.engine == COMPILED_TORCH,
    )
