"""Layers that torch compiles while they are timed: compiled where it can be, in seconds."""

import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from autocompress.errors import SpecError
from autocompress.evaluators.compiled_layers import check_compiler, compiled_layers, has_compiler
from autocompress.evaluators.shaped_stopwatch import ShapedStopwatch
from autocompress.evaluators.subprocess_call import nobody
from autocompress.evaluators.torch_engine import TorchEngine
from autocompress.models.loading import load_model
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import SiteKind
from autocompress.workload import Mix
from tests.tiny_models import (
    CPU,
    PlainSlices,
    dense_choices,
    logits_of,
    tiny_space,
    token_ids,
    with_changes,
)

WORKLOAD = Mix.parse("1x8+4").first
# torch's own, on import
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
needs_compiler = pytest.mark.skipif(
    not has_compiler(torch.device("cpu")), reason="there is no g++ to compile with"
)


@needs_compiler
@pytest.mark.slow
def test_compiled_layers_say_what_eager_ones_do_and_are_gone_afterwards(tiny_llama: Path) -> None:
    model, ids = load_model(tiny_llama, CPU), token_ids(2, 8)
    eager = logits_of(model, ids)
    counters.clear()

    with compiled_layers(model):
        compiled = logits_of(model, ids)
    graphs = counters["stats"]["unique_graphs"]
    again = logits_of(model, ids)

    assert torch.allclose(compiled, eager, atol=1e-4)
    assert torch.equal(again, eager)
    # Without a KV cache all layers are one to the compiler: they are of one shape.
    assert graphs == 1
    assert counters["stats"]["unique_graphs"] == graphs


@needs_compiler
@pytest.mark.slow
def test_each_shape_of_a_layer_is_compiled_once_for_all_rounds(tiny_llama: Path) -> None:
    model = load_model(tiny_llama, CPU)
    space = tiny_space()
    shaped = ShapedModel(model, space, PlainSlices(model))
    n_layers = len(model.model.layers)
    half = {(layer, SiteKind.MLP): 16 for layer in range(n_layers)}
    plans = [dense_choices(space), with_changes(space, half)]
    counters.clear()

    ratios = ShapedStopwatch(shaped, WORKLOAD, compiled=True).ratios(plans, 3, 0, nobody)

    assert [len(own) for own in ratios.pairs] == [3, 3]
    assert all(spent.decode > 0 for own in ratios.pairs for spent in own)
    # Of two shapes the prefill and a step each.
    assert counters["stats"]["unique_graphs"] == 4 * n_layers


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_checkpoint_is_timed_compiled_in_a_process_of_its_own(tiny_llama: Path) -> None:
    engine = TorchEngine("cpu", "float32", 1, compiled=True)

    first, second = engine.latency([tiny_llama, tiny_llama], WORKLOAD, 3)

    assert engine.name == "torch-compiled"
    assert len(first.total) == len(second.total) == 3
    # Nothing compiles while it is timed: that takes seconds.
    assert max(first.total + second.total) < 1000


@pytest.mark.parametrize(
    ("device", "variable", "usual"), [("cpu", "CXX", "g\\+\\+"), ("cuda", "CC", "gcc or clang")]
)
def test_a_device_without_its_compiler_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, variable: str, usual: str
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(variable, raising=False)

    with pytest.raises(
        SpecError, match=f"compiles with {usual}, or with the command that {variable} names"
    ):
        check_compiler(torch.device(device))
    monkeypatch.setenv(variable, sys.executable)
    check_compiler(torch.device(device))
