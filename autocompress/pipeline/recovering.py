"""Trains what is left of a winner to predict as the dense model does, and stores it anew.

Widths and drops are trained in float32; what the winner stores otherwise is built from the trained
weights, on what the trained model reads. All that comes after takes the result for a candidate:
its levels are in a database of their own, and the same gate lets it pass.
"""

import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from autocompress.errors import EngineError, EvaluationError, ExportError, GateError, SpecError
from autocompress.evaluators.out_of_memory import is_out_of_memory
from autocompress.models import loading, sample_text, text
from autocompress.models.linear_parts import places_of
from autocompress.models.surgery import Level, ShapedModel
from autocompress.operators.database import address
from autocompress.operators.levels import Levels
from autocompress.operators.statistics import gather
from autocompress.pipeline.cores import all_cores
from autocompress.pipeline.dense import in_fast_copy
from autocompress.pipeline.deployment import report_text
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import Prepared, cache_folder
from autocompress.spaces.base import Choice, Site
from autocompress.training.adapters import adapt, check_package, merge
from autocompress.training.distillation import (
    Trained,
    TrainingSettings,
    distil,
    mean_divergence,
)
from autocompress.training.reading import logits_of, read
from autocompress.training.saved_state import SavedState
from autocompress.training.weighting import drawn_by_loss
from autocompress.trial import Genotype, Measurement, Split
from autocompress.workers.session import CALIBRATION_SEQUENCES, SessionPlan

T = TypeVar("T")

JUDGING_SEQUENCES: Final = 64
VALIDATION_SEQUENCES: Final = 32
"""Of those, what a training is held against, often: all of them would cost as much as it does."""
TELLING_CHARACTERS: Final = 40


@dataclass(frozen=True, slots=True)
class Recovered:
    """A winner after its training.

    Args:
        shaped: The trained model; its dense choice means nothing.
        levels: What it is shaped from.
    """

    trained: Trained
    shaped: ShapedModel
    levels: Levels


def check_recovery(prepared: Prepared) -> np.ndarray | None:
    """Return the text that a winner is to be trained on: (sequences, T) token ids.

    That of `--recovery-text`; else with the built-in sample the rest of the standard library, and
    with other calibration text that part of it which the search reads. None where no winner is to
    be trained, or none could be: whatever stays of a layer is whole.

    Raises:
        SpecError: If the model cannot be trained, or there is too little text.
        TextError: If the text cannot be read.
    """
    spec = prepared.spec
    if spec.recover is None or not {"depth", "width"} & set(spec.space):
        return None
    if spec.recovery_rank is not None:
        check_package()
    if spec.weights_bytes is not None:
        raise SpecError("recover: a model that is streamed cannot be trained.")
    if spec.recovery_text is not None:
        documents = text.read_documents(spec.recovery_text)
    elif spec.calibration is None:
        documents = sample_text.training_documents()
    else:
        return prepared.sequences[Split.SEARCH]
    left = _without_judging_text(documents, text.read_documents(spec.calibration))
    stream: list[int] = []
    separator = prepared.tokenizer.eos_token_id
    for ids in text.token_ids(prepared.tokenizer, left):
        stream += ids if separator is None else [*ids, separator]
    n = len(stream) // spec.context
    if n < text.FEWEST_SEQUENCES:
        raise SpecError(
            f"recover: `sequences >= {text.FEWEST_SEQUENCES}` of {spec.context} tokens must hold "
            f"for the text to train on, but got {n}."
        )
    return np.asarray(stream[: n * spec.context], dtype=np.int32).reshape(n, spec.context)


def _without_judging_text(documents: Sequence[str], calibration: Sequence[str]) -> list[str]:
    """Return documents without the paragraphs that winners are picked and judged by."""
    parts = text.split_documents(calibration)
    judging = {
        paragraph.strip()
        for document in (*parts[Split.SELECTION], *parts[Split.REPORT])
        for paragraph in document.split("\n\n")
    }
    # A line that stands alone says little of what is around it, and is found everywhere.
    judging = {paragraph for paragraph in judging if len(paragraph) >= TELLING_CHARACTERS}
    return [
        "\n\n".join(own for own in document.split("\n\n") if own.strip() not in judging)
        for document in documents
    ]


def recover(
    prepared: Prepared,
    shaped: ShapedModel,
    plan: SessionPlan,
    winner: Genotype,
    rows: np.ndarray,
    observer: Observer,
) -> Recovered | None:
    """Train a winner; what was trained before of just this is taken from the disk.

    Args:
        shaped: The dense model; it is left dense.
        rows: (N, T) token ids to train on.

    Returns:
        None where the winner keeps all of all sites, or where as it is stored it loses no less
        after its training, on text that winners are picked by: it is published as it was found.

    Raises:
        EvaluationError: If the training's loss is no finite number.
    """
    spec, space = prepared.spec, prepared.space
    choices = space.choices(winner)
    shapes = tuple(choice.shape for choice in choices)
    if all(choice.is_whole for choice in shapes) or spec.recover is None:
        return None
    settings = TrainingSettings(spec.recover, spec.recovery_rate, hidden=spec.recovery_hidden)
    order = text.draw_order(
        len(prepared.sequences[Split.SELECTION]), Split.SELECTION, 0, spec.seed
    )
    judging = prepared.sequences[Split.SELECTION][order[:JUDGING_SEQUENCES]]
    validation = judging[:VALIDATION_SEQUENCES]
    observer.stage("recovery")
    shaped.apply(choices)
    searched = copy.deepcopy(shaped.model)
    shaped.apply(shapes)
    student: nn.Module = copy.deepcopy(shaped.model).float()
    adapted = None
    if spec.recovery_rank is None:
        student.requires_grad_(requires_grad=True)
    else:
        adapted = adapt(cast(PreTrainedModel, student), spec.recovery_rank, spec.seed)
    shaped.apply_dense()
    dense = in_fast_copy(shaped.model, spec.dtype)
    if spec.recovery_draw == "worst":
        with all_cores():
            rows = drawn_by_loss(
                rows,
                spec.recover // spec.context,
                functools.partial(mean_divergence, student, dense),
                spec.seed,
            )
    found = mean_divergence(in_fast_copy(searched, spec.dtype), dense, judging)
    del searched
    name = address(
        plan.levels.name,
        json.dumps([str(choice) for choice in shapes]),
        json.dumps(dataclasses.asdict(settings) | {"rank": spec.recovery_rank}),
        str(spec.seed),
        str(prepared.device),
        text.fingerprint({Split.SEARCH: rows, Split.SELECTION: validation}),
    )
    saved = SavedState(cache_folder() / "recovered" / name)
    with all_cores():
        trained = distil(
            student, dense, rows, validation, settings, spec.seed, saved, observer.advance
        )
    if adapted is not None:
        student = merge(adapted)
    folder = cache_folder() / "levels" / address(plan.levels.name, name, winner.key)
    levels = dataclasses.replace(plan, levels=folder, shared_levels=None).open_levels()
    model = loading.load_model(
        prepared.folder, prepared.device, spec.dtype, spec.trust_remote_code
    )
    remade = ShapedModel(model, space, levels)
    before = plan.open_levels()
    _take_over(remade, student, shapes, before, levels)
    _store(remade, prepared, choices, levels)
    remade.apply(choices)
    if mean_divergence(in_fast_copy(remade.model, spec.dtype), dense, judging) >= found:
        observer.tell("not recovered", {"tokens": trained.tokens, "seconds": trained.seconds})
        return None
    return Recovered(trained, remade, levels)


def unless_it_fails(train: Callable[[], T | None], observer: Observer) -> tuple[T | None, str]:
    """Return what a training came to, and why it failed; empty where it did not.

    The winner was found and let pass before: it is not lost with its training.
    """
    try:
        return train(), ""
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        first = str(error).strip().partition("\n")[0] or "no reason given"
        reason = (
            f"memory ran out ({first}). Try --recovery-rank, which trains fewer numbers, or a "
            "smaller --context."
        )
    except (EvaluationError, EngineError, ExportError, GateError) as error:
        reason = f"{error} Try another --recovery-rate, or --recovery-rank."
    said = f"The winner was not recovered, and is published as it was found: {reason}"
    observer.tell("warning", {"warning": said})
    return None, said


def _take_over(
    remade: ShapedModel,
    student: nn.Module,
    shapes: Sequence[Choice],
    before: Levels,
    levels: Levels,
) -> None:
    """Give a dense model what was trained of a narrowed one, in the places that it came from."""
    names = {id(module): name for name, module in remade.model.named_modules()}
    dense = dict(remade.model.named_parameters())
    trained = dict(student.named_parameters())
    for name, own in trained.items():
        if own.shape == dense[name].shape:
            dense[name].data.copy_(own.detach())
    for index, (site, shape) in enumerate(zip(remade.space.sites, shapes, strict=True)):
        if shape.is_dropped or shape.is_whole:
            continue
        kept = before.level(site, shape).kept
        *inputs, output = remade.linears(index)
        for linear in inputs:
            theirs = cast(nn.Linear, student.get_submodule(names[id(linear)]))
            rows = places_of(kept, linear.out_features // site.units).to(linear.weight.device)
            linear.weight.data[rows] = theirs.weight.detach().to(linear.weight)
            if linear.bias is not None:
                linear.bias.data[rows] = theirs.bias.detach().to(linear.bias)
        theirs = cast(nn.Linear, student.get_submodule(names[id(output)]))
        weight = theirs.weight.detach().to(output.weight).cpu()
        levels.put_width(site, shape, Level(kept, weight))


def _store(
    remade: ShapedModel, prepared: Prepared, choices: Sequence[Choice], levels: Levels
) -> None:
    """Build what a winner stores otherwise, of the trained weights."""
    space = remade.space
    shape_of: Mapping[Site, Choice] = {
        site: choice.shape for site, choice in zip(space.sites, choices, strict=True)
    }
    stored = [
        index for index, choice in enumerate(choices) if choice.weights and not choice.is_dropped
    ]
    if not stored:
        return
    rows = prepared.sequences[Split.SEARCH][:CALIBRATION_SEQUENCES]
    sequences = torch.from_numpy(rows).long().to(prepared.device)
    whole = {index: [linear.weight for linear in remade.linears(index)] for index in stored}
    for index, statistics in gather(
        remade, stored, sequences, shape_of.__getitem__, shape_of.__getitem__
    ):
        site = space.sites[index]
        weights = [*whole[index][:-1], remade.linears(index)[-1].weight]
        with torch.inference_mode():
            levels.build_choice(site, choices[index], weights, statistics)
    remade.apply_dense()


def measure_recovered(
    prepared: Prepared, recovered: Recovered, winner: Genotype, n: int, dense: ShapedModel
) -> Measurement:
    """Return what a recovered winner loses on the report text, as a search measures it.

    Args:
        n: Sequences that the searched winner was measured on.
        dense: The dense model, in its dense choice.
    """
    recovered.shaped.apply(prepared.space.choices(winner))
    theirs, ours = (
        logits_of(in_fast_copy(own.model, prepared.spec.dtype), is_fast=False)
        for own in (dense, recovered.shaped)
    )
    return read(ours, theirs, report_text(prepared, n), prepared.spec.teacher_tokens)
