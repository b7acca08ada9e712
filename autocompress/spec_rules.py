"""What an engine runs and a checkpoint's format holds: rules of a spec that need no model."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

ROOFLINES: Final = ("a100", "h100", "h200", "l4", "l40s", "rtx4090", "mi300x")
COMPILED_TORCH: Final = "torch-compiled"
BY_TORCH: Final = ("torch", COMPILED_TORCH)
ENGINES: Final = (*BY_TORCH, "llama.cpp", "vllm", *(f"roofline:{name}" for name in ROOFLINES))
FORMATS: Final = ("hf", "compressed-tensors", "decilm", "gptq", "gguf")
COMPRESSED: Final = ("compressed-tensors", "decilm")
"""The formats that hold weights as compressed-tensors does."""
CODED: Final = (*COMPRESSED, "gptq")
"""The formats that engines read codes of: whole rows and groups around 0."""
GPTQ_BITS: Final = ("8", "4", "2")
"""Of `bits`, those that GPTQ's words hold whole codes of."""
BITS: Final = ("8", "6", "5", "4", "3", "2")
BLOCK_FORMATS: Final = ("fp8", "mxfp4", "nvfp4")
INTEGER: Final = re.compile(rf"w([{''.join(BITS)}])(g[1-9]\d*)?(sym)?")
"""Bits with a group size, or with none for whole rows, and whether codes lie around 0."""
GGUF_TYPES: Final = ("q8_0", "q6_k", "q5_k", "q5_0", "q4_k", "q4_0", "q3_k", "q2_k")
USUAL_EMBEDDINGS: Final = "f16"
"""In what GGUF files store token embedding and head where nobody says it: as in the dense one."""
EMBEDDINGS: Final = (USUAL_EMBEDDINGS, *GGUF_TYPES)
TORCH_KERNELS: Final = ("w8sym", "4")
"""Of `bits`, those that torch multiplies fastest with on a CPU."""
SERVED_BITS: Final = ("8", "4")
"""Of `bits`, those that vLLM, on a GPU, and SGLang have had kernels for longest."""
VLLM_CPU_BITS: Final = ("4",)
"""Of all settings, what it has kernels for on a CPU."""


OF_SPACES: Final[Mapping[str, tuple[str, ...]]] = {
    "bits": ("bits",),
    "group_size": ("bits",),
    "symmetric": ("bits",),
    "quantizer": ("bits",),
    "per_linear": ("bits", "sparsity"),
    "sparsities": ("sparsity",),
    "sparsity_step": ("sparsity",),
    "pruner": ("sparsity",),
    "kv_bits": ("kv",),
}
"""What says something of some spaces alone: one of these must be searched."""


_FROM_CHANGES: Final = (
    "evolve",
    "darwin",
    *("pareto", "pareto-nsga2", "pareto-map-elites", "pareto-snes"),
    *("bayes", "bayes-tpe", "bayes-gp", "bayes-profile"),
)
_LIMITED: Final = (
    *_FROM_CHANGES,
    "tpe",
    *("evopress", "evopress-fast", "evopress-free", "evopress-fast-free"),
    *("random", "brute-force"),
)
OF_STRATEGIES: Final[Mapping[str, tuple[str, ...]]] = {
    "budget_seconds": _LIMITED,
    "max_tokens": _LIMITED,
    "start": (*_FROM_CHANGES, "tpe", "given"),
    "warm_start": _FROM_CHANGES,
}
"""What some strategies alone read; the others measure a handful that they make by themselves."""
OF_GRADIENTS: Final = ("bits", "sparsity")
"""The spaces of which gradients of the dense model say something."""
GPU_DRIVERS: Final = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))
"""What is there where a driver of NVIDIA, of AMD, or of either under Windows is loaded."""
HIDING_GPUS: Final = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
OF_GPU_BUILDS: Final = re.compile(r"(nvidia|cuda|triton|pytorch-triton)-|triton\b")
OF_TIMES: Final = ("latency_table", "fresh_profile")
"""What says something of targets that are told by the clock alone."""


METRIC_VARIABLES: Final = ("W", "X", "G")
"""Of symbolic metrics; no name of a pruner has one of these letters."""


def stands_for_gpu(device: str) -> bool:
    """Whether a device is taken for a GPU, which torch is not asked, for it would be imported.

    `auto` is where a driver is loaded, torch is built for one, and the variables hide none.
    """
    if device != "auto":
        return device.startswith("cuda")
    is_hidden = any(os.environ.get(name) in ("", "-1") for name in HIDING_GPUS)
    is_there = not is_hidden and any(driver.exists() for driver in GPU_DRIVERS)
    # A build for CPUs requires none of these packages.
    return is_there and any(map(OF_GPU_BUILDS.match, metadata.requires("torch") or ()))


def usual_format(engine: str) -> str:
    """Return what a checkpoint is written in where nobody says it."""
    return {"llama.cpp": "gguf", "vllm": "compressed-tensors"}.get(engine, "hf")


def usual_space(
    engine: str, form: str, *, is_timed: bool, device: str, whole_layers: bool = False
) -> tuple[str, ...]:
    """Return what `auto` stands for: what the engine runs of a format and needs no recovery."""
    if not is_timed and engine != COMPILED_TORCH:
        return ("depth", "bits") if whole_layers else ("bits",)
    if form in CODED:
        return ("depth", "bits") if engine == "vllm" else ("depth",)
    runs_bits = engine == "llama.cpp" or (engine == "torch" and not stands_for_gpu(device))
    shapes = ("depth",) if whole_layers or engine == "llama.cpp" else ("depth", "width")
    return (*shapes, "bits") if runs_bits else shapes


def usual_bits(engine: str, form: str, is_timed: bool, n_targets: int) -> tuple[str, ...]:
    """Return what weights may take where nobody says it: what the engine runs."""
    if engine == "llama.cpp":
        return GGUF_TYPES
    if engine == "vllm":
        return VLLM_CPU_BITS
    if form in CODED:
        return SERVED_BITS
    if engine == "torch" and is_timed:
        # Fewer bits run no faster, but a second target may want them.
        return TORCH_KERNELS if n_targets == 1 else (*TORCH_KERNELS, "3", "2")
    return BITS


def usual_warm_start(checked: Mapping[str, object]) -> str:
    """Return what a search begins from where nobody says it: gradients, of bits alone.

    They tell more of bits than losses of single changes, with fewer tokens of the search; of
    zeros, which change more of a model, they tell less. A model that is streamed has none, and
    what other ends lose is measured with the single changes.
    """
    reads = checked.get("strategy", "evolve") in OF_STRATEGIES["warm_start"]
    has_usual_ends = checked.get("embeddings", USUAL_EMBEDDINGS) == USUAL_EMBEDDINGS
    if reads and _compressed(checked) == ["bits"] and has_usual_ends and not _is_streamed(checked):
        return "gradients"
    return "losses"


def warm_start_problems(checked: Mapping[str, object]) -> list[str]:
    """Return why a search cannot begin from gradients."""
    if checked.get("warm_start") != "gradients":
        return []
    problems = []
    others = [name for name in _compressed(checked) if name not in OF_GRADIENTS]
    if others:
        problems.append(
            "warm_start: `gradients` say something of bits and sparsity alone, but got "
            f"{', '.join(others)} in the space; take `losses`."
        )
    if _is_streamed(checked):
        problems.append("warm_start: a model that is streamed has no gradients; take `losses`.")
    return problems


def _compressed(checked: Mapping[str, object]) -> list[str]:
    """Return the spaces of compressed models; a decoding is searched of what they give."""
    return [name for name in names(checked, "space") if name != "decoding"]


def _is_streamed(checked: Mapping[str, object]) -> bool:
    return checked.get("weights_bytes") is not None


def is_llama_cpp(checked: Mapping[str, object]) -> bool:
    """Whether candidates become GGUF files."""
    return checked.get("engine") == "llama.cpp"


def engine_problems(checked: Mapping[str, object]) -> list[str]:
    """Return what is asked for that the engine cannot run, or only another one can."""
    bits, spaces = names(checked, "bits"), names(checked, "space")
    if checked.get("engine") == "vllm":
        return _vllm_problems(checked)
    if checked.get("engine") == COMPILED_TORCH and "bits" in spaces:
        return ["space: torch-compiled times `depth` and `width`; `bits` run on --engine torch."]
    if not is_llama_cpp(checked):
        gguf = [name for name in bits if name in GGUF_TYPES]
        if not gguf:
            return []
        return [f"bits: `engine: llama.cpp` must hold for {', '.join(gguf)}, types of GGUF files."]
    problems = []
    wrong = [name for name in bits if name not in GGUF_TYPES]
    if wrong:
        problems.append(
            f"bits: llama.cpp runs {', '.join(GGUF_TYPES)}, but got {', '.join(wrong)}."
        )
    others = [name for name in spaces if name not in ("depth", "bits", "auto")]
    if others:
        problems.append(
            f"space: GGUF files hold `depth` and `bits` alone, but got {', '.join(others)}: use "
            "the torch engine for these."
        )
    if str(checked.get("device", "cpu")) not in ("cpu", "auto"):
        problems.append("device: llama.cpp runs on the `cpu` here.")
    own = [
        f"{name}: GGUF's types have blocks and a quantizer of their own; leave it out."
        for name, usual in (("group_size", None), ("symmetric", False), ("quantizer", "gptq"))
        if checked.get(name, usual) != usual
    ]
    problems += own
    if checked.get("target_params") is not None and "depth" not in spaces:
        problems.append(
            "target_params: bits leave all parameters; add depth to the space, or give bytes, "
            "bits or a speedup."
        )
    return problems


def embeddings_problems(checked: Mapping[str, object]) -> list[str]:
    """Return what cannot be asked for together with a type of token embedding and head."""
    kind = checked.get("embeddings", USUAL_EMBEDDINGS)
    if kind == USUAL_EMBEDDINGS:
        return []
    if not is_llama_cpp(checked):
        return [f"embeddings: `engine: llama.cpp` must hold for {kind}, a type of GGUF files."]
    if checked.get("recover") is None:
        return []
    return [f"embeddings: `recover` leaves them dense, not in {kind}; give one of the two."]


def _vllm_problems(checked: Mapping[str, object]) -> list[str]:
    """Return what is asked for that vLLM cannot run."""
    problems = []
    form = checked.get("format")
    if form not in CODED:
        problems.append(f"format: vLLM opens {', '.join(CODED)}, but got {form}.")
    wrong = [
        name
        for name in names(checked, "bits")
        if name not in BLOCK_FORMATS and not is_of_bits(name, SERVED_BITS)
    ]
    if wrong:
        problems.append(
            f"bits: vLLM has kernels for {', '.join((*SERVED_BITS, *BLOCK_FORMATS))}, but got "
            f"{', '.join(wrong)}."
        )
    if checked.get("target_memory") is not None:
        problems.append(
            "target_memory: vLLM takes the memory that it is told to, whatever the model needs; "
            "give bytes."
        )
    return problems


def format_problems(checked: Mapping[str, object]) -> list[str]:
    """Return what is asked for that the checkpoint's format does not hold."""
    form = checked.get("format", "hf")
    if (form == "gguf") != is_llama_cpp(checked):
        engine = checked.get("engine", "torch")
        return [f"format: llama.cpp alone runs `gguf`, but got {form} for the engine {engine}."]
    if form not in CODED:
        return []
    problems = []
    if form == "gptq" and checked.get("engine") != "vllm":
        problems.append(
            "format: transformers opens `gptq` with other packages alone: `engine: vllm` must "
            "hold, which opens and times it."
        )
    bits = names(checked, "bits")
    others = [n for n in names(checked, "space") if n not in ("depth", "bits", "auto")]
    if others:
        problems.append(
            f"format: {form} holds whole {'sub-blocks' if form == 'decilm' else 'layers'} and "
            f"bits alone, but got {', '.join(others)} in the space: the format `hf` holds these."
        )
    if checked.get("per_linear"):
        problems.append(
            f"format: engines want one setting of {form} for q, k and v, and one for gate and up: "
            "leave `per_linear` out, or take the format `hf`."
        )
    wrong = [name for name in bits if not is_of_bits(name, GPTQ_BITS)]
    if form == "gptq" and wrong:
        problems.append(
            f"format: gptq holds codes of {', '.join(GPTQ_BITS)} bits, but got {', '.join(wrong)}."
        )
    uneven = [name for name in bits if INTEGER.fullmatch(name) and not name.endswith("sym")]
    uneven += ["symmetric: false"] if checked.get("symmetric") is False else []
    if uneven:
        problems.append(
            f"format: what loads {form} does not load its zero points, so codes must lie around "
            f"0, such as `w4g128sym`, but got {', '.join(uneven)}."
        )
    return problems


def cache_problems(checked: Mapping[str, object]) -> list[str]:
    """Return that KV caches of few bits cannot be searched for; one that is given can be measured.

    No engine that a search measures keeps one, so no limit counts its bits, and a level that
    saves nothing is never taken.
    """
    if "kv" not in names(checked, "space") or checked.get("strategy") == "given":
        return []
    refusal = (
        "space: no target counts the bits of a KV cache, so no search takes fewer of them; leave "
        "`kv` out, measure a candidate that a file tells by `--strategy given --start FILE`, or "
        "race caches by `autocompress decode --tune cache`."
    )
    return [refusal]


def whole_layer_problems(checked: Mapping[str, object]) -> list[str]:
    """Return what cannot be asked for together with drops of whole layers alone."""
    spaces = names(checked, "space")
    if not checked.get("whole_layers"):
        return []
    if "width" in spaces:
        return ["whole_layers: what is left has its full width; leave `width` out of the space."]
    return [] if "depth" in spaces else ["whole_layers: `depth` must be in the space."]


def decoding_problems(
    checked: Mapping[str, object], targets: Sequence[str], usual: Mapping[str, object]
) -> list[str]:
    """Return what cannot be asked for together with a search for a decoding.

    Args:
        targets: That are given, by name.
        usual: What says how decodings are searched, and what it is where nobody says it.
    """
    spaces = names(checked, "space")
    if "decoding" not in spaces:
        told = [key for key, own in usual.items() if checked.get(key, own) != own]
        return [f"{key}: `decoding` must be in the space." for key in told]
    problems = []
    if len(spaces) < 2:
        problems.append(
            "space: decoding is searched beside what compresses; alone, by `autocompress decode`."
        )
    if list(targets) != ["target_speedup"]:
        problems.append(
            "space: decoding is searched for a speedup of answers: give --target-speedup alone."
        )
    if checked.get("engine", "torch") != "torch" or checked.get("format", "hf") != "hf":
        problems.append("space: decodings are measured by torch, of checkpoints in `hf`.")
    return problems


def strategy_problems(checked: Mapping[str, object], usual: Mapping[str, object]) -> list[str]:
    """Return what the strategy would not read.

    One candidate that is given keeps to every limit, and comes with the spec of its study.

    Args:
        usual: What each field is where nobody says it.
    """
    strategy = str(checked.get("strategy", usual["strategy"]))
    if strategy == "given":
        return []
    unread: dict[tuple[str, ...], list[str]] = {}
    for key, readers in OF_STRATEGIES.items():
        if strategy not in readers and checked.get(key, usual[key]) != usual[key]:
            unread.setdefault(readers, []).append(key)
    return [
        f"{', '.join(keys)}: `strategy: {strategy}` does not read it; leave it out, or take one "
        f"of {', '.join(readers)}."
        for readers, keys in unread.items()
    ]


def untimed_problems(checked: Mapping[str, object], timed: Sequence[str]) -> list[str]:
    """Return what says something of times where no target is told by the clock.

    Args:
        timed: The targets that are.
    """
    if any(checked.get(name) is not None for name in timed):
        return []
    told = [name for name in OF_TIMES if checked.get(name)]
    return [f"{name}: no target reads times; give one of {', '.join(timed)}." for name in told]


def darwin_problems(checked: Mapping[str, object], usual: Mapping[str, object]) -> list[str]:
    """Return what cannot be asked for together with training-aware selection.

    Args:
        usual: What says how candidates are trained, and what it is where nobody says it.
    """
    if checked.get("strategy") != "darwin":
        told = [key for key, own in usual.items() if checked.get(key, own) != own]
        return [f"{key}: `strategy: darwin` must hold, which trains candidates." for key in told]
    problems = []
    # A decoding is searched of what compression gives, and trains nothing.
    trained = ("depth", "width", "decoding")
    others = [name for name in names(checked, "space") if name not in trained]
    if others:
        problems.append(
            "strategy: `darwin` trains what depth and width leave of a model, but got "
            f"{', '.join(others)} in the space."
        )
    if "recover" not in checked:
        problems.append(
            "strategy: `darwin` picks the winner that a training suits: `recover` must say how "
            "many tokens that is trained on."
        )
    if _is_streamed(checked):
        problems.append("strategy: a model that is streamed cannot be trained by `darwin`.")
    return problems


def of_no_space(given: Iterable[str], space: Sequence[str]) -> list[str]:
    """Return those of a spec's fields that say nothing in a space."""
    return [key for key in given if key in OF_SPACES and not {*OF_SPACES[key]} & {*space}]


def is_of_bits(name: str, bits: Sequence[str]) -> bool:
    """Whether one of `bits`, such as `4` or `w4g32`, is an integer of one of these."""
    return re.match(rf"w?({'|'.join(bits)})(?!\d)", name) is not None


def names(checked: Mapping[str, object], key: str) -> tuple[str, ...]:
    """Return the names that a checked value lists; none if it is not given."""
    value = checked.get(key, ())
    return value if isinstance(value, tuple) else ()
