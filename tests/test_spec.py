"""Flags and YAML become one checked spec, or one message that names every offender."""

import dataclasses
import re
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress import spec_rules
from autocompress.errors import SpecError
from autocompress.spaces import settings
from autocompress.spec import (
    COUNTED_BITS,
    SPACES,
    SPARSITIES,
    STRATEGIES,
    TARGETS,
    TIMED,
    SearchSpec,
    from_mapping,
    read_yaml,
)
from autocompress.spec_rules import (
    BITS,
    BLOCK_FORMATS,
    BY_TORCH,
    ENGINES,
    GGUF_TYPES,
    OF_STRATEGIES,
)
from autocompress.spec_values import Amount
from autocompress.workload import Mix, Workload

AMOUNTS = st.integers(1, 10**15).map(float).map(Amount) | st.floats(
    0, 100, exclude_min=True, allow_subnormal=False
).map(lambda percent: Amount(percent, is_percent=True))
LEAST = {"model": "folder", "target_speedup": 2}

WORKLOADS = st.builds(
    Workload, st.integers(1, 10**4), st.integers(1, 10**6), st.integers(1, 10**6)
).map(lambda workload: Mix(((1.0, workload),))) | st.just(Mix.parse("3*1x128+64,1*decode"))
TEXTS = st.text(min_size=1, max_size=20).filter(str.strip)
SPECS = st.builds(
    SearchSpec,
    model=TEXTS,
    target_speedup=st.floats(1, 1000, exclude_min=True),
    target_bytes=st.none() | AMOUNTS,
    counted_bits=st.sampled_from(COUNTED_BITS),
    space=st.sampled_from([("depth",), ("width",), ("depth", "width"), ("bits", "sparsity")]),
    bits=st.sampled_from([("8",), ("4", "2", "3"), BITS]),
    group_size=st.none() | st.integers(0, 65_536),
    symmetric=st.booleans(),
    sparsities=st.sampled_from([("0.5",), ("0.25", "2:4"), ("0.3", "4:8", "0.875")]),
    kv_bits=st.sampled_from([("8", "4"), ("4",)]),
    per_linear=st.booleans(),
    workload=WORKLOADS,
    device=st.sampled_from(["auto", "cpu", "cuda", "cuda:3"]),
    dtype=st.sampled_from(["auto", "bfloat16", "float32"]),
    calibration=st.none() | TEXTS,
    latency_table=st.none() | TEXTS,
    quality_floor=st.floats(1, 1e9, exclude_min=True),
    budget_seconds=st.none() | st.integers(1, 10**6).map(float),
    max_tokens=st.none() | st.integers(1, 10**15),
    workers=st.none() | st.integers(1, 4096),
    pool=st.just("ray"),
    address=st.none() | TEXTS,
    context=st.integers(16, 10**6),
    seed=st.integers(0, 2**32 - 1),
    trust_remote_code=st.booleans(),
)


def refusal(**values: object) -> str:
    with pytest.raises(SpecError) as caught:
        from_mapping(LEAST | values)
    return str(caught.value)


@given(SPECS)
def test_json_gives_the_spec_back(spec: SearchSpec) -> None:
    assert from_mapping(spec.to_json()) == spec


SUITING = {
    "target_speedup": ENGINES,
    "target_latency": ENGINES,
    "target_throughput": ENGINES,
    "target_memory": (*BY_TORCH, "llama.cpp"),
    "target_bytes": ENGINES,
    "target_bits": ENGINES,
    "target_params": [engine for engine in ENGINES if engine != "llama.cpp"],
}
"""The engines of each target that may be asked of them without a word on the space."""


@pytest.mark.parametrize(
    ("target", "engine"), [(target, engine) for target in TARGETS for engine in SUITING[target]]
)
def test_what_auto_stood_for_is_read_back_from_the_store(target: str, engine: str) -> None:
    spec = from_mapping({"model": "m", target: 2, "engine": engine})

    assert from_mapping(spec.to_json()) == spec


def test_the_least_that_is_needed_is_a_model_and_a_target() -> None:
    spec = from_mapping(LEAST)

    assert spec == SearchSpec(model="folder", target_speedup=2.0)


def test_every_field_has_a_reader() -> None:
    known = {field.name for field in dataclasses.fields(SearchSpec)}

    listed = refusal(nothing_like_it=1).partition("Known: ")[2].removesuffix(".").split(", ")

    assert set(listed) == known


@pytest.mark.parametrize(
    ("text", "speedup"), [("2", 2.0), ("2x", 2.0), ("1.5X", 1.5), (" 3 x", 3.0), (1.01, 1.01)]
)
def test_a_target_is_read(text: object, speedup: float) -> None:
    assert from_mapping(LEAST | {"target_speedup": text}).target_speedup == speedup


@pytest.mark.parametrize("value", ["0x", "1x", "-2", "nan", "inf", "1001", 0, 1, -2])
def test_a_target_that_is_none_is_refused(value: object) -> None:
    message = refusal(target_speedup=value)

    assert message == f"target_speedup: `1 < value <= 1000` must hold, but got {value}."


@pytest.mark.parametrize("value", ["abc", "", "x", "2xx", "2,5", [2], True])
def test_a_target_that_is_no_number_is_refused(value: object) -> None:
    assert refusal(target_speedup=value) == (
        f"target_speedup: a number must hold, but got {value!r}."
    )


def test_what_is_missing_is_named_with_the_way_to_give_it() -> None:
    with pytest.raises(SpecError) as caught:
        from_mapping({})

    assert str(caught.value) == (
        "model: missing; give MODEL or write it into autocompress.yaml. "
        "target: missing; give --target-speedup, --target-latency, --target-throughput, "
        "--target-memory, --target-bytes, "
        "--target-bits or --target-params, or write one into autocompress.yaml."
    )


def test_none_is_as_good_as_missing() -> None:
    spec = from_mapping(LEAST | {"workers": None, "context": None})

    assert (spec.workers, spec.context) == (None, 256)


def test_all_offenders_are_in_one_message() -> None:
    message = refusal(
        target_speedup="abc", spaace="depth", seed=-1, device="gpu", pool="rai", context=8
    )

    assert "\n" not in message
    for offender in (
        "Unknown key 'spaace'; did you mean 'space'?",
        "target_speedup: a number must hold, but got 'abc'.",
        "seed: `0 <= value <= 4294967295` must hold, but got -1.",
        "device: `auto`, `cpu`, `cuda` or `cuda:N` must hold, but got 'gpu'.",
        "pool: unknown 'rai'; did you mean 'ray'? Known: local, ray.",
        "context: `16 <= value <= 1000000` must hold, but got 8.",
    ):
        assert offender in message
    assert "target: missing" not in message


@pytest.mark.parametrize(
    ("key", "near"),
    [("modell", "model"), ("taget-speedup", "target_speedup"), ("worker", "workers")],
)
def test_an_unknown_key_is_answered_with_the_nearest(key: str, near: str) -> None:
    written = key.replace("-", "_")

    assert f"Unknown key '{written}'; did you mean '{near}'?" in refusal(**{key: 1})


def test_an_unknown_key_like_none_is_answered_with_the_list() -> None:
    assert "Unknown key 'qqqq'. Known: address, allow_python, bits, " in refusal(qqqq=1)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (
            "space",
            "dept",
            f"unknown 'dept'; did you mean 'depth'? Known: {', '.join(SPACES)}.",
        ),
        ("space", "", f"unknown ''. Known: {', '.join(SPACES)}."),
        ("space", [], "a list of spaces must hold, but got []."),
        ("space", 3, f"unknown '3'. Known: {', '.join(SPACES)}."),
        ("bits", "7", f"unknown '7'. Known: {', '.join((*BITS, *BLOCK_FORMATS, *GGUF_TYPES))}."),
        ("bits", True, "a list of bits must hold, but got True."),
        ("kv_bits", "2", "unknown '2'. Known: 8, 4."),
        ("sparsities", "0.5,1.0", "a sparsity such as 0.5 or 2:4 must hold, but got '1.0'."),
        ("sparsities", "4:4", "a sparsity such as 0.5 or 2:4 must hold, but got '4:4'."),
        ("sparsity_step", 0, "`1 <= value <= 1000000000000` must hold, but got 0."),
        (
            "sparsity_step",
            64,
            f"the middle of the levels, must hold, but got {', '.join(SPARSITIES)}.",
        ),
        ("pruner", "gptq", "Known: sparsegpt, wanda, magnitude."),
        ("pruner", "wandas", "did you mean 'wanda'? Known: sparsegpt, wanda, magnitude."),
        ("upstream", "3", "unknown '3'. Known in this space: dense, w8sym, 4."),
        ("upstream", True, "`dense`, or what layers may take, must hold, but got True."),
        ("sparsities", "2:0", "a sparsity such as 0.5 or 2:4 must hold, but got '2:0'."),
        ("group_size", -1, "`0 <= value <= 65536` must hold, but got -1."),
        ("target_bytes", "4 GiB", "a size such as 8GB, or 50%, must hold, but got '4 GiB'."),
        ("target_bytes", "0%", "`0 < value <= 100` must hold, but got 0."),
        ("target_params", "101%", "`0 < value <= 100` must hold, but got 101."),
        ("target_bits", "0", "`0 < value <= 32` must hold, but got 0."),
        ("dtype", "float16", "Known: auto, bfloat16, float32."),
        ("engine", "sglang", f"unknown 'sglang'. Known: {', '.join(ENGINES)}."),
        ("strategy", "evolv", f"did you mean 'evolve'? Known: {', '.join(STRATEGIES)}."),
        ("target_latency", "5ms", f"give one of {', '.join(TIMED)} alone."),
        ("target_throughput", 300, f"give one of {', '.join(TIMED)} alone."),
        ("target_memory", "much", "a size such as 8GB, or 50%, must hold, but got 'much'."),
        ("workload", "1x2", "such as `3*1x128+64,1*decode`, must hold, but got '1x2'."),
        ("workload", "0x2+3", "such as `3*1x128+64,1*decode`, must hold, but got '0x2+3'."),
        ("budget_seconds", "0s", "a duration such as 30m must hold, but got '0s'."),
        ("budget_seconds", "3 days", "a duration such as 30m must hold, but got '3 days'."),
        ("max_tokens", "1e6", "a number such as 300k must hold, but got '1e6'."),
        ("max_tokens", "1.5", "a number such as 300k must hold, but got '1.5'."),
        ("context", "2M", "`16 <= value <= 1000000` must hold, but got 2M."),
        ("workers", 0, "`1 <= value <= 4096` must hold, but got 0."),
        ("workers", 1.5, "a whole number must hold, but got 1.5."),
        ("weights_bytes", "0GB", "a size such as 8GB must hold, but got '0GB'."),
        ("weights_bytes", "8GiB", "a size such as 8GB must hold, but got '8GiB'."),
        ("recover", "0", "`1 <= value <= 1000000000000000` must hold, but got 0."),
        ("recover", "2MB", "a number such as 300k must hold, but got '2MB'."),
        ("recovery_rate", 0, "`0 < value <= 1` must hold, but got 0."),
        ("recovery_rank", 0, "`1 <= value <= 65536` must hold, but got 0."),
        ("recovery_hidden", -1, "`0 < value <= 1e+06` must hold, but got -1."),
        ("darwin_rate", 2, "`0 < value <= 1` must hold, but got 2."),
        ("darwin_generations", 3, "`strategy: darwin` must hold, which trains candidates."),
        ("darwin_optimizer", "adam", "unknown 'adam'; did you mean 'adamw'? Known: adamw, sgd."),
        (
            "darwin_rungs",
            "2k:8",
            "TOKENS:SEQUENCES:SURVIVORS such as 8k:16:2 must hold, but got '2k:8'.",
        ),
        (
            "darwin_rungs",
            "8k:8:2,2k:16:1",
            "survivors must not, but got 8k:8:2, 2k:16:1.",
        ),
        ("recovery_rank", 8, "`recover` must say how many tokens to train on."),
        ("recovery_text", "more.txt", "`recover` must say how many tokens to train on."),
        ("warm_start", "loss", "did you mean 'losses'? Known: losses, gradients, weights."),
        ("seed", True, "a whole number must hold, but got True."),
        ("model", "  ", "a text must hold, but got '  '."),
        ("model", 3, "a text must hold, but got 3."),
        ("trust_remote_code", "yes", "true or false must hold, but got 'yes'."),
        ("quality_floor", 1, "`1 < value <= 1e+09` must hold, but got 1."),
        ("device", "cuda:x", "`auto`, `cpu`, `cuda` or `cuda:N` must hold, but got 'cuda:x'."),
    ],
)
def test_a_bad_value_is_named_with_its_key(key: str, value: object, reason: str) -> None:
    message = refusal(**{key: value})

    assert message.startswith(f"{key}: ")
    assert message.endswith(reason)


def test_text_to_train_on_goes_with_tokens() -> None:
    assert from_mapping(LEAST).recover is None
    spec = from_mapping(LEAST | {"recover": "1.5M", "recovery_text": "more.txt"})
    assert (spec.recover, spec.recovery_text) == (1_500_000, "more.txt")


@pytest.mark.parametrize("key", ["max_tokens", "recover", "context", "teacher_tokens"])
@pytest.mark.parametrize(
    ("text", "tokens"),
    [("20k", 20_000), ("1.3 K", 1300), ("0.5M", 500_000), ("20_000", 20_000), (4096, 4096)],
)
def test_tokens_are_counted_in_thousands_everywhere(key: str, text: object, tokens: int) -> None:
    assert getattr(from_mapping(LEAST | {key: text}), key) == tokens


def test_a_strategy_that_trains_wants_a_winner_that_is_trained_and_shapes_alone() -> None:
    darwin = {"strategy": "darwin", "space": "depth,width"}

    assert from_mapping(LEAST | darwin | {"recover": "1k"}).darwin_generations == 6
    assert refusal(**darwin).endswith("`recover` must say how many tokens that is trained on.")
    assert "but got bits in the space" in refusal(
        **(darwin | {"space": "depth,bits", "recover": "1k"})
    )
    assert "streamed" in refusal(**darwin, recover="1k", weights_bytes="1GB")


def test_a_strategy_that_trains_may_leave_a_part_of_the_speedup_to_decoding() -> None:
    joint = {"strategy": "darwin", "space": "depth,width,decoding", "recover": "1k"}

    assert from_mapping(LEAST | joint).space == ("depth", "width", "decoding")


def test_two_targets_may_be_given_and_not_three() -> None:
    two = from_mapping(LEAST | {"target_bytes": "50%"})
    assert (two.target_speedup, two.target_bytes) == (2.0, Amount(50.0, is_percent=True))

    assert refusal(target_bits=3, target_bytes="4GB") == (
        "target: `targets <= 2` must hold, but got 3: target_speedup, target_bytes, target_bits."
    )


@pytest.mark.parametrize(
    ("text", "amount"),
    [("4GB", 4e9), ("500k", 5e5), (1234, 1234.0), ("50%", 500.0), ("12.5 %", 125.0)],
)
def test_an_amount_is_absolute_or_a_share_of_dense(text: object, amount: float) -> None:
    spec = from_mapping({"model": "folder", "target_params": text})

    assert spec.target_params is not None
    assert spec.target_params.of(1000) == amount


def test_what_a_target_needs_is_searched_by_default() -> None:
    assert from_mapping({"model": "m", "target_bits": 3}).space == ("bits",)
    assert from_mapping({"model": "m", "target_bytes": "50%", "space": "auto"}).space == ("bits",)
    assert from_mapping(LEAST | {"target_bits": 3}).space == ("depth", "width", "bits")
    assert from_mapping(LEAST | {"device": "cuda:1"}).space == ("depth", "width")
    assert from_mapping(LEAST | {"engine": "roofline:h100"}).space == ("depth", "width")
    assert from_mapping(LEAST | {"engine": "torch-compiled"}).space == ("depth", "width")
    small = {"model": "m", "target_bytes": "50%", "engine": "torch-compiled"}
    assert from_mapping(small).space == ("depth", "width")
    assert from_mapping(small | {"whole_layers": True}).space == ("depth",)
    assert from_mapping(LEAST | {"engine": "llama.cpp"}).space == ("depth", "bits")
    assert from_mapping({"model": "m", "target_bits": 3, "engine": "llama.cpp"}).space == ("bits",)
    assert from_mapping(LEAST | {"engine": "vllm"}).space == ("depth", "bits")
    assert from_mapping(LEAST | {"whole_layers": True}).space == ("depth", "bits")
    assert from_mapping(LEAST | {"whole_layers": True, "device": "cuda"}).space == ("depth",)


FOR_GPUS, FOR_CPUS = ["sympy", 'nvidia-cublas==13.1; platform_system == "Linux"'], ["sympy"]


@pytest.mark.parametrize(
    ("is_loaded", "visible", "required", "is_gpu"),
    [
        (True, None, FOR_GPUS, True),
        (True, None, FOR_CPUS, False),
        (True, "1,2", FOR_GPUS, True),
        (True, "", FOR_GPUS, False),
        (True, "-1", FOR_GPUS, False),
        (False, None, FOR_GPUS, False),
    ],
)
def test_auto_is_the_gpu_whose_driver_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    is_loaded: bool,
    visible: str | None,
    required: list[str],
    is_gpu: bool,
) -> None:
    driver = tmp_path / "driver"
    if is_loaded:
        driver.touch()
    monkeypatch.setattr(spec_rules, "GPU_DRIVERS", (tmp_path / "other", driver))
    monkeypatch.setattr(metadata, "requires", lambda _: required)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    spaces = [from_mapping(LEAST | {"device": name}).space for name in ("auto", "cuda", "cpu")]

    assert spaces[1:] == [("depth", "width"), ("depth", "width", "bits")]
    assert spaces[0] == spaces[1 if is_gpu else 2]


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ({"target_bits": 3}, BITS),
        ({"target_speedup": 2}, ("w8sym", "4")),
        ({"target_speedup": 2, "target_bytes": "30%"}, ("w8sym", "4", "3", "2")),
        ({"target_speedup": 2, "engine": "roofline:l4", "space": "bits"}, BITS),
        ({"target_speedup": 2, "engine": "llama.cpp"}, GGUF_TYPES),
        ({"target_speedup": 2, "engine": "vllm"}, ("4",)),
        (
            {"target_speedup": 2, "bits": "w4g32,w3g64sym,w2,8,4"},
            ("w4g32", "w3g64sym", "w2", "8", "4"),
        ),
    ],
)
def test_weights_take_by_default_what_the_engine_multiplies(
    values: dict[str, object], bits: tuple[str, ...]
) -> None:
    assert from_mapping({"model": "m", **values}).bits == bits


@pytest.mark.parametrize("text", ["w7", "w4g0", "w4g", "w4 sym", "w4g32+s0.5", "4g32", "w1g32"])
def test_bits_with_a_group_size_are_those_of_a_setting(text: str) -> None:
    with pytest.raises(SpecError, match=r"^bits: unknown"):
        from_mapping(LEAST | {"bits": text})


def test_llama_cpp_searches_the_types_of_its_files() -> None:
    spec = from_mapping(LEAST | {"engine": "llama.cpp"})

    assert spec.space == ("depth", "bits")
    assert spec.whole_layers
    assert spec.bits == GGUF_TYPES
    assert from_mapping(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"bits": "4,q4_k"},
            "bits: llama.cpp runs q8_0, q6_k, q5_k, q5_0, q4_k, q4_0, q3_k, q2_k",
        ),
        (
            {"space": "depth,width,bits"},
            "space: GGUF files hold `depth` and `bits` alone, but got width",
        ),
        ({"device": "cuda"}, "device: llama.cpp runs on the `cpu` here."),
        ({"target_params": "50%", "space": "bits"}, "target_params: bits leave all parameters"),
        ({"quantizer": "round-to-nearest"}, "quantizer: GGUF's types have blocks and a quantizer"),
        ({"group_size": 64}, "group_size: GGUF's types have blocks and a quantizer"),
        ({"symmetric": True}, "symmetric: GGUF's types have blocks and a quantizer"),
    ],
)
def test_what_llama_cpp_cannot_run_is_refused(values: dict[str, object], reason: str) -> None:
    assert reason in refusal(engine="llama.cpp", **values)


def test_embedding_and_head_are_stored_as_files_of_llama_cpp_can() -> None:
    spec = from_mapping(LEAST | {"engine": "llama.cpp", "embeddings": "q6_k"})

    assert (spec.embeddings, spec.has_stored_ends) == ("q6_k", True)
    assert from_mapping(spec.to_json()) == spec
    assert not from_mapping(LEAST | {"engine": "llama.cpp"}).has_stored_ends
    assert not from_mapping(LEAST | {"embeddings": "f16"}).has_stored_ends


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"engine": "torch", "embeddings": "q6_k"},
            "embeddings: `engine: llama.cpp` must hold for q6_k, a type of GGUF files.",
        ),
        (
            {"engine": "vllm", "embeddings": "q8_0"},
            "embeddings: `engine: llama.cpp` must hold for q8_0, a type of GGUF files.",
        ),
        (
            {"engine": "llama.cpp", "embeddings": "q6_k", "recover": "10k"},
            "embeddings: `recover` leaves them dense, not in q6_k; give one of the two.",
        ),
        (
            {"engine": "llama.cpp", "embeddings": "q7_k"},
            "embeddings: unknown 'q7_k'; did you mean",
        ),
        ({"engine": "llama.cpp", "embeddings": "4"}, "embeddings: unknown '4'. Known: f16, q8_0,"),
    ],
)
def test_embeddings_that_cannot_be_stored_so_are_refused(
    values: dict[str, object], reason: str
) -> None:
    assert reason in refusal(**values)


def test_a_decilm_drops_sub_blocks() -> None:
    spec = from_mapping(LEAST | {"engine": "vllm", "format": "decilm"})

    assert spec.space == ("depth", "bits")
    assert not spec.whole_layers
    assert spec.symmetric
    assert from_mapping(spec.to_json()) == spec
    reason = "format: decilm holds whole sub-blocks and bits alone, but got width in the space"
    assert reason in refusal(format="decilm", space="depth,width")
    assert from_mapping(LEAST | {"format": "decilm"}).space == ("depth",)


def test_vllm_is_given_compressed_tensors() -> None:
    spec = from_mapping(LEAST | {"engine": "vllm", "bits": "w8sym,w4g32sym,4,fp8"})

    assert spec.format == "compressed-tensors"
    assert spec.whole_layers
    assert spec.symmetric
    assert from_mapping(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"bits": "4,3"}, "bits: vLLM has kernels for 8, 4, fp8, mxfp4, nvfp4, but got 3."),
        ({"bits": "w6sym"}, "bits: vLLM has kernels for 8, 4, fp8, mxfp4, nvfp4, but got w6sym."),
        ({"space": "depth,width"}, "format: compressed-tensors holds whole layers and bits alone"),
        ({"format": "hf"}, "format: vLLM opens compressed-tensors, decilm, gptq, but got hf."),
        ({"target_memory": "50%"}, "target_memory: vLLM takes the memory that it is told to"),
    ],
)
def test_what_vllm_cannot_run_is_refused(values: dict[str, object], reason: str) -> None:
    assert reason in refusal(engine="vllm", **values)


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        ("depth,width", "whole_layers: what is left has its full width; leave `width` out"),
        ("bits", "whole_layers: `depth` must be in the space."),
    ],
)
def test_whole_layers_keep_their_width_and_are_dropped(space: str, reason: str) -> None:
    assert reason in refusal(space=space, whole_layers=True)


def test_a_search_in_what_no_target_counts_is_refused_with_the_way_out() -> None:
    assert refusal(space="depth,kv", kv_bits="8") == (
        "space: no target counts the bits of a KV cache, so no search takes fewer of them; leave "
        "`kv` out, measure a candidate that a file tells by `--strategy given --start FILE`, or "
        "race caches by `autocompress decode --tune cache`."
    )


def test_a_candidate_that_a_file_tells_may_have_a_cache_of_few_bits() -> None:
    told = {"space": "depth,kv", "strategy": "given", "start": "recipe.yaml"}

    spec = from_mapping(LEAST | told)

    assert spec.space == ("depth", "kv")
    assert from_mapping(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("told", "start"),
    [
        ({"space": "bits"}, "gradients"),
        ({"space": "sparsity,bits"}, "losses"),
        ({"space": "sparsity,bits", "warm_start": "gradients"}, "gradients"),
        ({"space": "bits", "strategy": "pareto"}, "gradients"),
        ({"space": "depth,bits"}, "losses"),
        ({"space": "bits", "weights_bytes": "1GB"}, "losses"),
        ({"space": "bits", "engine": "llama.cpp", "embeddings": "q6_k"}, "losses"),
        ({"space": "bits", "engine": "llama.cpp"}, "gradients"),
        ({"space": "bits", "strategy": "evopress"}, "losses"),
        ({"space": "bits", "warm_start": "losses"}, "losses"),
    ],
)
def test_a_search_of_nothing_but_bits_begins_from_gradients(
    told: dict[str, object], start: str
) -> None:
    spec = from_mapping(LEAST | told)

    assert spec.warm_start == start
    assert from_mapping(spec.to_json()) == spec


def test_gradients_are_refused_where_they_say_nothing_or_there_are_none() -> None:
    assert refusal(space="depth,bits", warm_start="gradients") == (
        "warm_start: `gradients` say something of bits and sparsity alone, but got depth in the "
        "space; take `losses`."
    )
    assert refusal(space="bits", warm_start="gradients", weights_bytes="1GB") == (
        "warm_start: a model that is streamed has no gradients; take `losses`."
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_a_strategy_does_not_read_is_refused_with_those_that_do(strategy: str) -> None:
    given = {"start": "recipe.yaml"} if strategy == "given" else {}
    trained = {"recover": 1000, "space": "depth"} if strategy == "darwin" else {}
    least = {"strategy": strategy, **given, **trained}
    values = {"budget_seconds": "1m", "max_tokens": 9, "start": "a.yaml", "warm_start": "weights"}
    # What publishes one candidate has the spec of that candidate's study.
    unread = [
        key
        for key in values
        if strategy not in OF_STRATEGIES[key] and strategy != "given" and key not in least
    ]

    from_mapping(LEAST | least | {key: values[key] for key in values if key not in unread})

    for key in unread:
        told = refusal(**least, **{key: values[key]})
        assert told == (
            f"{key}: `strategy: {strategy}` does not read it; leave it out, or take one of "
            f"{', '.join(OF_STRATEGIES[key])}."
        )


def test_all_that_a_strategy_does_not_read_is_told_at_once() -> None:
    told = refusal(strategy="uniform", budget_seconds="1m", max_tokens=9, start="a.yaml")

    assert told.startswith("budget_seconds, max_tokens: `strategy: uniform` does not read it")
    assert "start: `strategy: uniform` does not read it; " in told


def test_only_known_strategies_are_said_to_read_something() -> None:
    assert {name for readers in OF_STRATEGIES.values() for name in readers} <= {*STRATEGIES}


@pytest.mark.parametrize("target", ["target_bytes", "target_bits", "target_params"])
@pytest.mark.parametrize(("key", "value"), [("latency_table", "t.json"), ("fresh_profile", True)])
def test_what_is_said_of_times_needs_a_target_that_reads_them(
    target: str, key: str, value: object
) -> None:
    alone = {"model": "m", target: 2, key: value}

    with pytest.raises(SpecError) as caught:
        from_mapping(alone)

    assert str(caught.value) == (
        f"{key}: no target reads times; give one of target_speedup, target_latency, "
        "target_throughput."
    )
    assert from_mapping(alone | {"target_speedup": 2}).is_timed


def test_compressed_tensors_hold_whole_layers_and_codes_around_0() -> None:
    spec = from_mapping({"model": "m", "target_bits": 5, "format": "compressed-tensors"})

    assert spec.space == ("bits",)
    assert spec.bits == ("8", "4")
    assert spec.symmetric
    assert from_mapping(spec.to_json()) == spec
    deep = from_mapping(LEAST | {"format": "compressed-tensors"})
    assert deep.space == ("depth",)
    assert deep.whole_layers


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"space": "depth,width,bits,kv"},
            "format: compressed-tensors holds whole layers and bits alone, but got width, kv in",
        ),
        ({"per_linear": True}, "format: engines want one setting of compressed-tensors for q, k"),
        ({"bits": "4,w4g32,w8sym"}, "around 0, such as `w4g128sym`, but got w4g32."),
        ({"symmetric": False}, "around 0, such as `w4g128sym`, but got symmetric: false."),
        ({"engine": "llama.cpp"}, "format: llama.cpp alone runs `gguf`, but got compressed-ten"),
        ({"format": "gguf"}, "format: llama.cpp alone runs `gguf`, but got gguf for the engine"),
    ],
)
def test_what_a_format_does_not_hold_is_refused(values: dict[str, object], reason: str) -> None:
    assert reason in refusal(**({"format": "compressed-tensors"} | values))


def test_bits_are_not_timed_by_compiled_torch() -> None:
    with pytest.raises(SpecError, match="space: torch-compiled times `depth` and `width`"):
        from_mapping(LEAST | {"engine": "torch-compiled", "space": "depth,bits"})


def test_the_types_of_gguf_need_their_engine() -> None:
    assert refusal(space="bits", bits="4,q4_k,q2_k") == (
        "bits: `engine: llama.cpp` must hold for q4_k, q2_k, types of GGUF files."
    )


def test_the_formats_of_a_spec_are_those_of_the_space() -> None:
    assert sorted(map(int, BITS)) == sorted(settings.INTEGER_BITS)
    assert sorted(BLOCK_FORMATS) == sorted(settings.BLOCK_FORMATS)
    assert sorted(GGUF_TYPES) == sorted(settings.GGUF_TYPES)


def test_block_formats_are_not_joined_with_zeros() -> None:
    assert refusal(space="bits,sparsity", bits="4,fp8,mxfp4") == (
        "bits: integers alone can be joined with sparsity, but got fp8, mxfp4; leave them out, "
        "or sparsity."
    )
    assert from_mapping(LEAST | {"space": "bits", "bits": "fp8"}).bits == ("fp8",)


def test_an_address_needs_ray() -> None:
    message = refusal(address="ray://head:10001")

    assert message == "address: `pool: ray` must hold when an address is given."


@pytest.mark.parametrize(
    ("value", "space"),
    [
        ("auto", ("depth", "width", "bits")),
        ("width,depth", ("depth", "width")),
        (["width"], ("width",)),
        ("depth, depth", ("depth",)),
    ],
)
def test_spaces_are_kept_in_one_order(value: object, space: tuple[str, ...]) -> None:
    assert from_mapping(LEAST | {"space": value}).space == space


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("90s", 90.0), ("30m", 1800.0), ("1.5h", 5400.0), ("10", 10.0), (45, 45.0), ("2 h", 7200.0)],
)
def test_a_duration_is_read(value: object, seconds: float) -> None:
    assert from_mapping(LEAST | {"budget_seconds": value}).budget_seconds == seconds


@pytest.mark.parametrize(
    ("value", "size"),
    [("8GB", 8 * 10**9), ("1.5 mb", 1_500_000), ("20k", 20_000), (4096, 4096), ("7b", 7)],
)
def test_a_size_is_read(value: object, size: int) -> None:
    assert from_mapping(LEAST | {"weights_bytes": value}).weights_bytes == size


def test_dashes_and_underscores_are_one() -> None:
    spec = from_mapping({"model": "m", "target-speedup": "2x", "max-tokens": "1_000"})

    assert (spec.target_speedup, spec.max_tokens) == (2.0, 1000)


def test_a_spec_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "autocompress.yaml"
    file.write_text("model: tiny\ntarget-speedup: 1.5x\nspace: [depth]\n", "utf-8")

    spec = from_mapping(read_yaml(file))

    assert spec == SearchSpec(model="tiny", target_speedup=1.5, space=("depth",))


def test_a_spec_file_reads_patterns_of_zeros_as_text(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("sparsities: [0.5, 2:4, 4:8]\nseed: 7\nquality_floor: 1.5\n1:30.5: x", "utf-8")

    read = read_yaml(file)

    assert read == {
        "sparsities": [0.5, "2:4", "4:8"],
        "seed": 7,
        "quality_floor": 1.5,
        "1:30.5": "x",
    }
    told = {"space": "sparsity", "sparsities": read["sparsities"]}
    assert from_mapping(LEAST | told).sparsities == ("0.5", "4:8", "2:4")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"model: [", " is not YAML: while parsing "),
        (b"model: \xff", " is not YAML: "),
        (b"", " must hold a mapping of names to values."),
        (b"- model", " must hold a mapping of names to values."),
        (b"1: model", " must hold a mapping of names to values."),
    ],
    ids=["open list", "not UTF-8", "empty", "list", "number as a name"],
)
def test_a_bad_spec_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_bytes(content)

    with pytest.raises(SpecError, match=re.escape(f"{file}{reason}")) as caught:
        read_yaml(file)

    assert "\n" not in str(caught.value)


def test_a_missing_spec_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.yaml: No such file or directory\.$"):
        read_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("20ms", 20.0), ("1.5s", 1500.0), (7, 7.0), ("0.5", 0.5)]
)
def test_a_latency_is_in_milliseconds(text: object, milliseconds: float) -> None:
    spec = from_mapping({"model": "m", "target_latency": text})

    assert spec.target_latency == milliseconds
    assert spec.space == ("depth", "width", "bits")
    assert spec.is_timed
    assert from_mapping(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("workload", "milliseconds"),
    [
        ("1x128+64", 1000 * 64 / 320),
        ("4x128+64", 1000 * 4 * 64 / 320),
        ("decode:4x128+64", 1000 * 4 / 320),
        ("prefill:4x128+64", 1000 * 4 * 128 / 320),
    ],
)
def test_a_throughput_is_a_time_of_its_workload(workload: str, milliseconds: float) -> None:
    spec = from_mapping({"model": "m", "target_throughput": "320", "workload": workload})

    assert spec.most_milliseconds == pytest.approx(milliseconds)
    assert spec.is_timed
    assert from_mapping(spec.to_json()) == spec
    assert from_mapping({"model": "m", "target_latency": 7}).most_milliseconds == 7
    assert from_mapping(LEAST).most_milliseconds is None


def test_a_throughput_of_several_workloads_means_nothing() -> None:
    mixed = {"model": "m", "target_throughput": 300, "workload": "3*1x128+64,1*decode"}

    with pytest.raises(SpecError, match=r"^target_throughput: one workload must hold, but got 3"):
        from_mapping(mixed)
    with pytest.raises(SpecError, match=r"^target_throughput: a number must hold, but got 'many'"):
        from_mapping({"model": "m", "target_throughput": "many"})


def test_a_latency_is_a_time() -> None:
    with pytest.raises(SpecError, match=r"^target_latency: a time such as 20ms must hold, but "):
        from_mapping({"model": "m", "target_latency": "soon"})
