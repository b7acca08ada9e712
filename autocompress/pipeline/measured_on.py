"""Knows what a study's losses were measured on: those of other weights or texts must not mix.

Nor may those that were computed in another number format, or by a GPU and by a CPU: in few bits
these round differently, by more than neighbouring candidates differ.
"""

from collections.abc import Mapping
from typing import Final

from autocompress.errors import SpecError
from autocompress.models import loading, text
from autocompress.pipeline.prepared import Prepared
from autocompress.store.base import Json, StudyRow

MEASURED_ON: Final = "measured on"
"""The document that says what a study's losses are of, and computed in."""


def measured_on(prepared: Prepared) -> Mapping[str, str]:
    """Return what all losses are of and computed in, digests of the first; reads the weights."""
    parts = prepared.sequences.items()
    texts = {f"{split} text": text.fingerprint({split: rows}) for split, rows in parts}
    device = prepared.device
    number_format = loading.number_format(prepared.folder, prepared.spec.dtype, device)
    return {
        "weights": loading.fingerprint(prepared.folder),
        "number format": f"{number_format} on a {'GPU' if device.type == 'cuda' else 'CPU'}",
        **texts,
    }


def check_measured_on(
    row: StudyRow, before: Mapping[str, Json] | None, now: Mapping[str, str]
) -> None:
    """Make sure that a study's losses compare with those that are measured now.

    Args:
        before: The study's document.

    Raises:
        SpecError: If they are of other weights, of another text or in another number format.
    """
    # Where it does not say on what, nothing was measured yet.
    if before is None or before == now:
        return
    changed = [name for name, digest in now.items() if before.get(name) != digest]
    raise SpecError(
        f"Study {row.name!r} was measured on what is no longer the same: "
        f"{', '.join(changed)} of {row.spec['model']} changed, and losses of both must "
        "not mix. Put back what it was measured on, or search under a new study."
    )
