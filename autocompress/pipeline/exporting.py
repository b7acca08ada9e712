"""Writes a finished study's winner as a recipe of another tool, from the store alone."""

import contextlib
from pathlib import Path
from typing import Final

from autocompress.errors import SpecError
from autocompress.export.render import write_texts
from autocompress.export.tool_recipes import TOOLS, ToolRecipe, tool_recipe
from autocompress.pipeline.stored_study import read_stored, too_early
from autocompress.store.base import StudyStore
from autocompress.store.study_store import open_study
from autocompress.trial import Genotype

WINNER: Final = "winner"
"""The document with the levels of what a study published."""


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
        raise SpecError(f"Unknown format {tool!r}. Known: {', '.join(TOOLS)}.")
    known = read_stored(storage, study)
    with contextlib.closing(open_study(storage, study)) as store:
        kept = store.document(WINNER)
    if kept is None:
        raise too_early(known.row, "a winner")
    levels = kept["levels"]
    genotype = Genotype(tuple(int(str(n)) for n in levels) if isinstance(levels, list) else ())
    recipe = tool_recipe(tool, known.space, known.space.choices(genotype))
    write_texts({recipe.file: recipe.text}, output)
    return recipe
