"""Checkpoints read in a process of their own lose what they lose by themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from autocompress.errors import EvaluationError
from autocompress.evaluators.subprocess_call import nobody
from autocompress.evaluators.text_loss import Reading, measure_checkpoint
from tests.tiny_models import VOCABULARY, TinyModels, logits_of, token_ids

HOW = Reading("cpu", "auto", VOCABULARY, trust_remote_code=False)
IDS = token_ids(3, 12)


def test_losses_are_those_of_the_models_themselves(tiny_models: TinyModels) -> None:
    paths = [tiny_models.folder("llama"), tiny_models.folder("mistral")]
    first, second = (logits_of(tiny_models.load(name), IDS) for name in ("llama", "mistral"))
    divergence = functional.kl_div(
        second.log_softmax(-1), first.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)

    found, dense = measure_checkpoint(paths[1], paths[0], IDS.numpy(), HOW, nobody)

    assert dense is not None
    assert found.tokens == dense.tokens == 11
    assert found.kl == pytest.approx(divergence[:, :-1].mean(1).tolist(), rel=1e-4)
    for measured, logits in ((found, second), (dense, first)):
        nll = functional.cross_entropy(logits[:, :-1].mT, IDS[:, 1:], reduction="none")
        assert measured.nll == pytest.approx(nll.mean(1).tolist(), rel=1e-4)


def test_a_model_does_not_diverge_from_itself(tiny_llama: Path) -> None:
    found, dense = measure_checkpoint(tiny_llama, tiny_llama, IDS.numpy(), HOW, nobody)

    assert dense is not None
    assert found.nll == dense.nll
    assert max(found.kl) < 1e-6


def test_without_another_model_there_is_no_divergence(tiny_llama: Path) -> None:
    told: list[tuple[int, int]] = []

    found, dense = measure_checkpoint(
        tiny_llama, None, IDS.numpy(), HOW, lambda done, total: told.append((done, total))
    )

    assert dense is None
    assert len(found.nll) == 3
    assert told == [(0, 3), (1, 3), (2, 3)]


def test_models_of_other_vocabularies_do_not_compare(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    other = tiny_models.load()
    other.resize_token_embeddings(VOCABULARY + 8)
    other.save_pretrained(tmp_path)

    with pytest.raises(EvaluationError, match=r"`vocabulary = 320` .* but got 328"):
        measure_checkpoint(tmp_path, tiny_models.folder(), IDS.numpy(), HOW, nobody)


def test_losses_that_are_no_numbers_are_refused(tiny_models: TinyModels, tmp_path: Path) -> None:
    broken = tiny_models.load()
    with torch.no_grad():
        broken.model.norm.weight.fill_(np.nan)
    broken.save_pretrained(tmp_path)

    with pytest.raises(EvaluationError, match="kl and nll are no finite numbers"):
        measure_checkpoint(tmp_path, tiny_models.folder(), IDS.numpy(), HOW, nobody)
