"""Reads a causal LM and its tokenizer from a folder or the hub, once, without a second copy."""

import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from accelerate.hooks import remove_hook_from_module
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from autocompress.errors import ModelError
from autocompress.models.architecture import Architecture, read_architecture
from autocompress.models.weight_files import WHOLE, weight_files

WANTED = ("*.json", "*.safetensors", "tokenizer*", "*.model", "*.txt", "*.jinja")
OTHERS = ("consolidated*", "original/*")
"""The same weights for other programs, as large again."""
CONFIGS = ("*.json",)
AROUND_LAYERS = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")


def resolve(model: str) -> Path:
    """Return the local folder of a model: the folder itself, or the hub's snapshot of that name.

    Raises:
        ModelError: If it is neither, or holds no config or no safetensors weights.
    """
    folder = _find(model, WANTED)
    files = weight_files(folder)
    if not files:
        raise ModelError(f"{model} holds no {WHOLE}, whole or in shards; pickles are refused.")
    _check_weights(files)
    return folder


def resolve_config(model: str) -> Path:
    """Return the local folder of a model's config; weights may lack and are not fetched.

    Raises:
        ModelError: If it is neither a folder nor a name on the hub, or holds no config.
    """
    return _find(model, CONFIGS)


def load_architecture(folder: Path, trust_remote_code: bool = False) -> Architecture:
    """Return the shape of the model in a folder without reading its weights."""
    return read_architecture(load_config(folder, trust_remote_code))


def load_config(folder: Path, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Return the config of the model in a folder.

    Raises:
        ModelError: If it cannot be read.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"Cannot read {folder}/config.json: {_one_line(error)}") from error
    return config


def load_model(
    folder: Path,
    device: torch.device,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    *,
    with_layers: bool = True,
) -> PreTrainedModel:
    """Load the weights onto the device, one tensor at a time, for inference only.

    Args:
        dtype: `auto` keeps the checkpoint's.
        with_layers: Without, the layers' parameters stay on the meta device, to be streamed.

    Raises:
        ModelError: If the weights are broken, incomplete or do not fit the config.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # It warns that the layers are on the meta device: where they shall be.
    logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)
    places: dict[str, torch.device | str] | None = None
    if not with_layers:
        places = dict.fromkeys(AROUND_LAYERS, device) | {"model.layers": "disk"}
    elif device.type != "cpu":
        places = {"": device}
    try:
        # Transformers wants a folder for offloaded tensors; safetensors are read where they are.
        with tempfile.TemporaryDirectory() as unused:
            loaded = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                device_map=places,
                offload_folder=None if with_layers else unused,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are named below
            )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        # An ImportError names the package without which a quantized checkpoint is not read.
        raise ModelError(f"Cannot load {folder}: {_one_line(error)}") from error
    # `output_loading_info` makes a pair of it, which the declared type leaves out.
    model, problems = cast("tuple[PreTrainedModel, Mapping[str, set[object]]]", loaded)
    # Absent tensors come by name, those of another shape as (name, theirs, ours).
    missing = sorted(map(str, problems["missing_keys"]))
    misshapen = sorted(map(str, problems["mismatched_keys"]))
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} tensors of its config, such as {missing[0]}."
        )
    if misshapen:
        raise ModelError(
            f"{len(misshapen)} tensors of {folder} have another shape than its config gives them, "
            f"such as {misshapen[0]}."
        )
    if not with_layers:
        # What accelerate hangs in reads a module's tensors anew at every call.
        remove_hook_from_module(model, recurse=True)
    model.eval()
    model.requires_grad_(False)
    return model


def in_fast_numbers(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    """Return a model in float32 where it is in bfloat16 and a CPU cannot multiply that.

    The same numbers are then computed with ten times as fast, and exactly where bfloat16 rounds.

    Args:
        dtype: That the model was asked for; only `auto` leaves a choice.
    """
    return model.float() if dtype == "auto" and is_slow(model) else model


def is_slow(model: PreTrainedModel) -> bool:
    """Whether a model is in bfloat16 and a CPU cannot multiply that."""
    return model.dtype is torch.bfloat16 and lacks_bfloat16(model.device)


def number_format(folder: Path, dtype: str, device: torch.device) -> str:
    """Return what losses of a model are computed in, which is not loaded for it.

    Args:
        dtype: That the model is asked for; `auto` is its config's, or what is fast in its place.
    """
    if dtype != "auto":
        return dtype
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return "float32" if own == "bfloat16" and lacks_bfloat16(device) else own


def lacks_bfloat16(device: torch.device) -> bool:
    """Whether a device has no instructions for products of bfloat16: they are many times slower.

    Told by what the processor can, never by a clock: all workers on one kind of machine agree.
    """
    if device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    able = torch.cpu.get_capabilities()
    return not (able["avx512_bf16"] or able["amx_bf16"])


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer beside the weights."""
    # It reads the config too, and warns of what our own checkpoints say there by layer.
    transformers_logging.set_verbosity_error()
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"Cannot load the tokenizer of {folder}: {_one_line(error)}") from error


def pick_device(name: str) -> torch.device:
    """Return the device a name stands for; `auto` takes a GPU where there is one.

    Raises:
        ModelError: If a GPU is asked for that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"No device {name} here: torch sees {torch.cuda.device_count()} GPUs.")
    return device


def visible_gpus(device: torch.device) -> list[str]:
    """Return the GPUs that a device stands for, as CUDA_VISIBLE_DEVICES names them.

    `cuda` stands for all that this process sees, `cuda:N` for one, a CPU for none.
    """
    if device.type != "cuda":
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = named.split(",")[:count] if named else [str(index) for index in range(count)]
    return names if str(device) == "cuda" else names[device.index : device.index + 1]


def fingerprint(folder: Path) -> str:
    """Return a digest of the config and every weight byte of a model."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update((folder / "config.json").read_bytes())
    for file in weight_files(folder):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "blake2b").digest())
    return digest.hexdigest()


def _find(model: str, wanted: Sequence[str]) -> Path:
    """Return a folder with a config, fetching the wanted files from the hub where it is none."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if folder.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise ModelError(f"No model folder at {model}.")
        try:
            folder = Path(
                snapshot_download(model, allow_patterns=list(wanted), ignore_patterns=list(OTHERS))
            )
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise ModelError(
                f"{model} is no folder here, and the hub did not give it: {_one_line(error)}"
            ) from error
    if not (folder / "config.json").is_file():
        raise ModelError(f"{model} holds no config.json: not a Hugging Face model folder.")
    return folder


def _check_weights(files: Sequence[Path]) -> None:
    """Open every shard: a truncated file is found before any work is done."""
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file} is not a whole safetensors file: {_one_line(error)}"
            ) from error


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
