"""In which order decodings that are held against each other answer, and on which device."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from autocompress.evaluators.decoder import Answer, Decoder
from autocompress.pipeline.decoding import opened_for
from autocompress.pipeline.decoding_asked import decode_asked
from autocompress.trial import Split
from autocompress.workers import decoding_session
from autocompress.workers.decoding_session import (
    CONTENDERS,
    Contender,
    DecodingFactory,
    DecodingSession,
    Drafted,
)


def test_contenders_take_turns_and_begin_in_turn(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tasks.jsonl"
    rows = [{"prompt": f"the number {n} and", "references": " one"} for n in range(48)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    opened = opened_for(decode_asked({"model": str(tiny_llama), "tasks": str(path), "items": 8}))
    session = DecodingSession(opened.factory(Split.SEARCH))
    order: list[int] = []
    answer = Decoder.answer

    def noted(
        self: Decoder, prompts: Sequence[str], decoding: Mapping[str, Any], seeds: Sequence[int]
    ) -> list[Answer]:
        order.append(decoding["max_new_tokens"])
        return answer(self, prompts, decoding, seeds)

    monkeypatch.setattr(Decoder, "answer", noted)
    contenders = [Contender({"max_new_tokens": n}) for n in (1, 2, 3)]

    parts = [session.measure({CONTENDERS: contenders}, *span) for span in ((0, 3), (3, 4))]

    assert order == [1, 2, 3, 2, 3, 1, 3, 1, 2, 1, 2, 3]
    for n, own in zip(
        (1, 2, 3), zip(*(part[CONTENDERS] for part in parts), strict=True), strict=True
    ):
        assert [count for part in own for count in part["said"]] == [n] * 4


@pytest.mark.parametrize(
    ("device", "n_seen", "expected"),
    [("cuda:1", 1, "cuda"), ("cuda:1", 2, "cuda:1"), ("cuda", 1, "cuda"), ("cpu", 0, "cpu")],
)
def test_models_are_loaded_onto_a_gpu_that_the_process_sees(
    monkeypatch: pytest.MonkeyPatch, device: str, n_seen: int, expected: str
) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_seen)
    monkeypatch.setattr(
        decoding_session, "load_checkpoint", lambda _path, own, *_: asked.append(own)
    )
    monkeypatch.setattr(decoding_session, "load_tokenizer", lambda *_: None)
    monkeypatch.setattr(decoding_session, "Decoder", lambda *_: None)
    factory = DecodingFactory((), (), device, "auto", False, 0)

    factory.load(Drafted(Path("model"), Path("draft")))

    assert asked == [torch.device(expected)] * 2
