"""Which files of a model's folder hold its weights: beside them may lie others' copies."""

import json
from pathlib import Path
from typing import Final

from autocompress.errors import ModelError

WHOLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers loads, by name; none where a folder holds none.

    One whole file goes before those that an index names. Others are no part of the model, such as
    `consolidated.safetensors`, in which Mistral's own programs look for the same weights.

    Raises:
        ModelError: If the index is none, or names a file that is not there.
    """
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    index = folder / INDEX
    if not index.is_file():
        return []
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [folder / str(name) for name in sorted(named)]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} is not a weight index: {error}") from error
    lacking = [file.name for file in files if not file.is_file()]
    if lacking:
        raise ModelError(f"{folder} lacks {', '.join(lacking)}.")
    return files
