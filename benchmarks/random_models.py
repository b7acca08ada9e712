"""Writes a randomly initialised Llama of given shapes as a sharded bf16 checkpoint.

    python -m benchmarks.random_models --shape 0.5b --folder /tmp/random-0.5b

One shard is in memory at a time, so a model may be larger than memory. Same seed, same bytes, on
one kind of device: a GPU draws other numbers than a CPU, and many times as fast. The reference
model's tokenizer lies beside the weights: its ids are below every vocabulary here.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

TOKENIZER = Path(__file__).parent.parent / "examples" / "reference-model"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
INDEX = "model.safetensors.index.json"
DTYPE = torch.bfloat16
DEVIATION = 0.02
# Standard deviation of the logits, in nats, about that of trained models: without it predictions
# would be nearly uniform, and losses nearly rounding.
SHARPNESS = 3.0
Size = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a Llama."""

    hidden: int
    layers: int
    query_heads: int
    kv_groups: int
    head_size: int
    ffn_columns: int
    vocabulary: int
    tied: bool

    def layer(self) -> dict[str, Size]:
        """Return the sizes of one layer's tensors."""
        queries, keys = self.query_heads * self.head_size, self.kv_groups * self.head_size
        return {
            "input_layernorm.weight": (self.hidden,),
            "self_attn.q_proj.weight": (queries, self.hidden),
            "self_attn.k_proj.weight": (keys, self.hidden),
            "self_attn.v_proj.weight": (keys, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, queries),
            "post_attention_layernorm.weight": (self.hidden,),
            "mlp.gate_proj.weight": (self.ffn_columns, self.hidden),
            "mlp.up_proj.weight": (self.ffn_columns, self.hidden),
            "mlp.down_proj.weight": (self.hidden, self.ffn_columns),
        }

    def tensors(self) -> Iterator[tuple[str, Size]]:
        """Yield the name and size of every tensor, in the order of the forward pass."""
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            for name, size in self.layer().items():
                yield f"model.layers.{layer}.{name}", size
        yield "model.norm.weight", (self.hidden,)
        if not self.tied:
            yield "lm_head.weight", (self.vocabulary, self.hidden)

    @property
    def parameters(self) -> int:
        """All of the model's."""
        return sum(prod(size) for _, size in self.tensors())

    @property
    def layers_bytes(self) -> int:
        """Bytes of the layers' weights: what can be streamed."""
        return self.layers * sum(map(prod, self.layer().values())) * DTYPE.itemsize

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            architectures=["LlamaForCausalLM"],
            dtype=DTYPE,
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.ffn_columns,
            num_hidden_layers=self.layers,
            num_attention_heads=self.query_heads,
            num_key_value_heads=self.kv_groups,
            head_dim=self.head_size,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
            tie_word_embeddings=self.tied,
            bos_token_id=0,
            eos_token_id=0,
        )


# 0.5b has the shapes of Qwen2.5-0.5B, 8b and 70b those of Llama 3.1.
SHAPES: Mapping[str, Shape] = {
    "tiny": Shape(64, 8, 4, 2, 16, 192, 4096, True),
    "0.5b": Shape(896, 24, 14, 2, 64, 4864, 151_936, True),
    "8b": Shape(4096, 32, 32, 8, 128, 14336, 128_256, False),
    "70b": Shape(8192, 80, 64, 8, 128, 28672, 128_256, False),
}


def make_model(name: str, folder: Path, shards: int, seed: int) -> None:
    """Write the checkpoint of a shape by its name, unless a whole one is there.

    Raises:
        SystemExit: If the one that is there is of another shape.
    """
    if not (folder / INDEX).is_file():
        write_model(SHAPES[name], folder, shards, seed)
    elif (
        LlamaConfig.from_pretrained(folder).to_diff_dict() != SHAPES[name].config().to_diff_dict()
    ):
        raise SystemExit(f"{folder} holds a model of another shape than {name}")


def write_model(shape: Shape, folder: Path, shards: int, seed: int) -> None:
    """Write the checkpoint; its index comes last, and is missing where this was interrupted.

    Args:
        shards: About so many files of equal size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape.config().save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(TOKENIZER / name, folder / name)
    generator = torch.Generator("cuda" if torch.cuda.is_available() else "cpu").manual_seed(seed)
    parts = divided(shape, shards)
    places: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        tensors = {
            name: initial(shape, name, size, generator).cpu() for name, size in part.items()
        }
        save_file(tensors, folder / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    total = {"total_size": shape.parameters * DTYPE.itemsize}
    index = {"metadata": total, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=1), "utf-8")


def divided(shape: Shape, shards: int) -> list[dict[str, Size]]:
    """Return what each shard holds: a shard ends with the tensor that fills it."""
    most = shape.parameters / shards
    parts: list[dict[str, Size]] = [{}]
    for name, size in shape.tensors():
        if sum(map(prod, parts[-1].values())) >= most:
            parts.append({})
        parts[-1][name] = size
    return parts


def initial(shape: Shape, name: str, size: Size, generator: torch.Generator) -> torch.Tensor:
    """Return one tensor; what is added to the residual stream is scaled as in GPT-2."""
    if name == "model.norm.weight":
        return torch.full(size, SHARPNESS / (DEVIATION * sqrt(shape.hidden)), dtype=DTYPE)
    if len(size) == 1:
        return torch.ones(size, dtype=DTYPE)
    is_added = name.endswith(("o_proj.weight", "down_proj.weight"))
    deviation = DEVIATION / sqrt(2 * shape.layers) if is_added else DEVIATION
    values = torch.empty(size, dtype=DTYPE, device=generator.device)
    return values.normal_(0.0, deviation, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    write_model(shape, arguments.folder, arguments.shards, arguments.seed)
    print(f"{shape.parameters:,} parameters in {arguments.folder}")


if __name__ == "__main__":
    main()
