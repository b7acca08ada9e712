"""Measures the untouched model."""

from autocompress.models.surgery import ShapedModel
from autocompress.pipeline.targets import DenseSize


def measure_dense(shaped: ShapedModel) -> DenseSize:
    """Return the size of the untouched model; leaves it dense."""
    shaped.apply_dense()
    tied = shaped.model.config.tie_word_embeddings
    tensors = [
        tensor
        for name, tensor in shaped.model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    ]
    return DenseSize(
        parameters=sum(tensor.numel() for tensor in tensors),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        number_bits=8 * shaped.model.dtype.itemsize,
        linear_weights=sum(g.weights for site in shaped.space.sites for g in site.groups),
    )
