"""What a store holds of a search for a decoding, read without its model, and shown to people."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from autocompress.search.racing import Answered, Objective, Race, Rules, joined
from autocompress.spaces.decoding import DecodingSpace, Parameter
from autocompress.store.base import AnswerRecord, Json, StudyRow
from autocompress.trial import Genotype, Split

KIND: Final = "decode"
"""What a spec says under `kind`; that of a search for a compressed model has none."""
JOINT: Final = "joint"
"""What the spec of a joint search says there."""
REFERENCE: Final = "reference"
SPACE: Final = "decoding space"


def to_document(space: DecodingSpace) -> dict[str, Json]:
    """Return a space as its study keeps it."""
    return {
        "parameters": [
            {"name": own.name, "menu": own.menu, "needs": own.needs} for own in space.parameters
        ]
    }


def from_document(document: Mapping[str, Any]) -> DecodingSpace:
    """Read what `to_document` wrote."""
    return DecodingSpace(
        [
            Parameter(
                own["name"],
                tuple(own["menu"]),
                {name: tuple(held) for name, held in own["needs"].items()},
            )
            for own in document["parameters"]
        ]
    )


def is_decoding(row: StudyRow) -> bool:
    """Whether a study searches for a decoding."""
    return row.spec.get("kind") == KIND


def is_joint(row: StudyRow) -> bool:
    """Whether a study consists of others: of compressed models and of their decodings."""
    return row.spec.get("kind") == JOINT


def ended(records: Sequence[AnswerRecord], race: Race) -> dict[Genotype, Answered]:
    """Return what each decoding made of the search's items that reads no further, as they began.

    Args:
        records: In their order, by which they are judged as they were when they came in.
        race: At its start.
    """
    read: dict[Genotype, Answered] = {}
    goes_on: dict[Genotype, bool] = {}
    for record in records:
        if record.split is not Split.SEARCH or record.payload is None:
            continue
        part = Answered.from_json(record.payload)  # type: ignore[arg-type]  # Columns by name.
        before = read.get(record.genotype, part.first(0))
        if record.first != len(before):
            continue
        read[record.genotype] = joined([before, part])
        goes_on[record.genotype] = race.goes_on(read[record.genotype])
    return {genotype: own for genotype, own in read.items() if not goes_on[genotype]}


def rules_of(spec: Mapping[str, Any]) -> Rules:
    """Return what a study's spec searches for."""
    return Rules(
        tuple(Objective(own) for own in spec["objectives"]),
        spec.get("drop"),
        {Objective(name): most for name, most in spec["limits"].items()},
    )
