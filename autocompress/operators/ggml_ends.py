"""Token embedding and output head in GGUF's types, rounded by llama.cpp's own quantizer."""

from transformers import PreTrainedModel

from autocompress.models.ends import EndWeights, dense_ends
from autocompress.operators.ggml_blocks import quantize
from autocompress.operators.packed import PackedWeight
from autocompress.spaces.settings import WeightSetting


def packed_ends(model: PreTrainedModel, kind: str) -> dict[str, PackedWeight]:
    """Return a model's dense ends in one of GGUF's types, by their names in a checkpoint.

    All numbers of a row weigh alike: an embedding is looked up, and no input says which of them
    count.

    Raises:
        EngineError: If the packages of the extra `llama-cpp` lack.
    """
    setting = WeightSetting(block=kind)
    found = {}
    for name, weight in dense_ends(model).items():
        rows, columns = weight.shape
        found[name] = PackedWeight(setting, (rows, columns), {"blocks": quantize(weight, kind)})
    return found


def stored_ends(model: PreTrainedModel, kind: str | None) -> EndWeights | None:
    """Return what candidates compute with whose ends are stored in a type; None for dense ones."""
    if kind is None:
        return None
    packed = packed_ends(model, kind)
    return {name: own.decode(model.dtype) for name, own in packed.items()}
