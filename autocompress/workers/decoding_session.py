"""Measures decodings on task items, in a process that loads its models once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from autocompress.evaluators.answer_metrics import score_of_candidates, score_of_choice
from autocompress.evaluators.decoder import Answer, Decoder
from autocompress.evaluators.tasks import Item
from autocompress.evaluators.torch_engine import load_checkpoint
from autocompress.models.loading import load_tokenizer
from autocompress.spaces.decoding import Decoding, Value
from autocompress.workers.tune import Share, Values

CONTENDERS: Final = "contenders"
"""The value under which several decodings are measured in turn, as a sequence of `Contender`."""
CHOOSING: Final = "choosing"
"""The value under which models choose, as a sequence of which of the factory's."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A decoding of one of the models that are measured.

    Args:
        model: Which of the factory's; 0 is what a search decodes.
    """

    decoding: Decoding
    model: int = 0


@dataclass(frozen=True, slots=True)
class Drafted:
    """A checkpoint's folder, and that of what may propose tokens for it."""

    folder: Path
    draft: Path | None = None


@dataclass(frozen=True, slots=True)
class DecodingFactory:
    """Loads what decodings are measured with; sent to the processes of a cluster.

    Args:
        models: Loaded when first asked for, the first of them at once.
        items: That all decodings answer, in this order.
        choices: That models choose from, which no decoding changes.
        seed: From which each item's random numbers come, the same for every decoding.
    """

    models: tuple[Drafted, ...]
    items: tuple[Item, ...]
    device: str
    dtype: str
    trust_remote_code: bool
    seed: int
    choices: tuple[Item, ...] = ()

    def __call__(self, share: Share) -> "DecodingSession":
        """Load the models, with a thread for each core of the share, or OMP_NUM_THREADS."""
        if self.device == "cpu":
            torch.set_num_threads(min(share.cpus, torch.get_num_threads()))
        return DecodingSession(self)

    def load(self, drafted: Drafted) -> Decoder:
        """Return a decoder of a checkpoint."""
        device = torch.device(self.device)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            # Of several, Ray may give a process one, which is the first there.
            device = torch.device("cuda")

        def model(path: Path) -> Any:
            return load_checkpoint(path, device, self.dtype, self.trust_remote_code)

        return Decoder(
            model(drafted.folder),
            load_tokenizer(drafted.folder, self.trust_remote_code),
            None if drafted.draft is None else model(drafted.draft),
        )


class DecodingSession:
    """Answers items; the models stay loaded from one decoding to the next."""

    def __init__(self, factory: DecodingFactory) -> None:
        """Load the first model."""
        self._factory = factory
        self._decoders: dict[int, Decoder] = {}
        self._decoder(0)

    def measure(self, values: Values, first: int, end: int) -> Mapping[str, Any]:
        """Return what a decoding makes of items `[first, end)`: columns of `Answered`, by name.

        With `CONTENDERS` what each makes of them, as a list under that name: they take turns item
        by item, so that a machine that slows down slows all of them, and in turn who begins, for
        what comes after another finds its caches used otherwise. With `CHOOSING` the scores of
        each model that chooses, `[first, end)` of the choices.
        """
        if CHOOSING in values:
            return {CHOOSING: [self._chosen(model, first, end) for model in values[CHOOSING]]}  # type: ignore[attr-defined]
        if CONTENDERS in values:
            return self._in_turn(values[CONTENDERS], first, end)  # type: ignore[arg-type]
        decoding: dict[str, Value] = dict(values)  # type: ignore[arg-type]
        return columns(*self._answered(Contender(decoding), first, end))

    def _in_turn(self, contenders: Sequence[Contender], first: int, end: int) -> Mapping[str, Any]:
        size = max(int(own.decoding.get("batch", 1)) for own in contenders)
        found: list[tuple[list[Item], list[Answer]]] = [([], []) for _ in contenders]
        for start in range(first, end, size):
            for turn in range(len(contenders)):
                at = (start // size + turn) % len(contenders)
                items, answers = self._answered(contenders[at], start, min(start + size, end))
                found[at][0].extend(items)
                found[at][1].extend(answers)
        return {CONTENDERS: [columns(*own) for own in found]}

    def _answered(
        self, contender: Contender, first: int, end: int
    ) -> tuple[list[Item], list[Answer]]:
        items = list(self._factory.items[first:end])
        seeds = np.random.SeedSequence([self._factory.seed, 3]).generate_state(end)[first:end]
        prompts = [item.prompt for item in items]
        decoder = self._decoder(contender.model)
        return items, decoder.answer(prompts, contender.decoding, [int(own) for own in seeds])

    def _chosen(self, model: int, first: int, end: int) -> list[float]:
        items = self._factory.choices[first:end]
        prompts, choices = [own.prompt for own in items], [own.choices for own in items]
        likelihoods = self._decoder(model).choose(prompts, choices)
        return [score_of_choice(*own) for own in zip(items, likelihoods, strict=True)]

    def _decoder(self, model: int) -> Decoder:
        """Return a model's decoder, loaded and run once: kernels are made when first used."""
        if model not in self._decoders:
            decoder = self._factory.load(self._factory.models[model])
            decoder.answer([self._factory.items[0].prompt], {"max_new_tokens": 16}, [0])
            self._decoders[model] = decoder
        return self._decoders[model]


def columns(items: Sequence[Item], answers: Sequence[Answer]) -> dict[str, Any]:
    """Return what was made of items, column by column, and the answers' texts."""
    pairs = list(zip(items, answers, strict=True))
    return {
        "scores": [
            score_of_candidates(item, answer.candidates, answer.text) for item, answer in pairs
        ],
        "tokens": [float(answer.tokens) for answer in answers],
        "said": [float(answer.said) for answer in answers],
        "seconds": [answer.seconds for answer in answers],
        "first_seconds": [answer.first_seconds for answer in answers],
        "memory_bytes": [float(answer.weight_bytes + answer.cache_bytes) for answer in answers],
        "proposed": [float(answer.proposed) for answer in answers],
        "accepted": [float(answer.accepted) for answer in answers],
        "texts": [answer.text for answer in answers],
    }
