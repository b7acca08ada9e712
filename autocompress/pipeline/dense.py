"""Measures the untouched model."""

import copy

from transformers import PreTrainedModel

from autocompress.models import loading
from autocompress.models.ends import HEAD, ties_ends
from autocompress.models.surgery import ShapedModel
from autocompress.pipeline.deployment import report_text
from autocompress.pipeline.prepared import Prepared
from autocompress.pipeline.targets import DenseSize
from autocompress.training.reading import logits_of, read
from autocompress.trial import Measurement


def measure_dense(shaped: ShapedModel) -> DenseSize:
    """Return the size of the untouched model; leaves it dense."""
    shaped.apply_dense()
    tied = ties_ends(shaped.model)
    tensors = [
        tensor for name, tensor in shaped.model.state_dict().items() if not (tied and name == HEAD)
    ]
    return DenseSize(
        parameters=sum(tensor.numel() for tensor in tensors),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        number_bits=8 * shaped.model.dtype.itemsize,
        linear_weights=sum(g.weights for site in shaped.space.sites for g in site.groups),
    )


def read_dense(prepared: Prepared, shaped: ShapedModel, n: int) -> Measurement:
    """Return what the untouched model makes of the report text; leaves it dense.

    Args:
        n: Sequences that candidates were measured on.
    """
    shaped.apply_dense()
    predict = logits_of(in_fast_copy(shaped.model, prepared.spec.dtype), is_fast=False)
    return read(predict, None, report_text(prepared, n), prepared.spec.teacher_tokens)


def in_fast_copy(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    """Return a model that computes in fast numbers: itself, or where it has others a copy."""
    is_slow = loading.is_slow(model)
    return loading.in_fast_numbers(copy.deepcopy(model), dtype) if is_slow else model
