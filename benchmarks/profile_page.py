"""The part of docs/measured.md, and its figures, that show what each engine's profile says.

    autocompress profile examples/reference-model --output benchmarks/results/profile-torch.json
    autocompress profile examples/reference-model --engine llama.cpp \
        --output benchmarks/results/profile-llama-cpp.json

vLLM's and compiled torch's are what searches for them measured, beside other work on the machine;
alone they would be

    autocompress profile examples/reference-model --engine torch-compiled --space depth,width \
        --output benchmarks/results/profile-torch-compiled.json
    autocompress profile examples/reference-model --engine vllm --space depth \
        --workload decode --output benchmarks/results/profile-vllm.json
"""

import json
from pathlib import Path

from autocompress.evaluators.stored_latency import read_tables
from autocompress.export.figures import write_png
from autocompress.export.profile_figure import profile_figure
from autocompress.models.architecture import shape_of
from autocompress.models.loading import load_architecture
from autocompress.pipeline.shapes import space_of
from autocompress.spec import from_mapping
from benchmarks.laboratory import MODEL, ROOT

RESULTS = ROOT / "benchmarks" / "results"
PROFILES = {
    "torch": ("profile-torch", "auto"),
    "torch-compiled": ("profile-torch-compiled", "depth,width"),
    "llama.cpp": ("profile-llama-cpp", "bits"),
    "vllm": ("profile-vllm", "depth"),
}
"""For each engine the file of its profile, and the space that it is of."""
BY_SEARCHES = ("torch-compiled", "vllm")


def sections(docs: Path) -> list[str]:
    """Return a section for each engine whose profile there is; draw its figure."""
    return [
        _section(engine, name, space, docs)
        for engine, (name, space) in PROFILES.items()
        if (RESULTS / f"{name}.json").is_file()
    ]


def _section(engine: str, name: str, of: str, docs: Path) -> str:
    values = {"model": str(MODEL), "target_speedup": 2, "engine": engine, "space": of}
    architecture = load_architecture(MODEL)
    space = space_of(from_mapping(values), shape_of(architecture))
    stored = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    tables = read_tables(stored, space)
    check = tables.check(space)
    write_png(profile_figure(tables, check, space), docs / f"{name}.png")
    flag = "" if engine == "torch" else f"--engine {engine} --space {of} "
    command = (
        f"`autocompress profile examples/reference-model {flag}"
        f"--output benchmarks/results/{name}.json`"
    )
    if engine in BY_SEARCHES:
        command = f"Measured by a search for {engine}, beside other work on the machine."
    return (
        f"## What choices cost on {engine}\n\n{command}\n\n"
        f"The reference model with {tables.engine} on {tables.hardware}, {tables.mix}. Of "
        f"{len(check.points)} whole configurations that were held out the mean error is "
        f"{check.mape:.1%}, measuring one twice differs by {check.repeat_error:.1%} (median), the "
        f"rank correlation is {check.rank_correlation:.3f}.\n\n"
        f"![Milliseconds of a site by what is kept of it, and predicted against measured]"
        f"({name}.png)"
    )
