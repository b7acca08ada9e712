"""The files that a search's settings name on the machine that it runs on."""

import dataclasses
from pathlib import Path
from typing import Any, Final

from autocompress.errors import SpecError
from autocompress.spec import SearchSpec

FILES: Final = ("model", "calibration", "latency_table", "recovery_text", "start", "tasks")
"""What a spec names that is read from this machine."""


def from_anywhere(spec: SearchSpec) -> SearchSpec:
    """Return a spec that means the same files wherever in this machine it is run.

    Links are left as links: what they lead to when it is run is meant.

    Raises:
        SpecError: Naming all files that there are none of.
    """
    given = {name: getattr(spec, name) for name in FILES}
    paths = {name: Path(own).expanduser() for name, own in given.items() if own is not None}
    missing = [
        f"{name}: there is no {given[name]!r} here"
        for name, path in paths.items()
        if not path.exists() and (name != "model" or _is_path(spec.model))
    ]
    if missing:
        raise SpecError(f"{'; '.join(missing)}.")
    found: dict[str, Any] = {
        name: str(path.absolute()) for name, path in paths.items() if path.exists()
    }
    return dataclasses.replace(spec, **found)


def _is_path(model: str) -> bool:
    """Whether a model can be no name on the hub."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1
