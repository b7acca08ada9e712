"""Measures a whole population in one walk over the sites: what candidates share is computed once.

At each site candidates are grouped by (history so far, choice here). A group is computed once; a
choice's weights are put in place once; groups that share a choice run as one batch. EvoPress
(arXiv:2410.14649) runs candidates one by one; the losses are the same but for the order in which
a matrix product adds, which may depend on how much runs at once.
"""

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import EvaluationError
from autocompress.evaluators.out_of_memory import is_out_of_memory, out_of_memory
from autocompress.evaluators.teacher import Teacher, joined, losses, summarize
from autocompress.models.stepping import Stepper
from autocompress.models.surgery import ShapedModel
from autocompress.models.text import draw_order
from autocompress.spaces.base import Choice
from autocompress.trial import Fidelity, Genotype, Measurement, Split

# glibc gives what is freed at the end of its heap back to the kernel, and fetches it anew for the
# next tensor, page by page: a fifth of the time of a small model. It keeps up to twice the largest
# block, itself of up to 32 MiB, that was ever mapped and freed.
LARGEST_MAPPED = 2**25 - 2**16
HALVINGS = 8
"""How often what is held at a time may be halved where memory runs out."""


@dataclass(frozen=True, slots=True)
class EvaluatorLimits:
    """What an evaluator may hold at a time, whatever the population's size.

    Args:
        teacher_tokens: k: the likeliest tokens kept of each prediction of the dense model.
        teacher_bytes: Of the dense model's predictions; the least recently used are made anew.
        states_bytes: Of residual streams, before and after a site.
        tokens_at_once: Tokens in one batch through a site, a sequence at least. On a CPU more are
            slower, for their intermediates leave its caches; a GPU wants many times as many.
        logits_at_once: Float32 logits computed at a time, a position's at least.
        joins_sequences: Whether several whole sequences are read out at a time where so many
            logits fit. A GPU waits for every call; a CPU's caches hold one sequence's logits.
    """

    teacher_tokens: int = 512
    teacher_bytes: int = 2**28
    states_bytes: int = 2**28
    tokens_at_once: int = 2048
    logits_at_once: int = 2**24
    joins_sequences: bool = False

    def halved(self) -> "EvaluatorLimits":
        """Return half as much of all that is held at a time."""
        return replace(
            self,
            teacher_bytes=self.teacher_bytes // 2,
            states_bytes=self.states_bytes // 2,
            tokens_at_once=self.tokens_at_once // 2,
            logits_at_once=self.logits_at_once // 2,
        )


@dataclass(slots=True)
class Work:
    """Sub-blocks run on one sequence: really, and if each candidate were run by itself."""

    computed: int = 0
    alone: int = 0

    @property
    def saved(self) -> float:
        """The share of sub-blocks that sharing saves."""
        return 1 - self.computed / self.alone if self.alone else 0.0


class PopulationEvaluator:
    """Measures populations on the sequences of a draw.

    A loss depends on the candidate, the sequence, and on what it shares its batches with: a call
    gives the same numbers whatever was measured before it.

    Args:
        sequences: For each split, (sequences, T) token ids.
        seed: Shuffles the draws.
    """

    def __init__(
        self,
        shaped: ShapedModel,
        sequences: Mapping[Split, np.ndarray],
        seed: int,
        limits: EvaluatorLimits | None = None,
    ) -> None:
        self._shaped = shaped
        self._stepper = Stepper(shaped)
        self._sequences = sequences
        self._seed = seed
        self._length = next(iter(sequences.values())).shape[1]
        self._limits = limits or EvaluatorLimits()
        self._device = shaped.model.device
        self._teachers: OrderedDict[tuple[Split, int], Teacher] = OrderedDict()
        self.work = Work()
        if self._device.type == "cpu":
            torch.empty(LARGEST_MAPPED, dtype=torch.uint8)

    def measure(self, genotypes: Sequence[Genotype], fidelity: Fidelity) -> list[Measurement]:
        """Measure each candidate; KL and likelihood in nats a token over T - 1 positions.

        Where memory runs out, half as much is held at a time, again and again: losses are the same
        but for the order in which a matrix product adds.

        Raises:
            EvaluationError: If it runs out all the same.
        """
        usual, reason = self._limits, ""
        try:
            for _ in range(HALVINGS):
                found = self._try(genotypes, fidelity)
                if not isinstance(found, str):
                    return found
                reason = found
                self._limits = self._limits.halved()
                # What did not fit is no longer referred to: the handler that did so has ended.
                self._teachers.clear()
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
        finally:
            self._limits = usual
        raise EvaluationError(out_of_memory(" ".join(own.key for own in genotypes), reason))

    def _try(self, genotypes: Sequence[Genotype], fidelity: Fidelity) -> list[Measurement] | str:
        """Return the measurements, or what was said where memory ran out."""
        try:
            return self._measured(genotypes, fidelity)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return str(error)

    @torch.inference_mode()
    def _measured(self, genotypes: Sequence[Genotype], fidelity: Fidelity) -> list[Measurement]:
        rows = self._rows(fidelity)
        found = _Losses(len(genotypes), len(rows))
        # Siblings in a row: where memory cuts the population, their common prefix stays whole.
        order = sorted(range(len(genotypes)), key=lambda i: genotypes[i].levels)
        choices = [self._shaped.space.choices(genotypes[i]) for i in order]
        n_candidates, n_sequences, n_blocks = self._at_once(len(genotypes))
        for first in range(0, len(rows), n_sequences * n_blocks):
            some = rows[first : first + n_sequences * n_blocks]
            teachers = self._teachers_of(fidelity.split, some)
            self._shaped.put_stored_ends()
            blocks = [
                self._ids(fidelity.split, some[start : start + n_sequences])
                for start in range(0, len(some), n_sequences)
            ]
            for start in range(0, len(order), n_candidates):
                part = choices[start : start + n_candidates]
                ends = (
                    _End(order[start + candidate], block * n_sequences + offset, end, ids)
                    for block, candidate, states in self._walk(blocks, part)
                    for offset, (end, ids) in enumerate(zip(states, blocks[block], strict=True))
                )
                for some_ends in self._at_a_time(ends):
                    own = self._losses([teachers[end.row] for end in some_ends], some_ends)
                    found.put([(end.candidate, first + end.row) for end in some_ends], own)
        return found.measurements(self._length - 1)

    @torch.inference_mode()
    def cause(self, genotype: Genotype, fidelity: Fidelity) -> str:
        """Say which site of a candidate, by itself, first makes numbers that are not finite."""
        space = self._shaped.space
        self._shaped.put_stored_ends()
        for row in self._rows(fidelity):
            states = self._stepper.embed(self._ids(fidelity.split, np.asarray([row])))
            for index, choice in enumerate(space.choices(genotype)):
                if choice.is_dropped:
                    continue
                self._shaped.set(index, choice)
                states = self._stepper.run(index, states, choice.cache)
                if not bool(states.isfinite().all()):
                    site = space.sites[index]
                    return (
                        f"The loss of {genotype.key} is not finite: layer {site.layer} "
                        f"{site.kind}, {choice}, makes numbers that are not, in "
                        f"{str(states.dtype).removeprefix('torch.')}; try --dtype float32."
                    )
        return (
            f"The loss of {genotype.key} is not finite, though no site makes numbers that are "
            "not; try --dtype float32."
        )

    def _walk(
        self, blocks: Sequence[Tensor], population: Sequence[tuple[Choice, ...]]
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (block, candidate, its final residual stream (B, T, hidden)).

        Args:
            blocks: Each (B, T) token ids; a batch never holds sequences of two.
        """
        streams = [_Streams(self._stepper.embed(ids), len(population)) for ids in blocks]
        for site in range(len(self._shaped.space.sites)):
            choices = [choices[site] for choices in population]
            for own in streams:
                self._advance(site, choices, own)
        for block, own in enumerate(streams):
            for candidate in range(len(population)):
                yield block, candidate, own.of(candidate)

    def _advance(self, site: int, choices: Sequence[Choice], streams: "_Streams") -> None:
        """Take one block of sequences of all candidates through a site."""
        groups: dict[Choice, dict[int, None]] = {}
        for choice, past in zip(choices, streams.history, strict=True):
            groups.setdefault(choice, {})[past] = None
        numbers: dict[tuple[int, Choice], int] = {}
        for choice, pasts in groups.items():
            self._run(site, choice, streams.states, list(pasts), streams.following[len(numbers) :])
            for past in pasts:
                numbers[past, choice] = len(numbers)
        left = sum(not choice.is_dropped for choice in choices)
        self.work.alone += left * streams.states.shape[1]
        pairs = zip(streams.history, choices, strict=True)
        streams.turn([numbers[past, choice] for past, choice in pairs])

    def _run(
        self, site: int, choice: Choice, states: Tensor, pasts: list[int], following: Tensor
    ) -> None:
        """Run one site, set to one choice, on some histories; fill the first of `following`.

        Args:
            states: (P, B, T, hidden) before the site; `following`, alike, after it.
            pasts: Which of `states` to run.
        """
        if choice.is_dropped:
            for number, past in enumerate(pasts):
                following[number] = states[past]
            return
        self._shaped.set(site, choice)
        _, sequences, length, _ = states.shape
        self.work.computed += sequences * len(pasts)
        n = max(1, self._limits.tokens_at_once // (sequences * length))
        for first in range(0, len(pasts), n):
            some = pasts[first : first + n]
            batch = states[some].flatten(0, 1) if len(some) > 1 else states[some[0]]
            after = self._stepper.run(site, batch, choice.cache)  # (n B, T, hidden)
            following[first : first + len(some)] = after.unflatten(0, (len(some), sequences))

    def _at_a_time(self, ends: Iterator["_End"]) -> Iterator[list["_End"]]:
        """Yield what is read out together: one sequence, or as many as limits let."""
        n = self._positions_at_once // (self._length - 1) if self._limits.joins_sequences else 1
        while some := list(itertools.islice(ends, max(1, n))):
            yield some

    def _losses(self, teachers: Sequence[Teacher], ends: Sequence["_End"]) -> Tensor:
        """Return the mean KL and likelihood of sequences, (2, sequences), on the model's device.

        Several are read out at a time where all their logits may be held at once.
        """
        teacher = joined(teachers)
        targets = torch.stack([end.ids[1:] for end in ends]).flatten()
        states = torch.stack([end.states[:-1] for end in ends])
        finished = self._stepper.finish(states).flatten(0, 1)  # (sequences (T - 1), hidden)
        n = self._positions_at_once
        sums = []
        for first in range(0, len(finished), n):
            logits = self._stepper.logits(finished[first : first + n])
            found = losses(teacher.part(first, first + n), logits, targets[first : first + n])
            sums.append(torch.stack(found).unflatten(1, (len(ends), -1)).sum(2).double())
        return torch.stack(sums).sum(0) / (len(finished) // len(ends))

    @property
    def _positions_at_once(self) -> int:
        return max(1, self._limits.logits_at_once // self._shaped.architecture.vocabulary)

    def _teachers_of(self, split: Split, rows: np.ndarray) -> list[Teacher]:
        """Return the dense model's predictions on some sequences, each run by itself."""
        keys = [(split, int(row)) for row in rows]
        missing = [key for key in keys if key not in self._teachers]
        made = dict(zip(missing, self._dense(missing), strict=True))
        found = [made[key] if key in made else self._teachers[key] for key in keys]
        for key, teacher in zip(keys, found, strict=True):
            self._teachers[key] = teacher
            self._teachers.move_to_end(key)
        held = sum(teacher.bytes for teacher in self._teachers.values())
        while held > self._limits.teacher_bytes and len(self._teachers) > 1:
            held -= self._teachers.popitem(last=False)[1].bytes
        return found

    def _dense(self, keys: Sequence[tuple[Split, int]]) -> list[Teacher]:
        """Run the dense model on sequences, all in one walk and none in a batch with another."""
        if not keys:
            return []
        self._shaped.put_dense_ends()
        states = [self._stepper.embed(self._ids(split, np.asarray([row]))) for split, row in keys]
        for index, site in enumerate(self._shaped.space.sites):
            self._shaped.set(index, Choice(site.units, site.units))
            states = [self._stepper.run(index, own) for own in states]
        return [self._summary(self._stepper.finish(own[:, :-1])[0]) for own in states]

    def _summary(self, finished: Tensor) -> Teacher:
        k = self._limits.teacher_tokens
        some = finished.split(self._positions_at_once)
        parts = [summarize(self._stepper.logits(part), k) for part in some]
        return joined(parts)

    def _at_once(self, n_candidates: int) -> tuple[int, int, int]:
        """Return how many candidates, sequences of a block, and blocks of a walk fit in memory.

        A walk takes one block, for caches' sake, unless each walk streams the weights anew.
        """
        stream = (
            self._length * self._shaped.architecture.hidden * self._shaped.model.dtype.itemsize
        )
        fitting = max(1, self._limits.states_bytes // (2 * stream))
        candidates = max(1, min(n_candidates, fitting))
        by_batch = max(1, self._limits.tokens_at_once // self._length)
        sequences = max(1, min(fitting // candidates, by_batch))
        blocks = fitting // (candidates * sequences) if self._shaped.is_streamed else 1
        return candidates, sequences, max(1, blocks)

    def _rows(self, fidelity: Fidelity) -> np.ndarray:
        order = draw_order(
            len(self._sequences[fidelity.split]), fidelity.split, fidelity.draw, self._seed
        )
        rows = order[fidelity.first : fidelity.end]
        if len(rows) < fidelity.sequences:
            raise ValueError(f"{fidelity} reads beyond the {len(order)} sequences of its split")
        return rows

    def _ids(self, split: Split, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self._sequences[split][rows]).long().to(self._device)


class _Streams:
    """The residual streams of a population on one block of sequences, between two sites.

    Args:
        embedded: (B, T, hidden), where all candidates begin.
    """

    def __init__(self, embedded: Tensor, candidates: int) -> None:
        # One block for all: streams with memory of their own, freed at different times, left holes
        # in the heap, and a process grew by nearly twice the limit.
        both = embedded.new_empty((2, candidates, *embedded.shape))
        self.states: Tensor = both[0]
        self.following: Tensor = both[1]
        self.states[0] = embedded
        self.history = [0] * candidates
        """Which of `states` is a candidate's."""

    def turn(self, history: list[int]) -> None:
        """Go on to what follows the site just run."""
        self.states, self.following = self.following, self.states
        self.history = history

    def of(self, candidate: int) -> Tensor:
        """Return a candidate's stream: a copy, or a view would keep the whole block alive."""
        return self.states[self.history[candidate]].clone()


@dataclass(frozen=True, slots=True)
class _End:
    """What the last site makes of a candidate on a sequence.

    Args:
        row: Of the sequence among those at hand.
        states: (T, hidden).
        ids: (T).
    """

    candidate: int
    row: int
    states: Tensor
    ids: Tensor


class _Losses:
    """A table of losses, filled in any order; a GPU is waited for when it is read."""

    def __init__(self, candidates: int, sequences: int) -> None:
        self._shape = 2, candidates, sequences
        self._places: list[tuple[int, int]] = []
        self._found: list[Tensor] = []

    def put(self, places: Sequence[tuple[int, int]], found: Tensor) -> None:
        """Add the losses (2, places) of (candidate, sequence) places."""
        self._places += places
        self._found.append(found)

    def measurements(self, tokens: int) -> list[Measurement]:
        if not self._places:
            return []
        table = np.full(self._shape, np.nan)
        candidates, sequences = (list(own) for own in zip(*self._places, strict=True))
        table[:, candidates, sequences] = torch.cat(self._found, 1).cpu().numpy()
        # Rounding may take the divergence of equal models a hair below zero.
        table[0][np.isfinite(table[0]) & (table[0] < 0)] = 0.0
        return [
            Measurement(tuple(kl.tolist()), tuple(nll.tolist()), tokens)
            for kl, nll in zip(*table, strict=True)
        ]
