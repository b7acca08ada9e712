"""Judges the roofline by a machine that is here: its predictions against measured times.

    python -m benchmarks.roofline --output benchmarks/results/roofline.json
    python -m benchmarks.roofline --output benchmarks/results/roofline-h200.json --shape 8b \
        --rounds 3 --threads 1 --datasheet h200 --cases 1x128+64 64x512+64 1x4096+64

A randomly initialised model in bfloat16, usually of about 0.5 B parameters, decodes, and reads
prompts, on torch: at several batches and contexts, and, where no cases are named, with a third and
two thirds of its layers dropped. On a GPU the time that kernels, copies and fills take there is
told too: the rest of a pass it waits for Python.
Peak rate and bandwidth are probed anew in every round, right before what they are to predict;
ratios are medians over rounds, with the least and the most of them. The bandwidth of plain reading
is told too: it is nearer to what a datasheet's figure would be. Nothing else may run meanwhile.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autocompress.evaluators.latency_rows import Spent
from autocompress.evaluators.roofline import KNOWN, Hardware, Roofline
from autocompress.evaluators.roofline_probe import probe
from autocompress.evaluators.timing import make_prompt, run
from autocompress.models import loading
from autocompress.models.surgery import ShapedModel
from autocompress.pipeline.latency import hardware
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.spaces.base import Choice
from autocompress.spec import from_mapping
from autocompress.workload import Mix, Workload
from benchmarks.contest import write_whole
from benchmarks.random_models import SHAPES, make_model

NUMBER_FORMAT = "bfloat16"
STEPS = 9
CASES = (("1x128+64", 0.0), ("1x128+64", 1 / 3), ("1x128+64", 2 / 3), ("1x1024+64", 0.0),
         ("4x32+64", 0.0), ("16x32+64", 0.0))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A workload, and how much of the depth is gone."""

    workload: Workload
    dropped: float
    choices: tuple[Choice, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--folder", type=Path, help="keeps the model; temporary if absent")
    parser.add_argument("--datasheet", choices=KNOWN, help="whose predictions are told beside")
    parser.add_argument("--cases", nargs="+", help="workloads, of all layers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch) / "random"
        make_model(arguments.shape, folder, 1, 0)
        spec = from_mapping({"model": str(folder), "target_speedup": 2, "space": ["depth"]})
        prepared = prepare(spec)
        levels = prepared.session_plan("none are built").open_levels()
        model = loading.load_model(folder, prepared.device, NUMBER_FORMAT)
        shaped = ShapedModel(model, prepared.space, levels)
        cases = [
            Case(Mix.parse(workload).first, dropped, _dropped(prepared, dropped))
            for workload, dropped in cases_of(arguments.cases)
        ]
        rows = [
            _judged(shaped, prepared, case, threads, arguments)
            for threads in arguments.threads
            for case in cases
        ]
    result = {
        "parameters": SHAPES[arguments.shape].parameters,
        "number_format": NUMBER_FORMAT,
        "rounds": arguments.rounds,
        "hardware": hardware(prepared.device, max(arguments.threads)),
        "torch": torch.__version__,
        "datasheet_name": arguments.datasheet,
        "datasheet": arguments.datasheet and KNOWN[arguments.datasheet].source,
        "rows": rows,
    }
    write_whole(arguments.output, result)


def cases_of(workloads: Sequence[str] | None) -> Sequence[tuple[str, float]]:
    """Return the usual workloads, each with the share of layers that is gone, or those named."""
    return CASES if workloads is None else [(workload, 0.0) for workload in workloads]


def _dropped(prepared: Prepared, share: float) -> tuple[Choice, ...]:
    """Return the model with the layers in its middle gone."""
    sites = prepared.space.sites
    layers = prepared.architecture.n_layers
    first = round(layers * (1 - share) / 2)
    gone = range(first, first + round(layers * share))
    return tuple(Choice(0 if s.layer in gone else s.units, s.units) for s in sites)


def _judged(
    shaped: ShapedModel,
    prepared: Prepared,
    case: Case,
    threads: int,
    arguments: argparse.Namespace,
) -> dict[str, object]:
    """Predict and measure a case in turn, and compare."""
    torch.set_num_threads(threads)
    shaped.apply(case.choices)
    workload, shape = case.workload, prepared.architecture
    # Half-way through the generated tokens, as the roofline reckons a further one.
    prompt = make_prompt(shaped.model, workload)
    longer = make_prompt(shaped.model, workload, (workload.generated - STEPS) // 2)
    run(shaped.model, prompt, 2)
    probes, predicted, measured = [], [], []

    def told_by(on: Hardware) -> Spent:
        mix = Mix(((1.0, workload),))
        model = Roofline(on, mix, NUMBER_FORMAT, shape.vocabulary, shape.hidden)
        return model.spent(prepared.space, case.choices, workload)

    for _ in range(arguments.rounds):
        here = probe(prepared.device, NUMBER_FORMAT, "this machine")
        predicted.append(told_by(here))
        prefill = run(shaped.model, prompt, 1).prefill
        measured.append((prefill, run(shaped.model, longer, STEPS).decode))
        probes.append(
            (here.bandwidth, here.flops[NUMBER_FORMAT], _read_bandwidth(prepared.device))
        )
    decode = [p.decode / m[1] for p, m in zip(predicted, measured, strict=True)]
    prefill_ratios = [p.prefill / m[0] for p, m in zip(predicted, measured, strict=True)]
    bandwidth, rate, reading = (statistics.median(own) for own in zip(*probes, strict=True))
    row: dict[str, object] = {
        "workload": str(workload),
        "dropped": case.dropped,
        "threads": threads,
        "bandwidth": bandwidth,
        "read_bandwidth": reading,
        "flops": rate,
        "decode_ms": statistics.median(m[1] for m in measured),
        "prefill_ms": statistics.median(m[0] for m in measured),
        "decode_predicted_to_measured": _spread(decode),
        "prefill_predicted_to_measured": _spread(prefill_ratios),
    }
    if arguments.datasheet is not None:
        promised = told_by(KNOWN[arguments.datasheet])
        row["datasheet_decode_ms"] = promised.decode
        row["datasheet_prefill_ms"] = promised.prefill
    if prepared.device.type == "cuda":
        row["prefill_kernels_ms"] = _kernels_ms(shaped, prompt, 1)
        steps = _kernels_ms(shaped, longer, STEPS) - _kernels_ms(shaped, longer, 1)
        row["decode_kernels_ms"] = steps / (STEPS - 1)
    print(row, flush=True)
    return row


def _spread(ratios: Sequence[float]) -> list[float]:
    """Return the median, the least and the most."""
    return [statistics.median(ratios), min(ratios), max(ratios)]


def _kernels_ms(shaped: ShapedModel, prompt: torch.Tensor, n_tokens: int) -> float:
    """Return the milliseconds that a GPU works while tokens are generated."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run(shaped.model, prompt, n_tokens)
    return float(sum(event.self_device_time_total for event in profile.key_averages())) / 1e3


def _read_bandwidth(device: torch.device) -> float:
    """Return the bytes a second of reading memory and doing next to nothing with it."""
    size = 2**25 if device.type == "cpu" else 2**29
    numbers = torch.zeros(size, dtype=torch.int64, device=device)
    taken = []
    for _ in range(6):
        started = time.perf_counter()
        int(numbers.max())
        taken.append(time.perf_counter() - started)
    return numbers.nbytes / statistics.median(taken[1:])


if __name__ == "__main__":
    main()
