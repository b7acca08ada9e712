"""Holds checkpoints in compressed-tensors, as stock transformers loads them, against the searched.

    python -m benchmarks.stock_perplexity --output benchmarks/results/stock-perplexity.json

Candidates of the reference model are written with `--format compressed-tensors`, loaded by
`AutoModelForCausalLM` without any code of ours, and read report text; so does the model as a
search has it. Both are brought to float32 once their weights are what they are.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from autocompress.export.compressed_checkpoint import write_compressed_checkpoint
from autocompress.models import loading
from autocompress.models.surgery import ShapedModel
from autocompress.models.text import draw_order
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.spec import from_mapping
from autocompress.trial import Genotype, Split
from benchmarks.contest import write_whole
from benchmarks.laboratory import MODEL, workers

AT_ONCE = 8
DROPPED = (3, 8)
CASES = {
    "all of 8 bits": ("w8g128sym", False),
    "all of 4 bits": ("w4g128sym", False),
    "8 and 4 bits in turn, two layers dropped": ("", True),
}

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=64)
    arguments = parser.parse_args()
    values = {"model": str(MODEL), "format": "compressed-tensors", "target_bits": 5}
    prepared = prepare(from_mapping(values | {"space": "depth,bits"}))
    with workers(prepared):
        pass  # All levels are built now.
    rows = []
    for name, (setting, drops) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "model"
            winner = genotype(prepared, setting, drops=drops)
            found = compared(prepared, winner, place, arguments.sequences)
        rows.append({"candidate": name, **found})
        print(json.dumps(rows[-1]), flush=True)
    write_whole(arguments.output, {"sequences": arguments.sequences, "rows": rows})


def genotype(prepared: Prepared, setting: str, *, drops: bool) -> Genotype:
    """Return a candidate with one setting everywhere, or both of them in turn."""
    levels = []
    for bundle in prepared.space.bundles:
        own = [int(drops and bundle.layer in DROPPED)]
        for index, gene in enumerate(bundle.genes[1:]):
            names = list(map(str, gene.settings))
            own.append(names.index(setting) if setting else 1 + (bundle.layer + index) % 2)
        levels += own
    return prepared.space.canonical(Genotype(tuple(levels)))


def compared(prepared: Prepared, winner: Genotype, place: Path, n: int) -> Row:
    """Write a candidate and read text with it as loaded and as searched."""
    plan = prepared.session_plan(loading.fingerprint(prepared.folder))
    levels = plan.open_levels()
    model = loading.load_model(prepared.folder, prepared.device, "auto")
    shaped = ShapedModel(model, prepared.space, levels)
    shaped.apply(prepared.space.choices(winner))
    write_compressed_checkpoint(shaped, prepared.folder, place, levels)
    rows = prepared.sequences[Split.REPORT]
    ids = torch.from_numpy(rows[draw_order(len(rows), Split.REPORT, 0, 0)[:n]]).long()
    stock = AutoModelForCausalLM.from_pretrained(place, dtype="auto")
    with torch.no_grad():
        stock(ids[:1, :2])  # It decodes all weights when it is first run.
    # transformers refuses to convert what was quantized, though all of it is decoded by now.
    torch.nn.Module.float(stock)
    loaded, searched = perplexity(stock, ids), perplexity(model.float(), ids)
    return {"searched": searched, "loaded": loaded, "ratio": loaded / searched}


@torch.inference_mode()
def perplexity(model: PreTrainedModel, ids: Tensor) -> float:
    """Return the perplexity of (sequences, T) token ids."""
    losses = [float(_loss(model, batch)) for batch in ids.split(AT_ONCE)]
    sizes: Sequence[int] = [len(batch) for batch in ids.split(AT_ONCE)]
    mean = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / len(ids)
    return math.exp(mean)


def _loss(model: PreTrainedModel, ids: Tensor) -> Tensor:
    logits = model(ids, use_cache=False).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


if __name__ == "__main__":
    main()
