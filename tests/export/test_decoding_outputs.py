"""What engines are told of a decoding: all of it, or that it has no counterpart there."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from autocompress.export.decoding_outputs import DRAFT_FILE, llama_cpp, script, vllm
from autocompress.models.endings import repeats
from autocompress.spaces.decoding import UNTUNED, Decoding, Value
from tests.export.decoded_alike import drawn

POSITIONS = 512


def to_vllm(decoding: Decoding) -> dict[str, Any]:
    return vllm(decoding, "small")


def to_llama_cpp(decoding: Decoding) -> dict[str, Any]:
    return llama_cpp(decoding, "small", POSITIONS)


def flags_of(decoding: Decoding) -> dict[str, str]:
    """Return llama-server's flags by name; each takes one value."""
    flags = to_llama_cpp(decoding)["flags"]
    return dict(zip(flags[::2], flags[1::2], strict=True))


@pytest.mark.parametrize("tell", [to_vllm, to_llama_cpp])
def test_what_has_a_counterpart_is_said(tell: Callable[[Decoding], dict[str, Any]]) -> None:
    for decoding in drawn():
        left = tell(decoding)["no_counterpart"]
        tuned = {name for name, value in decoding.items() if value != UNTUNED[name]}
        for name in tuned - left.keys():
            less = {own: value for own, value in decoding.items() if own != name}
            assert tell(less) != tell(decoding), name
        assert left.keys() <= tuned | {"selector"}


def test_a_script_loads_the_models_as_they_were_measured() -> None:
    told = script({"draft": "model"}, "m", "small", "bfloat16", trust_remote_code=True)

    names = dict(re.findall(r"^(DTYPE|TRUST_REMOTE_CODE) = (.+)$", told, re.MULTILINE))
    assert names == {"DTYPE": "'bfloat16'", "TRUST_REMOTE_CODE": "True"}
    assert told.count("device, DTYPE, TRUST_REMOTE_CODE)") == 2
    assert "load_tokenizer(folder, TRUST_REMOTE_CODE)" in told
    assert "TRUST_REMOTE_CODE = False\n" in script({}, "m", None)
    compile(told, "decode.py", "exec")


@pytest.mark.parametrize("tell", [to_vllm, to_llama_cpp])
def test_what_is_not_said_is_untuned(tell: Callable[[Decoding], dict[str, Any]]) -> None:
    untuned: dict[str, Value] = {
        name: UNTUNED[name]
        for name in ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "typical_p")
    }

    assert tell({}) == tell({"max_new_tokens": 64})
    assert tell({"do_sample": True}) == tell({**untuned, "do_sample": True})


def test_vllm_is_told_nothing_that_it_refuses_beside_a_draft() -> None:
    decoding: Decoding = {"draft": "lookup", "do_sample": True, "min_p": 0.1}

    told = to_vllm(decoding)

    assert "min_p" not in told["sampling_parameters"]
    assert told["no_counterpart"] == {"min_p": 0.1}
    alone = to_vllm({**decoding, "draft": "exit"})
    assert alone["sampling_parameters"]["min_p"] == 0.1


def test_vllm_ends_an_answer_that_turns_round_as_the_decoding_does() -> None:
    rule = to_vllm({"stop": "repeat"})["sampling_parameters"]["repetition_detection"]

    shortest = list(range(rule["min_pattern_size"])) * rule["min_count"]
    longest = list(range(rule["max_pattern_size"])) * rule["min_count"]
    assert repeats(shortest)
    assert repeats(longest)
    assert not repeats(shortest[1:])
    assert not repeats(longest[1:])
    assert not repeats(list(range(rule["min_pattern_size"] - 1)) * rule["min_count"])
    assert not repeats(list(range(rule["max_pattern_size"] + 1)) * rule["min_count"])


@pytest.mark.parametrize(
    ("decoding", "config"),
    [
        (
            {"draft": "lookup", "draft_tokens": 6, "draft_ngram": 3},
            {
                "method": "ngram",
                "num_speculative_tokens": 6,
                "prompt_lookup_max": 3,
                "prompt_lookup_min": 1,
            },
        ),
        (
            {"draft": "model", "draft_tokens": 2},
            {"method": "draft_model", "model": "small", "num_speculative_tokens": 2},
        ),
    ],
)
def test_vllm_is_told_a_draft(decoding: Decoding, config: Mapping[str, object]) -> None:
    *flags, text = to_vllm(decoding)["flags"]

    assert flags == ["--max-num-seqs", "1", "--speculative-config"]
    assert json.loads(text) == config


def test_llama_cpp_drafts_by_what_its_type_says() -> None:
    model = flags_of({"draft": "model", "draft_tokens": 3})
    both = flags_of({"draft": "both", "draft_tokens": 3, "draft_copied": 12})

    assert model == {
        "--predict": "64",
        "--temp": "0",
        "--parallel": "1",
        "--spec-type": "draft-simple",
        "--spec-draft-model": DRAFT_FILE,
        "--spec-draft-n-max": "3",
    }
    ngram = {"--spec-ngram-simple-size-n": "2", "--spec-ngram-simple-size-m": "12"}
    assert both == {**model, **ngram, "--spec-type": "ngram-simple,draft-simple"}


def test_llama_cpp_looks_for_no_more_tokens_than_it_proposes() -> None:
    decoding: Decoding = {"draft": "lookup", "draft_tokens": 1, "draft_ngram": 4}

    flags = flags_of(decoding)

    assert (flags["--spec-ngram-simple-size-n"], flags["--spec-ngram-simple-size-m"]) == ("1", "1")
    assert to_llama_cpp(decoding)["no_counterpart"] == {"draft_ngram": 4}


def test_llama_cpp_counts_repetitions_of_the_whole_text() -> None:
    flags = flags_of({"repetition_penalty": 1.1})

    assert (flags["--repeat-penalty"], flags["--repeat-last-n"]) == ("1.1", str(POSITIONS))


@pytest.mark.parametrize("tell", [to_vllm, to_llama_cpp])
def test_an_engine_makes_all_candidates_and_picks_none(
    tell: Callable[[Decoding], dict[str, Any]],
) -> None:
    told = tell({"do_sample": True, "best_of": 4, "batch": 2})

    assert {**told.get("sampling_parameters", {}), **told.get("request", {})}["n"] == 4
    # All candidates of a batch run side by side.
    assert told["flags"][-2:] in (["--max-num-seqs", "8"], ["--parallel", "8"])
    assert told["no_counterpart"] == {"selector": "likelihood"}
