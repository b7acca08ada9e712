"""Writes a candidate of a study otherwise: as another tool's recipe, or in another format.

The candidate is the winner of a finished study, or any that was measured, such as a point of its
Pareto front. A recipe needs the store alone. A checkpoint is what a study of its own publishes,
whose only candidate it is: it goes through the gate, and what is said of it is measured anew.
"""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from autocompress.errors import SpecError
from autocompress.export.checkpoint import layer_texts
from autocompress.export.pareto import Axis
from autocompress.export.render import write_texts
from autocompress.export.tool_recipes import TOOLS, ToolRecipe, tool_recipe
from autocompress.pipeline.aiming import MARGIN
from autocompress.pipeline.pareto import axis_of
from autocompress.pipeline.stored_study import StoredStudy, latency_of, read_stored, too_early
from autocompress.pipeline.targets import stored_cost
from autocompress.spec import DARWIN, TARGETS, SearchSpec, from_mapping
from autocompress.spec_rules import FORMATS
from autocompress.store.base import StudyStore
from autocompress.store.study_store import open_study
from autocompress.trial import Genotype

WINNER: Final = "winner"
"""The document with the levels of what a study published."""
_ENGINES: Final = {"gguf": "llama.cpp", "gptq": "vllm"}
"""What alone opens a format; the others are opened by transformers, where the study's does not."""
LEAST_SPEEDUP: Final = 1.001
"""A target must be more than none."""
START: Final = "start.yaml"
"""The file that tells a winner to the study that publishes it once more."""


def keep_winner(store: StudyStore, winner: Genotype) -> None:
    """Record what a study publishes."""
    store.save_document(WINNER, {"levels": list(winner.levels)})


def export_recipe(
    storage: str, study: str, tool: str, output: Path, point: str | None = None
) -> ToolRecipe:
    """Write a study's winner for another tool; return what was written.

    Args:
        point: The short name of a measured candidate that is written instead.

    Raises:
        SpecError: If the tool, the study or the candidate is unknown, or the study has no winner
            yet.
        ExportError: If the tool cannot be told what the winner is, or the file not written.
    """
    if tool not in TOOLS:
        raise SpecError(f"Unknown format {tool!r}. Known: {', '.join((*FORMATS, *TOOLS))}.")
    known, picked = _picked(storage, study, point)
    choices = known.space.choices(picked)
    recipe = tool_recipe(tool, known.space, choices, known.spec.embeddings)
    write_texts({recipe.file: recipe.text}, output)
    return recipe


def export_spec(
    storage: str, study: str, form: str | None, output: Path, point: str | None = None
) -> SearchSpec:
    """Return the spec of the study that publishes a candidate of a study.

    Leaves a file in the output folder that tells the candidate.

    Args:
        form: None is the study's own format.
        point: The short name of a measured candidate; None is the winner. The new study's target
            is what the point promises.

    Raises:
        SpecError: If the format is unknown or cannot hold the study's space, the study or the
            candidate is unknown, or there is no winner yet.
        ExportError: If the file cannot be written.
    """
    known, picked = _picked(storage, study, point)
    form = form or known.spec.format
    told: dict[str, object] = {**known.spec.to_json()}
    if point is not None:
        told |= dict.fromkeys(TARGETS) | {**_promise(known, picked)}
    given: dict[str, object] = {
        "format": form,
        "strategy": "given",
        "start": str((output / START).resolve()),
        "parent": None,
        "latency_table": None,
        "warm_start": "losses",
    }
    engine = _ENGINES.get(form, "torch" if known.spec.format in _ENGINES else known.spec.engine)
    # What the format and its engine decide is decided anew.
    usual = [name for name in ("whole_layers", "symmetric") if known.spec.format != "hf"]
    # No candidate is trained before it is measured: there is one.
    usual += DARWIN
    if engine != known.spec.engine:
        given["engine"] = engine
        own = ("bits", "group_size", "symmetric", "quantizer", "embeddings")
        usual += [name for name in own if "llama.cpp" in (engine, known.spec.engine)]
    spec = from_mapping({k: v for k, v in told.items() if k not in usual} | given)
    text = {"study": study, "layers": layer_texts(known.space, known.space.choices(picked))}
    write_texts({START: yaml.safe_dump(text, sort_keys=False)}, output)
    return spec


def winner_of(store: StudyStore) -> Genotype | None:
    """Return what a study has published; None if it has published nothing yet."""
    kept = store.document(WINNER)
    levels = None if kept is None else kept.get("levels")
    return Genotype(tuple(int(str(n)) for n in levels)) if isinstance(levels, list) else None


def _picked(storage: str, study: str, point: str | None) -> tuple[StoredStudy, Genotype]:
    """Return a study and one of its measured candidates, by its short name, or its winner.

    Raises:
        SpecError: If the study or the candidate is unknown, or there is no winner yet.
    """
    known = read_stored(storage, study)
    if point is not None:
        for record in known.records:
            if record.genotype.key == point and record.error is None:
                return known, record.genotype
        raise SpecError(
            f"Study {study!r} has measured no candidate {point!r}: `autocompress pareto {study}` "
            "lists those of its front."
        )
    with contextlib.closing(open_study(storage, study)) as store:
        winner = winner_of(store)
    if winner is None:
        raise too_early(known.row, "a winner")
    return known, winner


def _promise(known: StoredStudy, picked: Genotype) -> Mapping[str, object]:
    """Return the target that a candidate meets by prediction, on the axis of the study's own.

    Rounded to where it is met. All of a measured speedup's interval has to meet the target: it
    is given the same margin as that of a search.
    """
    spec, space, axis = known.spec, known.space, axis_of(known.spec)
    entries = space.entries(picked)
    if axis is Axis.SPEEDUP:
        cost = latency_of(known).cost(space)
        speedup = cost.dense / cost.of(entries) / MARGIN
        return {"target_speedup": max(LEAST_SPEEDUP, math.floor(1000 * speedup) / 1000)}
    value = stored_cost(axis.value, spec.counted_bits, space, known.dense, spec.format).of(entries)
    is_whole = axis is not Axis.BITS
    return {f"target_{axis}": math.ceil(value) if is_whole else math.ceil(1000 * value) / 1000}
