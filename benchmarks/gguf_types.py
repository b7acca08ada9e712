"""Holds the reference model in each of GGUF's types against its f16 file, through llama.cpp.

    python -m benchmarks.gguf_types --output benchmarks/results/gguf-types.json

All linear layers of all layers take one type by llama.cpp's own quantizer, without an importance
matrix; embedding and norms stay. Loss and speed are those that `autocompress evaluate` prints: the
file's own, through the engine. Widths in bits are recomputed from the file.
"""

import argparse
import tempfile
from pathlib import Path

from safetensors import safe_open

from autocompress.cli.observers import Lines
from autocompress.evaluators.llama_cpp_engine import LlamaCppEngine
from autocompress.export.gguf_file import read_gguf, write_gguf
from autocompress.export.report_json import to_plain
from autocompress.operators.ggml_blocks import KINDS, fits
from autocompress.pipeline.evaluating import Asked, evaluate
from autocompress.spec import Workload
from benchmarks.contest import write_whole
from benchmarks.laboratory import MODEL

SEQUENCES = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--workload", type=Workload.parse, default=Workload())
    arguments = parser.parse_args()
    shapes = linear_shapes(MODEL)
    weights = sum(rows * columns for rows, columns in shapes.values())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "f16.gguf"
        write_gguf(MODEL, dense)
        whole = read_gguf(dense).bytes
        for kind in KINDS:
            if not all(fits(kind, columns) for _, columns in shapes.values()):
                continue
            file = Path(folder) / f"{kind}.gguf"
            write_gguf(MODEL, file, dict.fromkeys(shapes, kind))
            found = evaluate(asked(file, dense, arguments.workload), Lines(as_json=False))
            saved = 8 * (whole - read_gguf(file).bytes) / weights
            rows.append({"kind": kind, "bits": 16 - saved, **found.to_json()})
            engine = LlamaCppEngine()
            about = {"engine": f"{engine.name} {engine.version}"}
            write_whole(arguments.output, {**about, "rows": to_plain(rows)})
            file.unlink()


def asked(file: Path, dense: Path, workload: Workload) -> Asked:
    return Asked(
        path=str(file),
        against=str(dense),
        calibration=None,
        sequences=SEQUENCES,
        context=256,
        teacher_tokens=512,
        workload=workload,
        device="cpu",
        dtype="auto",
        seed=0,
        trust_remote_code=False,
    )


def linear_shapes(model: Path) -> dict[str, tuple[int, int]]:
    """Return the (rows, columns) of all linear layers of a checkpoint's layers, by name."""
    shapes = {}
    for shard in sorted(model.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # it is no mapping
                if name.endswith("_proj.weight"):
                    rows, columns = opened.get_slice(name).get_shape()
                    shapes[name] = (rows, columns)
    return shapes


if __name__ == "__main__":
    main()
