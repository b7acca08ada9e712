"""Real transformers, freshly initialised and very small, with a real tokenizer."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from autocompress.models.architecture import linear_groups, read_architecture
from autocompress.models.loading import load_model
from autocompress.models.surgery import Level
from autocompress.spaces.base import Choice, SearchSpace, Site, SiteKind
from autocompress.spaces.making import Weights, make_space
from autocompress.trial import Genotype

CPU = torch.device("cpu")
VOCABULARY = 320
LAYERS = 3
KV_GROUPS = 4
FFN_COLUMNS = 48
END_OF_TEXT = "<|endoftext|>"

CONFIGS: Mapping[str, type[PreTrainedConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
# Qwen3's heads together are wider than its hidden states, as in the smallest real one; the other
# families leave their head size to be derived from the number of heads.
OWN_VALUES: Mapping[str, Mapping[str, int]] = {"qwen3": {"head_dim": 8}}


@dataclass(frozen=True)
class TinyModels:
    """Folders of tiny models, each written once."""

    root: Path
    written: dict[str, Path] = field(default_factory=dict)

    def folder(
        self,
        family: str = "llama",
        *,
        tied: bool = False,
        dtype: torch.dtype = torch.float32,
        shard_size: str = "1GB",
    ) -> Path:
        """Return the folder of a model; nobody may write into it."""
        name = f"{family}-{tied}-{str(dtype).removeprefix('torch.')}-{shard_size}"
        if name not in self.written:
            self.written[name] = self.root / name
            config = make_config(family, tied)
            write_model(self.root / name, config, dtype, shard_size)
        return self.written[name]

    def load(
        self, family: str = "llama", *, tied: bool = False, dtype: torch.dtype = torch.float32
    ) -> PreTrainedModel:
        """Return a model that is the caller's own."""
        return load_model(self.folder(family, tied=tied, dtype=dtype), CPU)


def write_model(
    folder: Path,
    config: PreTrainedConfig,
    dtype: torch.dtype = torch.float32,
    shard_size: str = "1GB",
) -> None:
    """Write a model whose every tensor, biases and norms too, is random."""
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            middle = 1.0 if "norm" in name else 0.0
            tensor.normal_(middle, 0.2, generator=generator)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    make_tokenizer().save_pretrained(folder)


def make_config(family: str = "llama", tied: bool = False) -> PreTrainedConfig:
    """Return the config of a tiny model."""
    config: Callable[..., PreTrainedConfig] = CONFIGS[family]
    return config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=FFN_COLUMNS,
        num_hidden_layers=LAYERS,
        num_attention_heads=2 * KV_GROUPS,
        num_key_value_heads=KV_GROUPS,
        max_position_embeddings=128,
        sliding_window=None,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **OWN_VALUES.get(family, {}),
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on this file."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(Path(__file__).read_text("utf-8").splitlines(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)


def tiny_space(
    family: str = "llama",
    *,
    depth: bool = True,
    width: bool = True,
    whole_layers: bool = False,
    weights: Weights | None = None,
) -> SearchSpace:
    """Return the space of a tiny model; without weights, that of every family."""
    return make_space(
        LAYERS,
        KV_GROUPS,
        FFN_COLUMNS,
        depth=depth,
        width=width,
        whole_layers=whole_layers,
        ffn_step=8,
        ffn_levels=3,
        weights=weights,
        groups=linear_groups(read_architecture(make_config(family))),
    )


def token_ids(sequences: int, length: int, seed: int = 0) -> Tensor:
    """Return random token ids, shape (sequences, length)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (sequences, length), generator=generator)


@torch.inference_mode()
def logits_of(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Return the logits without a KV cache, shape (B, T, V)."""
    logits: Tensor = model(ids, use_cache=False).logits
    return logits


def generate(model: PreTrainedModel, prompt: Tensor, n_tokens: int) -> Tensor:
    """Return a prompt of shape (1, T) with what the model says next, decoded with a KV cache."""
    whole: Tensor = model.generate(  # type: ignore[operator]  # a mixin that mypy does not see
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=n_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return whole


def is_tied(model: PreTrainedModel) -> bool:
    """Whether embedding and head are one tensor."""
    return model.lm_head.weight is model.get_input_embeddings().weight


def dense_choices(space: SearchSpace) -> list[Choice]:
    """Return what leaves every site as it is."""
    return [Choice(site.units, site.units) for site in space.sites]


def one_change(space: SearchSpace, layer: int, kind: SiteKind, kept: int) -> list[Choice]:
    """Return the choices of a model that differs from the dense one in one site."""
    return with_changes(space, {(layer, kind): kept})


def with_changes(space: SearchSpace, changes: Mapping[tuple[int, SiteKind], int]) -> list[Choice]:
    """Return choices that keep so many units in the sites named, and all in the others."""
    return [
        Choice(changes.get((site.layer, site.kind), site.units), site.units)
        for site in space.sites
    ]


def genotype_of(space: SearchSpace, choices: list[Choice]) -> Genotype:
    """Return the canonical genotype of some choices."""
    return space.genotype(
        [
            next(i for i, entry in enumerate(menu) if entry.choices[0] == choice)
            for menu, choice in zip(space.menus, choices, strict=True)
        ]
    )


class PlainSlices:
    """Levels that keep some units, spread over the site, and the columns as they are."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._outputs = {site: weight.clone() for site, weight in output_weights(model)}
        self._whole = {
            site: [weight.clone() for weight in weights] for site, weights in group_weights(model)
        }

    def level(self, site: Site, choice: Choice) -> Level:
        """Slice the output projection."""
        output = self._outputs[site.layer, site.kind]
        kept = kept_units(choice)
        columns = output.shape[1] // choice.total
        return Level(kept, output.view(len(output), -1, columns)[:, kept].flatten(1))

    def weight(self, site: Site, choice: Choice, group: int) -> Tensor:
        """Round to multiples of 2 to the minus bits."""
        bits = choice.weights[group].bits or 0
        linear = site.groups[group]
        weight = self._whole[site.layer, site.kind][group]
        if linear.narrows_columns and not choice.is_whole:
            weight = self.level(site, choice).output
        rounded: Tensor = (weight * 2**bits).round() / 2**bits
        return rounded


def kept_units(choice: Choice) -> Tensor:
    """Return which units `PlainSlices` keeps: neither the first ones nor neighbours only."""
    return torch.tensor(sorted((5 * i + 1) % choice.total for i in range(choice.kept)))


def output_weights(model: PreTrainedModel) -> Iterator[tuple[tuple[int, SiteKind], Tensor]]:
    """Yield the weight of every site's output projection."""
    for number, layer in enumerate(model.model.layers):
        yield (number, SiteKind.ATTENTION), layer.self_attn.o_proj.weight
        yield (number, SiteKind.MLP), layer.mlp.down_proj.weight


def group_weights(model: PreTrainedModel) -> Iterator[tuple[tuple[int, SiteKind], list[Tensor]]]:
    """Yield the weights of every site's fused linear groups, their rows one below the other."""
    for number, layer in enumerate(model.model.layers):
        own = layer.self_attn
        inputs = torch.cat([own.q_proj.weight, own.k_proj.weight, own.v_proj.weight])
        yield (number, SiteKind.ATTENTION), [inputs, own.o_proj.weight]
        mlp = layer.mlp
        both = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        yield (number, SiteKind.MLP), [both, mlp.down_proj.weight]
