"""Trains few numbers beside each linear layer, not all: LoRA (arXiv:2106.09685), by peft."""

import importlib.util
import warnings
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from autocompress.errors import SpecError

if TYPE_CHECKING:
    from peft import PeftModel

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def check_package() -> None:
    """Make sure that peft is there.

    Raises:
        SpecError: If it is not.
    """
    if importlib.util.find_spec("peft") is None:
        raise SpecError(
            "recovery_rank: LoRA needs peft: run `pip install 'autocompress[recovery]'`."
        )


def adapt(student: PreTrainedModel, rank: int, seed: int) -> "PeftModel":
    """Put adapters beside the linear layers of a model, in place; they alone are trained.

    Args:
        rank: Of the product that is added to each weight, which is nothing at first.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(LINEARS))
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft asks transformers by a name that is to go.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        torch.manual_seed(seed)
        return cast("PeftModel", get_peft_model(student, config))


def merge(adapted: "PeftModel") -> nn.Module:
    """Add what was trained to the weights; return the model without adapters."""
    return cast(nn.Module, adapted.merge_and_unload())
