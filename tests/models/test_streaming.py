"""A streamed model against the same one held whole."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from autocompress.errors import EvaluationError, ModelError
from autocompress.evaluators.population import EvaluatorLimits, PopulationEvaluator
from autocompress.models.loading import load_model
from autocompress.models.streaming import Checkpoint
from autocompress.models.surgery import ShapedModel
from autocompress.operators.statistics import gather
from autocompress.spaces.base import SiteKind
from autocompress.trial import Fidelity, Genotype, Split
from tests.tiny_models import (
    CPU,
    LAYERS,
    VOCABULARY,
    PlainSlices,
    TinyModels,
    dense_choices,
    tiny_space,
    token_ids,
)

SPACE = tiny_space()
CONTEXT = 16
SEQUENCES = {split: token_ids(24, CONTEXT, 1).numpy().astype(np.int32) for split in Split}
READING = Fidelity(Split.SEARCH, 0, 0, 12)
# The residual streams of two candidates on one sequence, before and after a site.
FEW = EvaluatorLimits(VOCABULARY, states_bytes=2 * 2 * CONTEXT * 32 * 4, tokens_at_once=CONTEXT)


def site_bytes(folder: Path) -> list[int]:
    model = load_model(folder, CPU)
    shaped = ShapedModel(model, SPACE, PlainSlices(model))
    sizes = []
    for site in SPACE.sites:
        layer = shaped.layers[site.layer]
        attention = [layer.self_attn, layer.input_layernorm]
        mlp = [layer.mlp, layer.post_attention_layernorm]
        modules = attention if site.kind is SiteKind.ATTENTION else mlp
        parameters = [p for m in modules if isinstance(m, nn.Module) for p in m.parameters()]
        sizes.append(sum(p.numel() * p.element_size() for p in parameters))
    return sizes


def streamed(folder: Path, weights_bytes: int) -> ShapedModel:
    levels = PlainSlices(load_model(folder, CPU))
    model = load_model(folder, CPU, with_layers=False)
    return ShapedModel(model, SPACE, levels, streamed=(Checkpoint(folder), weights_bytes))


def held(folder: Path) -> ShapedModel:
    model = load_model(folder, CPU)
    return ShapedModel(model, SPACE, PlainSlices(model))


def dense_bytes(shaped: ShapedModel) -> int:
    """Return the bytes of the layers' parameters that are not on the meta device."""
    present = [p for p in shaped.model.model.layers.parameters() if p.device.type != "meta"]
    return sum(p.numel() * p.element_size() for p in present)


candidates = st.lists(
    st.tuples(*(st.integers(0, len(menu) - 1) for menu in SPACE.menus)).map(SPACE.genotype),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("shard_size", ["1GB", "40KB"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(population=candidates, share=st.floats(0, 1), few=st.booleans())
def test_losses_equal_those_of_the_held_model_to_the_bit(
    tiny_models: TinyModels,
    family: str,
    shard_size: str,
    population: list[Genotype],
    share: float,
    few: bool,
) -> None:
    folder = tiny_models.folder(family, shard_size=shard_size)
    sizes = site_bytes(folder)
    limit = int(max(sizes) + share * (sum(sizes) - max(sizes)))
    limits = FEW if few else EvaluatorLimits(VOCABULARY)

    def losses(shaped: ShapedModel) -> list[tuple[float, ...]]:
        evaluator = PopulationEvaluator(shaped, SEQUENCES, 4, limits)
        return [found.kl for found in evaluator.measure(population, READING)]

    assert losses(streamed(folder, limit)) == losses(held(folder))


@pytest.mark.parametrize("n_sites", [1, 2, 4])
def test_never_more_than_the_limit_is_on_the_device(tiny_models: TinyModels, n_sites: int) -> None:
    folder = tiny_models.folder()
    limit = n_sites * max(site_bytes(folder))
    shaped = streamed(folder, limit)
    most = []

    for _ in range(2):
        for index, choice in enumerate(dense_choices(SPACE)):
            shaped.set(index, choice)
            most.append(dense_bytes(shaped))

    assert max(most) <= limit
    assert max(most) > limit - 2 * max(site_bytes(folder))


def test_one_walk_brings_each_site_once_for_all_sequences_and_candidates(
    tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_models.folder()
    shaped = streamed(folder, max(site_bytes(folder)))
    evaluator = PopulationEvaluator(shaped, SEQUENCES, 4, EvaluatorLimits(tokens_at_once=CONTEXT))
    reads = counted(monkeypatch)
    population = [SPACE.genotype([i % len(menu) for menu in SPACE.menus]) for i in range(3)]

    evaluator.measure(population, READING)

    # Once for the dense model's predictions, once for the population.
    assert len(reads) == 2 * len(SPACE.sites)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    reads: list[int] = []
    read: Callable[..., dict[str, torch.Tensor]] = Checkpoint.read

    def counting(self: Checkpoint, names: list[str], *rest: object) -> dict[str, torch.Tensor]:
        reads.append(len(names))
        return read(self, names, *rest)

    monkeypatch.setattr(Checkpoint, "read", counting)
    return reads


def test_statistics_equal_those_of_the_held_model(tiny_models: TinyModels, family: str) -> None:
    folder = tiny_models.folder(family)
    ids = token_ids(6, 10)

    found = dict(gather(streamed(folder, max(site_bytes(folder))), range(2 * LAYERS), ids))

    for site, statistics in gather(held(folder), range(2 * LAYERS), ids):
        assert torch.equal(found[site].output.hessian, statistics.output.hessian)


def test_a_limit_below_the_largest_site_is_refused(tiny_models: TinyModels) -> None:
    folder = tiny_models.folder()
    largest = max(site_bytes(folder))

    with pytest.raises(ModelError, match=rf"`weights_bytes >= {largest}` must hold, the largest"):
        streamed(folder, largest - 1)


def test_a_checkpoint_without_a_layers_tensor_is_refused(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    folder = tiny_models.folder()
    model = load_model(folder, CPU, with_layers=False)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors")

    with pytest.raises(ModelError, match=r"it has no tensor model\.layers\.1\.mlp\.up_proj"):
        ShapedModel(model, SPACE, slices_of(folder), streamed=(Checkpoint(tmp_path), 2**30))


def slices_of(folder: Path) -> PlainSlices:
    return PlainSlices(load_model(folder, CPU))


def test_a_file_that_goes_away_in_mid_search_is_one_line(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    folder = tiny_models.folder()
    file = tmp_path / "model.safetensors"
    file.write_bytes((folder / "model.safetensors").read_bytes())
    model = load_model(folder, CPU, with_layers=False)
    checkpoint = Checkpoint(tmp_path)
    shaped = ShapedModel(model, SPACE, slices_of(folder), streamed=(checkpoint, 2**30))
    file.unlink()

    with pytest.raises(EvaluationError, match="Cannot read weights from"):
        shaped.set(0, dense_choices(SPACE)[0])
