"""Says what an evaluation may hold at most, from configuration alone; knows no measurement."""

from dataclasses import dataclass
from pathlib import Path

from autocompress.evaluators.population import LARGEST_MAPPED
from autocompress.models.architecture import Architecture
from autocompress.spaces.base import SearchSpace, SiteKind
from autocompress.workers.session import SessionPlan

ITEM = 2  # bytes of a bf16 number
FLOAT = 4
CACHE_BYTES = 2**30  # of `ShapedModel`
# Float32 logits held at once: themselves, less the largest of a row, and the exponentials.
LOGITS_COPIES = 3
# Numbers a token at the widest moment of a site, as multiples of what is named. The fused
# attention that a CPU runs keeps no scores.
STREAM_COPIES, QUERY_COPIES, FFN_COPIES = 4, 6, 3


@dataclass(frozen=True, slots=True)
class Reading:
    """The shape of one measurement: so many candidates on so many sequences of T tokens."""

    candidates: int
    sequences: int
    length: int


def parts_of_memory(
    plan: SessionPlan, architecture: Architecture, reading: Reading
) -> dict[str, int]:
    """Return the bytes of each part of the bound; what the interpreter itself takes comes on top.

    Streams are what the population asks for, up to the limit: none of the other parts depends on
    its size, but for a table of losses.
    """
    limits, shape = plan.limits, architecture
    wanted = streams_wanted(plan, shape, reading)
    pair = 2 * stream_bytes(shape, reading.length)
    positions = reading.length - 1
    logits = min(positions * shape.vocabulary, max(limits.logits_at_once, shape.vocabulary))
    tokens = max(limits.tokens_at_once, reading.length)
    queries = shape.query_heads * shape.head_size
    numbers = (
        STREAM_COPIES * shape.hidden + QUERY_COPIES * queries + FFN_COPIES * shape.ffn_columns
    )
    teacher = positions * (min(limits.teacher_tokens, shape.vocabulary) * 2 * FLOAT + FLOAT)
    return {
        "weights": sum(file.stat().st_size for file in Path(plan.model).glob("*.safetensors")),
        "teacher": min(max(limits.teacher_bytes, teacher), reading.sequences * teacher),
        "streams": min(max(limits.states_bytes, pair), wanted),
        # Before the first site, and behind the last one: the sequences that are read at a time.
        "ends": 2 * max(1, tokens // reading.length) * pair // 2,
        "site": tokens * numbers * ITEM,
        "logits": logits * FLOAT * LOGITS_COPIES,
        "narrowed weights": min(CACHE_BYTES, narrowed_bytes(plan.space, shape)),
        "losses": 2 * 8 * reading.candidates * reading.sequences,
        # What glibc keeps of freed memory.
        "heap": 2 * LARGEST_MAPPED,
    }


def stream_bytes(architecture: Architecture, length: int) -> int:
    """Return the bytes of one sequence's residual stream."""
    return length * architecture.hidden * ITEM


def streams_wanted(plan: SessionPlan, architecture: Architecture, reading: Reading) -> int:
    """Return the bytes of streams that the evaluator would hold if nothing limited them.

    Sequences beyond one batch through a site are read later, whatever the limit is, unless the
    weights are streamed.
    """
    at_once = max(1, plan.limits.tokens_at_once // reading.length)
    sequences = reading.sequences
    if plan.weights_bytes is None:
        sequences = min(sequences, at_once)
    return 2 * reading.candidates * sequences * stream_bytes(architecture, reading.length)


def narrowed_bytes(space: SearchSpace, architecture: Architecture) -> int:
    """Return the bytes of all widths of all sites, were all of them in the cache."""
    shape = architecture
    columns = {
        SiteKind.ATTENTION: 2 * (shape.query_heads + shape.kv_groups) * shape.head_size,
        SiteKind.MLP: 3 * shape.ffn_columns,
    }
    total = 0
    for site, choice in space.site_choices():
        if not choice.is_dense:
            total += columns[site.kind] * shape.hidden * ITEM * choice.kept // site.units
    return total
