"""The architecture families that can be compressed, and the shape of their layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig

from autocompress.errors import ModelError
from autocompress.spaces.base import LinearGroup, SiteKind
from autocompress.spaces.making import ModelShape

HETEROGENEOUS_CLASS: Mapping[str, str] = {
    "llama": "AutocompressLlamaForCausalLM",
    "mistral": "AutocompressMistralForCausalLM",
    "qwen2": "AutocompressQwen2ForCausalLM",
    "qwen3": "AutocompressQwen3ForCausalLM",
}
"""Family, by `model_type`, to the class of `modeling_autocompress.py` whose layers may differ."""

MODELING_FILES = tuple(
    Path(__file__).with_name(f"{name}.py")
    for name in ("modeling_autocompress", "packed_linear", "packed_kernels", "packed_weights")
)
"""What lies beside the weights of a model whose layers differ, to build and read it."""

LINEAR_NAMES: Mapping[SiteKind, tuple[str, ...]] = {
    SiteKind.ATTENTION: (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
    ),
    SiteKind.MLP: ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
}
"""The linear layers of each kind of site, by their names in a layer, in its groups' order."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shape of a Llama-family model; all layers alike.

    Args:
        input_bias: Whether the query, key and value projections have biases; `output_bias`, the
            attention's output projection; `mlp_bias`, all of an MLP's.
        head_norms: Whether queries and keys are normed, head by head.
    """

    family: str
    n_layers: int
    hidden: int
    query_heads: int
    kv_groups: int
    head_size: int
    ffn_columns: int
    vocabulary: int
    input_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norms: bool = False

    @property
    def queries_per_group(self) -> int:
        """Query heads that share one KV head."""
        return self.query_heads // self.kv_groups


def read_architecture(config: PreTrainedConfig) -> Architecture:
    """Return the shape of a model from its config.

    Raises:
        ModelError: If the family is unknown, the layers are not alike, or the weights are stored
            quantized.
    """
    family = getattr(config, "model_type", None)
    if not isinstance(family, str) or family not in HETEROGENEOUS_CLASS:
        known = ", ".join(sorted(HETEROGENEOUS_CLASS))
        raise ModelError(f"Unknown architecture {family!r}. Known: {known}.")
    if config.is_heterogeneous:
        raise ModelError("The model is already heterogeneous: give the dense one.")
    # Levels are built of the weights themselves: what was rounded once is not to be had back, and
    # transformers keeps it in layers of another make.
    if getattr(config, "quantization_config", None):
        raise ModelError("The model is already quantized: give the one that is not.")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if len(kinds) > 1:
        raise ModelError(
            f"All layers must have one kind of attention, but got {', '.join(sorted(kinds))}."
        )
    heads = config.num_attention_heads
    return Architecture(
        family=family,
        n_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        query_heads=heads,
        kv_groups=getattr(config, "num_key_value_heads", None) or heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        ffn_columns=config.intermediate_size,
        vocabulary=config.vocab_size,
        # Qwen2 has these biases whatever its config says, Mistral has none.
        input_bias=family == "qwen2" or _says(config, "attention_bias", ("llama", "qwen3")),
        output_bias=_says(config, "attention_bias", ("llama", "qwen3")),
        mlp_bias=_says(config, "mlp_bias", ("llama",)),
        head_norms=family == "qwen3",
    )


def _says(config: PreTrainedConfig, name: str, families: tuple[str, ...]) -> bool:
    """Return a switch of a config that only some families know."""
    return config.model_type in families and bool(getattr(config, name, False))


def linear_groups(
    architecture: Architecture, *, fused: bool = True
) -> dict[SiteKind, tuple[LinearGroup, ...]]:
    """Return the linear layers of a layer's sites, in the order in which they are run.

    Args:
        fused: Engines run q, k and v as one matrix, gate and up too, and want one setting for
            each; without, every linear layer is a group of its own.
    """
    head, hidden, columns = architecture.head_size, architecture.hidden, architecture.ffn_columns
    queries, keys = architecture.query_heads * head, architecture.kv_groups * head

    def inputs(rows: dict[str, int], name: str, *, has_bias: bool) -> list[LinearGroup]:
        if fused:
            return [LinearGroup(name, tuple(rows), tuple(rows.values()), hidden, False, has_bias)]
        return [LinearGroup(one, (one,), (n,), hidden, False, has_bias) for one, n in rows.items()]

    return {
        SiteKind.ATTENTION: (
            *inputs({"q": queries, "k": keys, "v": keys}, "qkv", has_bias=architecture.input_bias),
            LinearGroup("o", ("o",), (hidden,), queries, True, architecture.output_bias),
        ),
        SiteKind.MLP: (
            *inputs({"gate": columns, "up": columns}, "gate_up", has_bias=architecture.mlp_bias),
            LinearGroup("down", ("down",), (hidden,), columns, True, architecture.mlp_bias),
        ),
    }


def shape_of(architecture: Architecture, *, fused: bool = True) -> ModelShape:
    """Return what a space is made of; for `fused` see `linear_groups`."""
    return ModelShape(
        architecture.n_layers,
        architecture.kv_groups,
        architecture.ffn_columns,
        linear_groups(architecture, fused=fused),
        other_parameters(architecture),
    )


def other_parameters(architecture: Architecture) -> dict[SiteKind, int]:
    """Return how many numbers the norms of each kind of site hold."""
    heads = 2 * architecture.head_size if architecture.head_norms else 0
    return {SiteKind.ATTENTION: architecture.hidden + heads, SiteKind.MLP: architecture.hidden}
