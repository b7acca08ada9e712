from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import LongTensor
from transformers import GenerationConfig

from autocompress.models.generation_settings import (
    custom_processors,
    end_of_text_ids,
    logits_processors,
    to_generation_config,
)
from autocompress.models.loading import load_tokenizer
from autocompress.spaces.decoding import PARAMETERS, Decoding, DecodingSpace
from tests.tiny_models import TinyModels

SPACE = DecodingSpace(PARAMETERS)


def drawn(count: int) -> Iterator[Decoding]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield SPACE.values(SPACE.draw(rng))


def test_every_decoding_is_a_generation_config_that_survives_its_file(tmp_path: Path) -> None:
    for decoding in drawn(200):
        config = to_generation_config(decoding, [7])
        config.validate(strict=True)

        config.save_pretrained(tmp_path)

        read = GenerationConfig.from_pretrained(tmp_path)
        assert read.max_new_tokens == decoding["max_new_tokens"]
        assert read.to_diff_dict() == config.to_diff_dict()


def test_the_processors_are_those_that_generate_makes(tiny_models: TinyModels) -> None:
    model = tiny_models.load()
    ids = LongTensor([[5, 6, 7, 5]])
    logits = torch.randn(1, 320, generator=torch.Generator().manual_seed(0))
    for decoding in drawn(200):
        config = to_generation_config(decoding, [7])
        # A beam keeps two tokens where one alone would do.
        config.num_beams = 1

        theirs = model._get_logits_processor(  # type: ignore[operator]  # a mixin's
            config, 4, logits_processor=custom_processors(decoding)
        )

        assert torch.equal(theirs(ids, logits), logits_processors(decoding)(ids, logits))


@pytest.mark.parametrize(
    ("decoding", "said"),
    [
        (
            {"draft": "lookup", "draft_tokens": 8, "draft_ngram": 3},
            {"prompt_lookup_num_tokens": 8, "max_matching_ngram_size": 3},
        ),
        (
            {"draft": "exit", "draft_tokens": 3, "draft_layers": 4, "draft_length": "adaptive"},
            {
                "assistant_early_exit": 4,
                "num_assistant_tokens": 3,
                "num_assistant_tokens_schedule": "heuristic_transient",
                "assistant_confidence_threshold": 0.0,
            },
        ),
        (
            {"draft": "model", "draft_length": "threshold", "draft_threshold": 0.6},
            {
                "assistant_early_exit": None,
                "num_assistant_tokens": 4,
                "num_assistant_tokens_schedule": "constant",
                "assistant_confidence_threshold": 0.6,
            },
        ),
    ],
)
def test_drafts_are_said_in_transformers_words(
    decoding: Decoding, said: dict[str, object]
) -> None:
    config = to_generation_config(decoding, [7])

    assert {name: getattr(config, name) for name in said} == said


def test_a_models_own_ends_of_text_come_first(tiny_models: TinyModels) -> None:
    model = tiny_models.load()
    tokenizer = load_tokenizer(tiny_models.folder())
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [9, 8]

    assert end_of_text_ids(model, tokenizer) == (9, 8, tokenizer.eos_token_id)
