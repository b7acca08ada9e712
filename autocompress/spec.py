"""The checked description of a search: flags and YAML become one `SearchSpec`."""

import dataclasses
import difflib
import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from autocompress import spec_values as values_of
from autocompress.errors import SpecError
from autocompress.spec_rules import (
    BITS,
    BLOCK_FORMATS,
    CODED,
    EMBEDDINGS,
    ENGINES,
    FORMATS,
    GGUF_TYPES,
    INTEGER,
    METRIC_VARIABLES,
    TORCH_KERNELS,
    USUAL_EMBEDDINGS,
    cache_problems,
    darwin_problems,
    decoding_problems,
    embeddings_problems,
    engine_problems,
    format_problems,
    is_llama_cpp,
    names,
    strategy_problems,
    untimed_problems,
    usual_bits,
    usual_format,
    usual_space,
    usual_warm_start,
    warm_start_problems,
    whole_layer_problems,
)
from autocompress.spec_values import Amount
from autocompress.workload import USUAL_MIX, Mix

DECODING: Final = "decoding"
"""The space that is searched beside a compressed model's, on tasks."""
SPACES: Final = ("depth", "width", "bits", "sparsity", "kv", DECODING)
PARETO: Final = ("pareto", "pareto-nsga2", "pareto-map-elites", "pareto-snes")
"""The strategies that search a whole front."""
STRATEGIES: Final = (
    "evolve",
    "darwin",
    *PARETO,
    "evopress",
    "evopress-fast",
    "evopress-free",
    "evopress-fast-free",
    "bayes",
    "bayes-tpe",
    "bayes-gp",
    "bayes-profile",
    "tpe",
    "additive",
    "weight-error",
    "fisher",
    "owl",
    "random",
    "uniform",
    "shortgpt",
    "cosine",
    "leave-one-out",
    "brute-force",
    "given",
)
WARM_STARTS: Final = ("losses", "gradients", "weights")
POOLS: Final = ("local", "ray")
DEVICES: Final = re.compile(r"auto|cpu|cuda(:\d+)?")
DTYPES: Final = ("auto", "bfloat16", "float32")
QUANTIZERS: Final = ("gptq", "round-to-nearest")
PRUNERS: Final = ("sparsegpt", "wanda", "magnitude")
COUNTED_BITS: Final = ("nominal", "stored", "whole")
SPARSITIES: Final = ("0.25", "0.5", "0.625", "0.75", "0.875")
CACHE_BITS: Final = ("8", "4")
RECOVERY_RATE: Final = 1e-3
RECOVERY: Final[Mapping[str, object]] = {
    "recovery_text": None,
    "recovery_rate": RECOVERY_RATE,
    "recovery_rank": None,
    "recovery_hidden": 0.0,
    "recovery_draw": "evenly",
}
"""What says how a winner is trained, and what it is where nobody says it."""
DARWIN_RUNGS: Final = ("2k:8:3", "8k:16:2", "16k:32:1")
DARWIN_GENERATIONS: Final = 6
DARWIN: Final[Mapping[str, object]] = {
    "darwin_rungs": DARWIN_RUNGS,
    "darwin_generations": DARWIN_GENERATIONS,
    "darwin_rate": RECOVERY_RATE,
    "darwin_optimizer": "adamw",
}
"""What says how candidates are trained before `darwin` measures them, where nobody says it."""
TIMING_PROCESSES: Final = 4
"""What runs of a process have in common, such as where its memory lies, made medians of one pair
of checkpoints differ by 2 % from process to process, however often each ran."""
DECODING_TRIALS: Final = 30
DECODING_ITEMS: Final = 64
DECODING_FIELDS: Final[Mapping[str, object]] = {
    "tasks": None,
    "decoding_tune": None,
    "decoding_fix": None,
    "decoding_trials": DECODING_TRIALS,
    "decoding_items": DECODING_ITEMS,
    "allow_python": False,
}
"""What says how decodings are searched beside a compressed model, where nobody says it."""
OPTIMIZERS: Final = ("adamw", "sgd")
DRAWS: Final = ("evenly", "worst")
TIMED: Final = ("target_speedup", "target_latency", "target_throughput")
"""The targets that are told by the clock: at most one is given."""
TARGETS: Final = (
    *TIMED,
    "target_memory",
    "target_bytes",
    "target_bits",
    "target_params",
)
TARGET_FLAGS: Final = tuple(f"--{name.replace('_', '-')}" for name in TARGETS)


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """Everything a search depends on, beside the machine.

    A study is a function of this, its latency rows and its recorded events. Units:
    `budget_seconds` of wall time for the search loop, beyond which a missed target is aimed at
    anew, and speed that nobody asked for given back once; `max_tokens` summed over candidates;
    both of each search for a compressed model where decoding is searched too;
    `context` is the length of a calibration sequence in tokens; `teacher_tokens` of the dense
    model's likeliest are kept of each prediction; a batch is cut into about `shards` parts, which
    decides what shares its computation, and how many workers can help. Winners are timed end to
    end in `timing_processes`, and up to three times as many where it is open whether they are fast
    enough. `weights_bytes` of the
    layers' weights are held by a worker, the others streamed; None holds all. `warm_start` is
    from measured losses of single changes, from gradients of the dense model, or from the weights
    alone; where nobody says it, from gradients if nothing but bits is searched. `start` names
    a file that tells a candidate to begin with, or to do nothing but measure if the strategy is
    `given`, which alone takes a `space` with `kv`. What the study `parent` has measured is not
    measured again.

    One target or two are given. `target_latency` is the most milliseconds that a mean request of
    the workload may take, measured on this machine; `target_throughput` the least tokens a second
    of its only workload, generated ones with prompts included in the time, or those of its phase;
    `target_memory` the most bytes that the
    engine's process may hold while it runs one, above what it holds before it opens the model.
    `target_bytes` and `target_params` count the whole model; `target_bits` is a mean over the
    dense model's searched linear layers, of codes alone (`counted_bits` is `nominal`) or of all
    that they store, or of all that the whole model stores.
    `bits` and `sparsities` are what a linear layer may take, as text: `4`, `w8sym` or `w4g32`
    with a group size of its own, `mxfp4` or `q4_k`, `0.5` or `2:4`; with a `sparsity_step`, levels
    lie so many weights apart in every layer, on both sides of the only one of `sparsities`.
    `group_size` columns share a scale, None picks it, 0 takes whole rows. Layers that engines fuse
    share a setting unless `per_linear`. Depth drops sub-blocks, or with `whole_layers` nothing but
    whole layers. A `pruner` may be a formula of weights `W`, inputs `X` and gradients `G`. A layer
    is calibrated with those before it stored as `upstream` says: `dense`, or one of `bits` or
    `sparsities`. The winner is written in a `format`: `hf` holds everything, `compressed-tensors`
    whole layers and bits, as engines read them, `gptq` the same for vLLM, `decilm` sub-blocks and
    bits, `gguf` whole layers and bits for llama.cpp. There `embeddings` tells in which of its
    types all candidates store token embedding and head; the dense model that they are held against
    keeps its own. The winner is trained on so many tokens as `recover` says, of `recovery_text`,
    at a learning rate of `recovery_rate`: all of it, or with a `recovery_rank` LoRA's adapters
    alone; `recovery_hidden` weighs how far hidden states are apart, beside predictions; a
    `recovery_draw` of `worst` takes more of the text where the winner loses most. The strategy
    `darwin` trains candidates before it measures them, by the `darwin_optimizer` at its rate: a
    rung `8k:16:2` trains on 8,000 tokens, reads 16 sequences and lets 2 go on. Latency tables that
    the store holds of the same machine and workload are measured again if `fresh_profile`. Tasks
    may run Python that they or the model's answers hold if `allow_python`.
    """

    model: str
    target_speedup: float | None = None
    target_latency: float | None = None
    target_throughput: float | None = None
    target_memory: Amount | None = None
    target_bytes: Amount | None = None
    target_bits: float | None = None
    target_params: Amount | None = None
    counted_bits: str = "nominal"
    space: tuple[str, ...] = ("depth", "width", "bits")
    whole_layers: bool = False
    bits: tuple[str, ...] = TORCH_KERNELS
    group_size: int | None = None
    symmetric: bool = False
    sparsities: tuple[str, ...] = SPARSITIES
    sparsity_step: int | None = None
    kv_bits: tuple[str, ...] = CACHE_BITS
    per_linear: bool = False
    quantizer: str = "gptq"
    pruner: str = "sparsegpt"
    upstream: str = "dense"
    embeddings: str = USUAL_EMBEDDINGS
    engine: str = "torch"
    format: str = "hf"
    workload: Mix = USUAL_MIX
    device: str = "auto"
    dtype: str = "auto"
    calibration: str | None = None
    latency_table: str | None = None
    fresh_profile: bool = False
    quality_floor: float = 1.3
    recover: int | None = None
    recovery_text: str | None = None
    recovery_rate: float = RECOVERY_RATE
    recovery_rank: int | None = None
    recovery_hidden: float = 0.0
    recovery_draw: str = "evenly"
    strategy: str = "evolve"
    darwin_rungs: tuple[str, ...] = DARWIN_RUNGS
    darwin_generations: int = DARWIN_GENERATIONS
    darwin_rate: float = RECOVERY_RATE
    darwin_optimizer: str = "adamw"
    start: str | None = None
    budget_seconds: float | None = None
    max_tokens: int | None = None
    workers: int | None = None
    pool: str = "local"
    address: str | None = None
    context: int = 256
    teacher_tokens: int = 512
    shards: int = 16
    timing_processes: int = TIMING_PROCESSES
    weights_bytes: int | None = None
    warm_start: str = "losses"
    tasks: str | None = None
    decoding_tune: str | None = None
    decoding_fix: str | None = None
    decoding_trials: int = DECODING_TRIALS
    decoding_items: int = DECODING_ITEMS
    allow_python: bool = False
    seed: int = 0
    parent: str | None = None
    trust_remote_code: bool = False

    @property
    def targets(self) -> dict[str, object]:
        """The targets that are given, by name, and which bits are counted."""
        given = {name: getattr(self, name) for name in TARGETS}
        found = {name: value for name, value in given.items() if value is not None}
        return found | {"counted_bits": self.counted_bits}

    @property
    def is_timed(self) -> bool:
        """Whether a target is told by the clock."""
        return any(getattr(self, name) is not None for name in TIMED)

    @property
    def is_clocked(self) -> bool:
        """Whether this machine's clock has a say: nothing runs what a roofline reckons."""
        return self.is_timed and self.roofline is None

    @property
    def most_milliseconds(self) -> float | None:
        """What a mean request may take, however that is asked; None if no time is."""
        if self.target_throughput is None:
            return self.target_latency
        return 1e3 * self.workload.first.tokens / self.target_throughput

    @property
    def has_stored_ends(self) -> bool:
        """Whether candidates store token embedding and head otherwise than the dense model."""
        return self.embeddings != USUAL_EMBEDDINGS

    @property
    def roofline(self) -> str | None:
        """The hardware that times are reckoned for; None where an engine is there to measure."""
        name, _, hardware = self.engine.partition(":")
        return hardware if name == "roofline" else None

    def to_json(self) -> dict[str, bool | int | float | str | list[str] | None]:
        """Return the form kept in the store; `from_mapping` reads it back."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name, value in plain.items():
            if isinstance(value, tuple):
                plain[name] = list(value)
            elif isinstance(value, Amount | Mix):
                plain[name] = str(value)
        return plain


def from_mapping(values: Mapping[str, object]) -> SearchSpec:
    """Check every value and return the spec.

    Keys are the fields' names, with `-` or `_`. Values may be text, as flags and YAML give it.

    Raises:
        SpecError: One line that names all offenders at once.
    """
    given = {key.replace("-", "_"): value for key, value in values.items()}
    checked, problems = _checked(given)
    if "model" not in checked and not any(p.startswith("model:") for p in problems):
        problems.append("model: missing; give MODEL or write it into autocompress.yaml.")
    targets = [name for name in TARGETS if given.get(name) is not None]
    if not targets:
        problems.append(
            f"target: missing; give {', '.join(TARGET_FLAGS[:-1])} or {TARGET_FLAGS[-1]}, or "
            "write one into autocompress.yaml."
        )
    elif len(targets) > 2:
        problems.append(
            f"target: `targets <= 2` must hold, but got {len(targets)}: {', '.join(targets)}."
        )
    by_clock = [name for name in targets if name in TIMED]
    if len(by_clock) > 1:
        problems.append(f"{by_clock[-1]}: give one of {', '.join(TIMED)} alone.")
    mix = checked.get("workload", USUAL_MIX)
    if "target_throughput" in checked and isinstance(mix, Mix) and len(mix.parts) > 1:
        problems.append(f"target_throughput: one workload must hold, but got {mix}.")
    form = str(checked.setdefault("format", usual_format(str(checked.get("engine")))))
    problems += engine_problems(checked) + format_problems(checked)
    problems += embeddings_problems(checked)
    engine = str(checked.get("engine", ""))
    if engine.startswith("roofline:") and checked.get("target_memory") is not None:
        problems.append(f"target_memory: nothing runs by {engine} whose memory could be measured.")
    formats = [name for name in names(checked, "bits") if name in BLOCK_FORMATS]
    if formats and {"bits", "sparsity"} <= set(names(checked, "space")):
        problems.append(
            f"bits: integers alone can be joined with sparsity, but got {', '.join(formats)}; "
            "leave them out, or sparsity."
        )
    middles = names(checked, "sparsities") or SPARSITIES
    if "sparsity_step" in checked and (len(middles) > 1 or ":" in middles[0]):
        problems.append(
            "sparsity_step: one share such as `sparsities: 0.5`, the middle of the levels, must "
            f"hold, but got {', '.join(middles)}."
        )
    if checked.get("address") is not None and checked.get("pool", "local") != "ray":
        problems.append("address: `pool: ray` must hold when an address is given.")
    if "recover" not in checked:
        told = [key for key, usual in RECOVERY.items() if checked.get(key, usual) != usual]
        problems += [f"{key}: `recover` must say how many tokens to train on." for key in told]
    is_timed = bool({*TIMED} & checked.keys())
    if checked.get("space", ("auto",)) == ("auto",):
        checked["space"] = usual_space(
            str(checked.get("engine", "torch")),
            form,
            is_timed=is_timed,
            device=str(checked.get("device", "auto")),
            whole_layers=bool(checked.get("whole_layers")),
        )
    problems += whole_layer_problems(checked) + darwin_problems(checked, DARWIN)
    problems += warm_start_problems(checked)
    usual_values = {field.name: field.default for field in dataclasses.fields(SearchSpec)}
    problems += cache_problems(checked) + strategy_problems(checked, usual_values)
    if targets:
        problems += untimed_problems(checked, TIMED)
    problems += decoding_problems(checked, targets, DECODING_FIELDS)
    if checked.get("strategy") == "given" and checked.get("start") is None:
        problems.append("strategy: `given` measures what a file tells: name it by `start`.")
    if form in ("compressed-tensors", "gptq", "gguf") and "depth" in names(checked, "space"):
        checked["whole_layers"] = True
    if form in CODED:
        checked["symmetric"] = True
    if is_llama_cpp(checked) or "bits" in names(checked, "space"):
        usual = usual_bits(str(checked.get("engine", "torch")), form, is_timed, len(targets))
        checked.setdefault("bits", usual)
    checked.setdefault("warm_start", usual_warm_start(checked))
    upstream = ["dense"]
    upstream += names(checked, "bits") or BITS if "bits" in names(checked, "space") else ()
    upstream += middles if "sparsity" in names(checked, "space") else ()
    if checked.get("upstream", "dense") not in upstream:
        problems.append(
            f"upstream: unknown {checked['upstream']!r}. Known in this space: "
            f"{', '.join(upstream)}."
        )
    if problems:
        raise SpecError(" ".join(problems))
    return SearchSpec(**checked)  # type: ignore[arg-type]  # each reader returns its field's type


def check_compresses_alone(spec: SearchSpec, what: str) -> None:
    """Make sure that a search is for a compressed model, and not for its decoding too.

    Args:
        what: Takes no other searches, in words.

    Raises:
        SpecError: If it is for both.
    """
    if DECODING in spec.space:
        raise SpecError(
            f"space: {what} searches for compressed models alone: leave `{DECODING}` out of the "
            "space, or run `autocompress search`."
        )


def read_values(values: Mapping[str, object]) -> dict[str, object]:
    """Check some fields of a spec by themselves; those that are None get its defaults.

    Raises:
        SpecError: One line that names all offenders at once.
    """
    checked, problems = _checked(values)
    if problems:
        raise SpecError(" ".join(problems))
    usual = {field.name: field.default for field in dataclasses.fields(SearchSpec)}
    return {name: checked.get(name, usual[name]) for name in values}


def _checked(given: Mapping[str, object]) -> tuple[dict[str, object], list[str]]:
    """Return what the given values mean, and what is wrong with others; None is not given."""
    problems = [_unknown(key) for key in given if key not in _READERS]
    checked: dict[str, object] = {}
    for key, value in given.items():
        if key not in _READERS or value is None:
            continue
        try:
            checked[key] = _READERS[key](value)
        except ValueError as error:
            problems.append(f"{key}: {error}.")
    return checked, problems


def read_yaml(path: Path) -> dict[str, object]:
    """Read a spec file into a mapping of plain values.

    Raises:
        SpecError: If the file is missing, not YAML, or not a mapping.
    """
    try:
        loaded = _from_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"Cannot read spec file {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise SpecError(f"{path} must hold a mapping of names to values.")
    return loaded


class _Loader(yaml.SafeLoader):
    """Reads `2:4` as text, which YAML 1.1 takes for a number of base 60, 124."""

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: object) -> str:
        tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        is_number = tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        return "tag:yaml.org,2002:str" if is_number and ":" in str(value) else tag


def _from_yaml(text: str) -> object:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _unknown(key: str) -> str:
    known = sorted(_READERS)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"Unknown key {key!r}{hint} Known: {', '.join(known)}."


def _space(value: object) -> tuple[str, ...]:
    names = values_of.names(value, "spaces")
    if names == ["auto"]:
        return ("auto",)
    picked = {values_of.one_of(SPACES)(name) for name in names}
    return tuple(name for name in SPACES if name in picked)


def _bits(value: object) -> tuple[str, ...]:
    read = values_of.one_of((*BITS, *BLOCK_FORMATS, *GGUF_TYPES))
    return tuple(
        dict.fromkeys(
            name if INTEGER.fullmatch(name) else read(name)
            for name in values_of.names(value, "bits")
        )
    )


def _cache_bits(value: object) -> tuple[str, ...]:
    picked = {values_of.one_of(CACHE_BITS)(name) for name in values_of.names(value, "bits")}
    return tuple(bits for bits in CACHE_BITS if bits in picked)


def _sparsities(value: object) -> tuple[str, ...]:
    shares = {name: _share(name) for name in values_of.names(value, "sparsities")}
    wrong = [name for name, share in shares.items() if not 0 < share < 1]
    if wrong:
        raise ValueError(f"a sparsity such as 0.5 or 2:4 must hold, but got {wrong[0]!r}")

    def picked_from(name: str) -> float:
        """Return of how many weights those that go are picked: the more, the better."""
        return math.inf if ":" not in name else int(name.partition(":")[2])

    # Of levels that save as much the first is taken.
    return tuple(sorted(shares, key=lambda name: (shares[name], -picked_from(name), name)))


def _share(sparsity: str) -> float:
    """Return the share of zeros of `0.5` or `2:4`; 0 for what is neither."""
    match = re.fullmatch(r"(0\.\d+)|(\d+):([1-9]\d*)", sparsity)
    if match is None:
        return 0.0
    return float(match[1]) if match[1] else 1 - int(match[2]) / int(match[3])


def _pruner(value: object) -> str:
    """Read a name, or the formula of a metric, which is checked where it is compiled."""
    if isinstance(value, str) and any(variable in value for variable in METRIC_VARIABLES):
        return value.strip()
    return values_of.one_of(PRUNERS)(value)


def _upstream(value: object) -> str:
    if isinstance(value, bool):
        raise ValueError(f"`dense`, or what layers may take, must hold, but got {value}")
    return str(value).strip()


def _rungs(value: object) -> tuple[str, ...]:
    rungs = values_of.names(value, "rungs")
    parts = [read_rung(rung) for rung in rungs]
    for before, after in itertools.pairwise(parts):
        if not (before[0] < after[0] and before[2] >= after[2]):
            raise ValueError(
                "tokens to train on must grow from rung to rung and survivors must not, but got "
                f"{', '.join(rungs)}"
            )
    return tuple(rungs)


def read_rung(rung: str) -> tuple[int, int, int]:
    """Return the tokens to train on, the sequences to read and the survivors of `8k:16:2`.

    Raises:
        ValueError: If it is no such text.
    """
    parts = rung.split(":")
    if len(parts) != 3:
        raise ValueError(f"TOKENS:SEQUENCES:SURVIVORS such as 8k:16:2 must hold, but got {rung!r}")
    read = values_of.whole(1, 10**9)
    return values_of.count()(parts[0]), read(parts[1]), read(parts[2])


def _weight(value: object) -> float:
    """Read a number that may be 0."""
    if isinstance(value, int | float) and value == 0 and not isinstance(value, bool):
        return 0.0
    return values_of.number(0, 1e6)(value)


def _workload(value: object) -> Mix:
    return Mix.parse(str(value))


def _device(value: object) -> str:
    if not isinstance(value, str) or DEVICES.fullmatch(value) is None:
        raise ValueError(f"`auto`, `cpu`, `cuda` or `cuda:N` must hold, but got {value!r}")
    return value


_READERS: Final[Mapping[str, Callable[[object], object]]] = {
    "model": values_of.text,
    "target_speedup": values_of.number(1, 1000, suffix="x"),
    "target_latency": values_of.milliseconds,
    "target_throughput": values_of.number(0, 1e12),
    "target_memory": values_of.amount,
    "target_bytes": values_of.amount,
    "target_bits": values_of.number(0, 32),
    "target_params": values_of.amount,
    "counted_bits": values_of.one_of(COUNTED_BITS),
    "space": _space,
    "whole_layers": values_of.flag,
    "bits": _bits,
    "group_size": values_of.whole(0, 65_536),
    "symmetric": values_of.flag,
    "sparsities": _sparsities,
    "sparsity_step": values_of.whole(1, 10**12),
    "kv_bits": _cache_bits,
    "per_linear": values_of.flag,
    "quantizer": values_of.one_of(QUANTIZERS),
    "pruner": _pruner,
    "upstream": _upstream,
    "embeddings": values_of.one_of(EMBEDDINGS),
    "engine": values_of.one_of(ENGINES),
    "format": values_of.one_of(FORMATS),
    "workload": _workload,
    "device": _device,
    "dtype": values_of.one_of(DTYPES),
    "calibration": values_of.text,
    "latency_table": values_of.text,
    "fresh_profile": values_of.flag,
    "quality_floor": values_of.number(1, 1e9),
    "recover": values_of.count(),
    "recovery_text": values_of.text,
    "recovery_rate": values_of.number(0, 1),
    "recovery_rank": values_of.whole(1, 65_536),
    "recovery_hidden": _weight,
    "recovery_draw": values_of.one_of(DRAWS),
    "strategy": values_of.one_of(STRATEGIES),
    "darwin_rungs": _rungs,
    "darwin_generations": values_of.whole(1, 100_000),
    "darwin_rate": values_of.number(0, 1),
    "darwin_optimizer": values_of.one_of(OPTIMIZERS),
    "start": values_of.text,
    "budget_seconds": values_of.seconds,
    "max_tokens": values_of.count(),
    "workers": values_of.whole(1, 4096),
    "pool": values_of.one_of(POOLS),
    "address": values_of.text,
    "tasks": values_of.text,
    "decoding_tune": values_of.text,
    "decoding_fix": values_of.text,
    "decoding_trials": values_of.whole(2, 100_000),
    "decoding_items": values_of.whole(8, 100_000),
    "allow_python": values_of.flag,
    "context": values_of.count(16, 1_000_000),
    "teacher_tokens": values_of.count(1, 10**9),
    "shards": values_of.whole(1, 65_536),
    "timing_processes": values_of.whole(2, 100),
    "weights_bytes": values_of.size,
    "warm_start": values_of.one_of(WARM_STARTS),
    "seed": values_of.whole(0, 2**32 - 1),
    "parent": values_of.text,
    "trust_remote_code": values_of.flag,
}
