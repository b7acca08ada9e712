"""Holds weight operators against their baselines, and six bit-widths against the time of one.

    python -m benchmarks.operators --output operators.json

Layers are random ones with correlated inputs, and all linear groups of the reference model with
the inputs that its sample text gives them. An error is tr(Δ H Δᵀ) over the calibration inputs.
"""

import argparse
import dataclasses
import functools
import json
import statistics as numbers
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from autocompress.models.sample_text import module_files
from autocompress.operators.base import Statistics, WeightOperator
from autocompress.operators.gptq import Gptq
from autocompress.operators.pruning import Magnitude, Wanda
from autocompress.operators.round_to_nearest import RoundToNearest
from autocompress.operators.sparse_gpt import SparseGpt
from autocompress.pipeline.prepared import prepare
from autocompress.spaces.settings import INTEGER_BITS, WeightSetting, fitting_group_size
from autocompress.spec import from_mapping
from autocompress.spec_rules import BITS
from autocompress.workers.base import BuildJob
from autocompress.workers.session import ModelSession

MODEL = Path(__file__).parent.parent / "examples" / "reference-model"
SHAPES = ((512, 256), (1536, 256), (256, 768), (2048, 2048))
RANDOM_SHAPES = ((128, 128), (256, 256), (128, 512), (384, 128))
# Linear layers that read the same inputs, and that engines store in one setting.
GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
INTEGERS = ("w2", "w3", "w4", "w8")
SPARSE = ("s0.5", "s0.7", "s2:4", "s0.5+w4")
Layer = tuple[Tensor, Statistics]
Pair = tuple[str, WeightOperator, WeightOperator, tuple[str, ...]]
PAIRS: tuple[Pair, ...] = (
    ("gptq to round-to-nearest", Gptq(), RoundToNearest(), INTEGERS),
    ("sparsegpt to magnitude", SparseGpt(), Magnitude(), SPARSE),
    ("wanda to magnitude", Wanda(), Magnitude(), SPARSE),
)


def random_layer(rows: int, columns: int, seed: int) -> Layer:
    """Return a Gaussian weight, and inputs mixed from as many independent ones."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(columns) + torch.randn(columns, columns, generator=generator) / columns**0.5
    x = torch.randn(4 * columns, columns, generator=generator) @ mixing
    weight = 0.05 * torch.randn(rows, columns, generator=generator)
    return weight, Statistics(x.T @ x / len(x))


def random_layers(n: int) -> Iterator[Layer]:
    for seed in range(n):
        yield random_layer(*RANDOM_SHAPES[seed % len(RANDOM_SHAPES)], seed)


@torch.inference_mode()
def model_layers(sequences: int, context: int) -> Iterator[Layer]:
    """Yield every fused linear group of the reference model."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    text = "".join(file.read_text("utf-8") for file in module_files(("heapq", "textwrap")))
    ids = tokenizer(text, return_tensors="pt").input_ids[0, : sequences * context]
    sums: dict[nn.Module, Tensor] = {}

    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten(0, -2)
        sums[module] = sums.get(module, torch.zeros(())) + x.T @ x

    groups = [
        [layer.get_submodule(name) for name in names]
        for layer in model.model.layers
        for names in GROUPS
    ]
    for first, *_ in groups:
        first.register_forward_pre_hook(add)
    model.model(ids.view(-1, context), use_cache=False)
    for group in groups:
        weight = torch.cat([module.get_parameter("weight") for module in group])
        yield weight, Statistics(sums[group[0]] / len(ids))


def fitted(text: str, columns: int) -> WeightSetting:
    """Return a setting with the largest group size that fits, where it has bits."""
    setting = WeightSetting.parse(text)
    size = fitting_group_size(columns)
    return WeightSetting.parse(f"{text}g{size}") if setting.bits and size else setting


def error(found: Tensor, layer: Layer) -> float:
    difference = found.double() - layer[0].double()
    return float(((difference @ layer[1].hessian.double()) * difference).sum())


def compare(layers: Sequence[Layer], pair: Pair) -> dict[str, object]:
    """Return of how many layers the first operator loses less, and the ratios of errors."""
    _, better, baseline, texts = pair
    found: dict[str, list[float]] = {text: [] for text in texts}
    for layer in layers:
        weight, statistics = layer
        settings = {text: fitted(text, weight.shape[1]) for text in texts}
        ours = better.build(weight, statistics, list(settings.values()))
        theirs = baseline.build(weight, statistics, list(settings.values()))
        for text, setting in settings.items():
            own, other = (
                error(built[setting].decode(torch.float32), layer) for built in (ours, theirs)
            )
            found[text].append(own / other)
    return {
        text: {
            "layers": len(ratios),
            "share_below": sum(ratio < 1 for ratio in ratios) / len(ratios),
            "median_ratio": numbers.median(ratios),
            "worst_ratio": max(ratios),
        }
        for text, ratios in found.items()
    }


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def six_to_one(rows: int, columns: int, repeats: int) -> dict[str, float]:
    """Return the medians of building one and six bit-widths, taken in turn."""
    weight, statistics = random_layer(rows, columns, 0)
    widths = [WeightSetting(bits=bits, group_size=128) for bits in INTEGER_BITS]
    one = [WeightSetting(bits=4, group_size=128)]
    operator = Gptq()
    operator.build(weight, statistics, one)
    times = [
        (
            seconds(lambda: operator.build(weight, statistics, one)),
            seconds(lambda: operator.build(weight, statistics, widths)),
        )
        for _ in range(repeats)
    ]
    first, all_ = (numbers.median(column) for column in zip(*times, strict=True))
    return {"one_seconds": first, "six_seconds": all_, "ratio": all_ / first}


def six_to_one_layers() -> dict[str, float]:
    """Return the medians over the reference model's layers, built as a worker builds them.

    Calibration, the Hessians, what is read and checked first and the files are in them.
    """
    with tempfile.TemporaryDirectory() as folder:
        one, six = (_session(names, Path(folder) / names[-1]) for names in (("4",), BITS))
        times = [
            tuple(seconds(functools.partial(own.build, BuildJob((layer,)))) for own in (one, six))
            for layer in range(12)
        ]
    first, all_ = (numbers.median(column) for column in zip(*times, strict=True))
    return {"one_seconds": first, "six_seconds": all_, "ratio": all_ / first}


def _session(bits: Sequence[str], folder: Path) -> ModelSession:
    values = {"model": str(MODEL), "target_bits": 3, "space": ["bits"], "bits": list(bits)}
    prepared = prepare(from_mapping(values))
    return ModelSession(dataclasses.replace(prepared.session_plan(""), levels=folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=100, help="random layers")
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=25)
    arguments = parser.parse_args()

    timings = {f"{r}x{c}": six_to_one(r, c, arguments.repeats) for r, c in SHAPES}
    timings["a layer of the reference model"] = six_to_one_layers()
    sources = {
        "random": list(random_layers(arguments.layers)),
        "reference-model": list(model_layers(arguments.sequences, arguments.context)),
    }
    errors = {
        source: {pair[0]: compare(layers, pair) for pair in PAIRS}
        for source, layers in sources.items()
    }
    results = {"threads": torch.get_num_threads(), "six_to_one": timings, "errors": errors}
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
