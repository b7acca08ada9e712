"""Holds searched GGUF files against files of one type, at no more bytes, through llama.cpp.

    python -m benchmarks.gguf --output benchmarks/results/gguf.json

For each of GGUF's types: all linear layers in it, and a search that may store as many bytes as
that file. Both are built by the same quantizer with the same importance; embedding and head are
in f16. Losses are those of the files, read by llama.cpp, on text that no search has read; further
tokens are timed in turn. What the output holds of a type is not run again.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from autocompress.cli.observers import Lines
from autocompress.evaluators.llama_cpp_engine import LlamaCppEngine
from autocompress.evaluators.subprocess_call import nobody
from autocompress.evaluators.text_loss import Reading, measure_checkpoint
from autocompress.export.gguf_file import read_gguf
from autocompress.models import loading
from autocompress.models.surgery import ShapedModel
from autocompress.models.text import draw_order
from autocompress.pipeline.conclusion import paired_interval
from autocompress.pipeline.gguf_deployment import GgufDeployment
from autocompress.pipeline.intervals import mean_interval, process_interval
from autocompress.pipeline.latency import REPEATS, hardware
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.pipeline.study import start
from autocompress.spaces import sizes
from autocompress.spec import TIMING_PROCESSES, from_mapping
from autocompress.spec_rules import GGUF_TYPES
from autocompress.trial import Genotype, Measurement, Split
from autocompress.workload import Workload
from benchmarks.contest import write_whole
from benchmarks.laboratory import MODEL, workers

SEQUENCES = 256
F16_BITS = 16

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--types", nargs="+", default=list(GGUF_TYPES), choices=GGUF_TYPES)
    parser.add_argument("--max-tokens", type=int, default=300_000)
    arguments = parser.parse_args()
    rows: dict[str, Row] = {}
    if arguments.output.is_file():
        known = json.loads(arguments.output.read_text(encoding="utf-8"))["rows"]
        rows = {row["type"]: row for row in known}
    for name in arguments.types:
        if name not in rows:
            with tempfile.TemporaryDirectory() as folder:
                rows[name] = compared(name, arguments.max_tokens, Path(folder))
            print(json.dumps(rows[name]), flush=True)
        ordered = [rows[name] for name in GGUF_TYPES if name in rows]
        engine = LlamaCppEngine()
        about = {"engine": f"{engine.name} {engine.version}", "sequences": SEQUENCES}
        write_whole(arguments.output, {**about, "rows": ordered})


def compared(name: str, max_tokens: int, place: Path) -> Row:
    """Write the file of one type, search one of as many bytes, and measure both."""
    values = {"model": str(MODEL), "engine": "llama.cpp", "max_tokens": max_tokens}
    prepared = prepare(from_mapping(values | {"target_bytes": "50%"}))
    plan = prepared.session_plan(loading.fingerprint(prepared.folder))
    with workers(prepared):
        levels = plan.open_levels()
    model = loading.load_model(prepared.folder, prepared.device, "auto")
    shaped = ShapedModel(model, prepared.space, levels)
    deployment = GgufDeployment(prepared, shaped, levels, place)
    uniform = deployment.export(of_one_type(prepared, name)).path
    spec = from_mapping(values | {"target_bytes": str(read_gguf(uniform).bytes)})
    url = f"sqlite:///{place}/studies.db"
    report = start(spec, url, name, place / "out", Lines(as_json=False))
    ours = place / "out" / report.checkpoint
    recipe = yaml.safe_load((place / "out" / "recipe.yaml").read_text(encoding="utf-8"))
    winner = prepared.space.entries(Genotype(tuple(recipe["genotype"])))
    first, second = (measured(prepared, file, deployment.dense) for file in (uniform, ours))
    speed, threads = tokens_a_second([uniform, ours])
    linear = sum(group.weights for site in prepared.space.sites for group in site.groups)
    return {
        "type": name,
        "bytes": [read_gguf(file).bytes for file in (uniform, ours)],
        "bits": [8 * read_gguf(file).linear_bytes / linear for file in (uniform, ours)],
        "bits_of_recipe": 8 * sizes.linear_bytes(prepared.space, F16_BITS).of(winner) / linear,
        "kl": [first.loss, second.loss],
        "perplexity": [first.perplexity, second.perplexity],
        "kl_more": paired_interval(second, first),
        "nll_more": mean_interval(np.asarray(first.nll) - np.asarray(second.nll)),
        "tokens_a_second_ratio": speed,
        "search_tokens": report.search.tokens,
        "hardware": hardware(prepared.device, threads),
    }


def of_one_type(prepared: Prepared, name: str) -> Genotype:
    """Return the candidate whose linear layers are all in one type, which must fit them."""
    settings = (list(map(str, gene.settings)) for gene in prepared.space.genes)
    return Genotype(tuple(own.index(name) for own in settings))


def measured(prepared: Prepared, file: Path, dense: Path) -> Measurement:
    """Read report text with llama.cpp."""
    rows = prepared.sequences[Split.REPORT]
    some = rows[draw_order(len(rows), Split.REPORT, 0, 0)[:SEQUENCES]]
    how = Reading("cpu", "auto", prepared.spec.teacher_tokens, False)
    return measure_checkpoint(file, dense, some, how, nobody)[0]


def tokens_a_second(files: Sequence[Path]) -> tuple[list[float], int]:
    """Return how many times as many further tokens the second makes, with its 95 % interval."""
    runs = [LlamaCppEngine().latency(files, Workload(), REPEATS) for _ in range(TIMING_PROCESSES)]
    ratios = [np.asarray(first.decode) / np.asarray(second.decode) for first, second in runs]
    value, interval = process_interval(np.median(ratios, 1))
    return [value, *interval], runs[0][0].threads


if __name__ == "__main__":
    main()
