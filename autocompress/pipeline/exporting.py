"""Writes a finished study's winner otherwise: as another tool's recipe, or in another format.

A recipe needs the store alone. A checkpoint is what a study of its own publishes, whose only
candidate is the winner: it goes through the gate, and what is said of it is measured anew.
"""

import contextlib
from pathlib import Path
from typing import Final

import yaml

from autocompress.errors import SpecError
from autocompress.export.checkpoint import layer_texts
from autocompress.export.render import write_texts
from autocompress.export.tool_recipes import TOOLS, ToolRecipe, tool_recipe
from autocompress.pipeline.stored_study import StoredStudy, read_stored, too_early
from autocompress.spec import SearchSpec, from_mapping
from autocompress.spec_rules import FORMATS
from autocompress.store.base import StudyStore
from autocompress.store.study_store import open_study
from autocompress.trial import Genotype

WINNER: Final = "winner"
"""The document with the levels of what a study published."""
_ENGINES: Final = {"gguf": "llama.cpp", "gptq": "vllm"}
"""What alone opens a format; the others are opened by transformers, where the study's does not."""
START: Final = "start.yaml"
"""The file that tells a winner to the study that publishes it once more."""


def keep_winner(store: StudyStore, winner: Genotype) -> None:
    """Record what a study publishes."""
    store.save_document(WINNER, {"levels": list(winner.levels)})


def export_recipe(storage: str, study: str, tool: str, output: Path) -> ToolRecipe:
    """Write a study's winner for another tool; return what was written.

    Raises:
        SpecError: If the tool or the study is unknown, or the study has no winner yet.
        ExportError: If the tool cannot be told what the winner is, or the file not written.
    """
    if tool not in TOOLS:
        raise SpecError(f"Unknown format {tool!r}. Known: {', '.join((*FORMATS, *TOOLS))}.")
    known, winner = _winner(storage, study)
    recipe = tool_recipe(tool, known.space, known.space.choices(winner))
    write_texts({recipe.file: recipe.text}, output)
    return recipe


def export_spec(storage: str, study: str, form: str, output: Path) -> SearchSpec:
    """Return the spec of the study that publishes a study's winner in another format.

    Leaves a file in the output folder that tells the winner.

    Raises:
        SpecError: If the format is unknown or cannot hold the study's space, the study is unknown,
            or it has no winner yet.
        ExportError: If the file cannot be written.
    """
    known, winner = _winner(storage, study)
    told: dict[str, object] = {**known.spec.to_json()}
    given: dict[str, object] = {
        "format": form,
        "strategy": "given",
        "start": str((output / START).resolve()),
        "parent": None,
        "latency_table": None,
    }
    engine = _ENGINES.get(form, "torch" if known.spec.format in _ENGINES else known.spec.engine)
    # What the format and its engine decide is decided anew.
    usual = [name for name in ("whole_layers", "symmetric") if known.spec.format != "hf"]
    if engine != known.spec.engine:
        given["engine"] = engine
        own = ("bits", "group_size", "symmetric", "quantizer")
        usual += [name for name in own if "llama.cpp" in (engine, known.spec.engine)]
    spec = from_mapping({k: v for k, v in told.items() if k not in usual} | given)
    text = {"study": study, "layers": layer_texts(known.space, known.space.choices(winner))}
    write_texts({START: yaml.safe_dump(text, sort_keys=False)}, output)
    return spec


def winner_of(store: StudyStore) -> Genotype | None:
    """Return what a study has published; None if it has published nothing yet."""
    kept = store.document(WINNER)
    levels = None if kept is None else kept.get("levels")
    return Genotype(tuple(int(str(n)) for n in levels)) if isinstance(levels, list) else None


def _winner(storage: str, study: str) -> tuple[StoredStudy, Genotype]:
    """Return a study and its winner.

    Raises:
        SpecError: If the study is unknown or has no winner yet.
    """
    known = read_stored(storage, study)
    with contextlib.closing(open_study(storage, study)) as store:
        winner = winner_of(store)
    if winner is None:
        raise too_early(known.row, "a winner")
    return known, winner
