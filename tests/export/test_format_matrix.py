"""Every format with every space: the gate passes what was written, or it is refused up front.

`docs/formats.md` is what these tests find; AUTOCOMPRESS_WRITE_DOCS=1 has them write it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from transformers import GemmaConfig, GPT2Config, OPTConfig, Phi3Config, PreTrainedConfig

from autocompress.errors import ExportError, ModelError, SpecError
from autocompress.export import gate, gguf_gate
from autocompress.export.checkpoint import (
    Artifact,
    file_digests,
    layers_left,
    write_checkpoint,
)
from autocompress.export.compressed_checkpoint import write_compressed_checkpoint
from autocompress.export.decilm import check_family
from autocompress.export.gguf_file import read_gguf, write_gguf
from autocompress.export.packing import packed_layers
from autocompress.models.architecture import read_architecture, shape_of
from autocompress.models.loading import load_config, load_model
from autocompress.models.surgery import ShapedModel
from autocompress.operators.levels import Levels
from autocompress.pipeline.shapes import space_of
from autocompress.spaces.base import SUB_BLOCKS, SearchSpace
from autocompress.spec import SearchSpec, from_mapping
from autocompress.spec_rules import COMPRESSED
from autocompress.trial import Genotype
from tests.built_levels import build_levels, open_levels
from tests.gguf_files import need_llama_cpp
from tests.tiny_models import CPU, make_config, token_ids, write_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore"),
]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "formats.md"
REFERENCE_MODEL = ROOT / "examples" / "reference-model"
PROMPT = token_ids(1, 12)
FORMATS: Mapping[str, Mapping[str, object]] = {
    "hf": {},
    "compressed-tensors": {"format": "compressed-tensors"},
    "decilm": {"format": "decilm"},
    "gguf": {"engine": "llama.cpp"},
}
SPACES: Mapping[str, Mapping[str, object]] = {
    "sub-blocks dropped": {"space": "depth"},
    "whole layers dropped": {"space": "depth", "whole_layers": True},
    "widths": {"space": "width"},
    "bits": {"space": "bits"},
    "whole layers and bits": {"space": "depth,bits", "whole_layers": True},
    "sub-blocks, widths and bits": {"space": "depth,width,bits"},
    "sparsity": {"space": "sparsity"},
    "bits of KV caches": {"space": "kv", "strategy": "given", "start": "recipe.yaml"},
}
INSTEAD = "whole layers instead"
PASSED = "passed"
OTHERS: Mapping[str, PreTrainedConfig] = {
    "gemma": GemmaConfig(),
    "phi3": Phi3Config(),
    "opt": OPTConfig(),
    "gpt2": GPT2Config(),
}
HEAD = """# Formats

What each format holds, found by `tests/export/test_format_matrix.py` on freshly initialised tiny
models and on the reference model: a candidate of each space was written, opened by transformers or
llama.cpp, held by the gate against the searched candidate's logits, and answered a prompt
(`passed`); or the format refuses the space before any work, with a reason. Where a format cannot
hold dropped sub-blocks it drops whole layers instead.

`gptq` holds what compressed-tensors does, but block formats and 3, 5 and 6 bits; transformers
opens it with other packages alone. It, compressed-tensors and decilm are read by vLLM itself in
`tests/export/test_vllm_reads.py`, where it is installed.

Token embedding and output head stay in the model's number format, in gguf in f16 or in the type
that `--embeddings` names, found by `tests/pipeline/test_stored_ends.py`.

| model | space | hf | compressed-tensors | decilm | gguf |
|---|---|---|---|---|---|
"""


def spec_for(space: Mapping[str, object], form: Mapping[str, object]) -> SearchSpec:
    return from_mapping({"model": "m", "target_bytes": "50%", **space, **form})


def candidate(space: SearchSpace) -> Genotype:
    """Return one that does something everywhere: the second bundle goes if it can."""
    entries = [
        len(menu) - 1 if index == 1 else (len(menu) - menu[-1].is_dropped) // 2
        for index, menu in enumerate(space.menus)
    ]
    return space.genotype(entries)


def write(
    spec: SearchSpec, shaped: ShapedModel, levels: Levels, source: Path, to: Path
) -> Artifact:
    if spec.format == "hf":
        return write_checkpoint(shaped, source, to, levels)
    if spec.format in COMPRESSED:
        as_decilm = spec.format == "decilm"
        return write_compressed_checkpoint(shaped, source, to, levels, as_decilm=as_decilm)
    to.mkdir(parents=True)
    packed = {
        f"model.layers.{layer}.{name}.weight": weight
        for layer, own in packed_layers(shaped.space, shaped.choices, levels).items()
        for name, weight in own.items()
    }
    write_gguf(source, to / "model.gguf", packed, layers_left(shaped.space, shaped.choices))
    stored = read_gguf(to / "model.gguf")
    sizes = (stored.numbers, stored.bytes, stored.linear_bytes)
    return Artifact(to, *sizes, False, "model.gguf", file_digests(to))


def cell(source: Path, space: str, form: str, scratch: Path) -> str:
    """Return what comes of a space in a format."""
    try:
        spec = spec_for(SPACES[space], FORMATS[form])
        if spec.format == "decilm":
            check_family(load_config(source))
    except (SpecError, ExportError) as error:
        return str(error)
    if spec.whole_layers and not SPACES[space].get("whole_layers"):
        return INSTEAD
    model = load_model(source, CPU, "auto")
    architecture = read_architecture(model.config)
    made = space_of(spec, shape_of(architecture))
    folder = scratch / f"{space}-{form}"
    folder.mkdir(parents=True)
    levels = open_levels(folder / "levels")
    shaped = ShapedModel(model, made, levels)
    build_levels(shaped, levels, SUB_BLOCKS)
    shaped.apply(made.choices(candidate(made)))
    artifact = write(spec, shaped, levels, source, folder / "out")
    reference = gate.write_reference(shaped, PROMPT, folder)
    # In this process: a fresh one for each would take most of the time.
    if spec.format == "gguf":
        found = gguf_gate.examine(artifact.path, reference)
    else:
        found = gate.examine(artifact.folder, reference, CPU)
    same_bytes = found.tensor_bytes == artifact.tensor_bytes
    assert not gate.GateReport(found, same_bytes, spec.engine, "").failures
    return PASSED


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of models, by name."""
    root = tmp_path_factory.mktemp("models")
    for family in ("llama", "mistral", "qwen2", "qwen3"):
        config = make_config(family)
        config.intermediate_size = 64  # whole blocks of 32
        write_model(root / family, config)
    found = {path.name: path for path in sorted(root.iterdir())}
    return found | {"reference model": REFERENCE_MODEL}


def test_the_page_of_formats_is_what_is_found(sources: dict[str, Path], tmp_path: Path) -> None:
    need_llama_cpp()
    reasons: dict[str, int] = {}
    rows = []
    for name, source in sources.items():
        for space in SPACES:
            told = [cell(source, space, form, tmp_path / name) for form in FORMATS]
            cells = [
                own
                if own in (PASSED, INSTEAD)
                else f"refused ({reasons.setdefault(own, len(reasons) + 1)})"
                for own in told
            ]
            rows.append(f"| {name} | {space} | {' | '.join(cells)} |\n")
    for name, config in OTHERS.items():
        with pytest.raises(ModelError) as caught:
            read_architecture(config)
        number = reasons.setdefault(str(caught.value), len(reasons) + 1)
        rows.append(f"| {name} | any |{f' refused ({number}) |' * len(FORMATS)}\n")
    listed = [f"{number}. {reason}\n" for reason, number in reasons.items()]

    page = HEAD + "".join(rows) + "\nRefused, with these words:\n\n" + "".join(listed)

    if os.environ.get("AUTOCOMPRESS_WRITE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    assert page == PAGE.read_text(encoding="utf-8")
