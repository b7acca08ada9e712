"""What rules say of a dense model, for the strategies that go by them."""

from collections import Counter
from collections.abc import Mapping
from typing import Final, cast

import torch
from torch import Tensor

from autocompress.errors import EvaluationError, SpecError
from autocompress.evaluators import scorers, weight_scorers
from autocompress.evaluators.out_of_memory import is_out_of_memory, out_of_memory
from autocompress.models import loading
from autocompress.models.surgery import LevelSource, ShapedModel
from autocompress.pipeline.cores import all_cores
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import Prepared
from autocompress.search.single_changes import Losses, gene_losses
from autocompress.search.strategies import FROM_SINGLE_CHANGES, RuleScores
from autocompress.spaces.base import GeneKind
from autocompress.store.base import StudyStore
from autocompress.trial import Split

RULE_SEQUENCES = 32
OUTLIER_MULTIPLES = (3.0, 5.0, 7.0, 10.0)
WARM_START: Final = "warm start"
"""The document with the losses that a rule said, and the tokens that it took."""
STORED = (GeneKind.BITS, GeneKind.SPARSITY)
OF_WIDTHS = ((GeneKind.WIDTH,), "depth or width")
OF_STORING = (STORED, "bits or sparsity")
SAYS: Final[Mapping[str, tuple[tuple[GeneKind, ...], str]]] = {
    "shortgpt": OF_WIDTHS,
    "cosine": OF_WIDTHS,
    "weight-error": OF_STORING,
    "fisher": OF_STORING,
    "owl": ((GeneKind.SPARSITY,), "sparsity"),
}
"""What the rule of a strategy says something of: the genes, and the spaces that have them."""


def kept_scores(
    prepared: Prepared,
    shaped: ShapedModel,
    levels: LevelSource,
    store: StudyStore,
    observer: Observer,
) -> RuleScores:
    """Return what a study's strategy needs to know, as an earlier run of it computed that.

    Products on other cores differ in their last digits, and a search must go on from the losses
    that it began with.
    """
    known = store.document(WARM_START)
    if known is not None:
        losses = cast("Losses", known["losses"])
        return RuleScores(start=losses, tokens=int(str(known["tokens"])))
    spec = prepared.spec
    if spec.strategy in FROM_SINGLE_CHANGES and spec.warm_start == "gradients":
        observer.stage("gradients of the dense model")
    scores = scores_for(spec.strategy, prepared, shaped, levels)
    if scores.start is not None:
        store.save_document(WARM_START, {"losses": scores.start, "tokens": scores.tokens})
    return scores


def scores_for(
    strategy: str, prepared: Prepared, shaped: ShapedModel, levels: LevelSource
) -> RuleScores:
    """Return what a strategy needs to know of the dense model beforehand; often nothing."""
    if strategy in ("shortgpt", "cosine"):
        return rule_scores(prepared, shaped)
    if strategy == "weight-error":
        return RuleScores(by_rule={strategy: weight_scorers.weight_error(shaped, levels)})
    if strategy == "fisher":
        found, tokens = _fisher(prepared, shaped, levels)
        return RuleScores(by_rule={strategy: found}, tokens=tokens)
    if strategy == "owl":
        text = _text(prepared)
        shares = weight_scorers.outlier_shares(shaped, text, OUTLIER_MULTIPLES)
        return RuleScores(outlier_shares=shares, tokens=text.numel())
    if strategy not in FROM_SINGLE_CHANGES:
        return RuleScores()
    match prepared.spec.warm_start:
        case "weights":
            return weight_scores(prepared, shaped, levels)
        case "gradients":
            found, tokens = _fisher(prepared, shaped, levels)
            return RuleScores(start=found, tokens=tokens)
        case _:
            return RuleScores()


def rule_scores(prepared: Prepared, shaped: ShapedModel) -> RuleScores:
    """Let the rules of ShortGPT and Gromov read the first sequences of the search text."""
    shaped.apply_dense()
    space, ids = prepared.space, _text(prepared)
    windows = scorers.window_cosine(shaped.model, space, ids)
    return RuleScores(
        gene_losses(space, scorers.block_influence(shaped.model, space, ids)),
        [(window.n_layers, window.start) for window in windows],
        tokens=2 * ids.numel(),
    )


def weight_scores(prepared: Prepared, shaped: ShapedModel, levels: LevelSource) -> RuleScores:
    """Score every level by the weights alone: a start that reads no text."""
    shaped.apply_dense()
    of_widths = gene_losses(
        prepared.space, scorers.weight_error(shaped.model, prepared.space, levels)
    )
    of_storing = weight_scorers.weight_error(shaped, levels)
    both = zip(of_widths, of_storing, strict=True)
    return RuleScores(start=[[a + b for a, b in zip(*rows, strict=True)] for rows in both])


def _fisher(prepared: Prepared, shaped: ShapedModel, levels: LevelSource) -> tuple[Losses, int]:
    """Return what gradients say of every level, and the tokens of as many forward passes.

    There is one, a backward one of activations alone, and of each layer one for each level of it:
    as many are counted as a layer has at most.

    Raises:
        EvaluationError: If memory runs out.
    """
    text = _text(prepared)
    levels_of = Counter(
        (bundle, gene.group)
        for bundle, gene in zip(prepared.space.gene_bundles, prepared.space.genes, strict=True)
        for _ in gene.settings[1:]
    )
    passes = 2 + max(levels_of.values())
    reason = ""
    try:
        own = _in_fast_numbers(prepared, shaped, levels)
        with all_cores():
            return weight_scorers.fisher_error(own, levels, text), passes * text.numel()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error)
    finally:
        if prepared.device.type == "cuda":
            # Workers have the rest of the GPU.
            torch.cuda.empty_cache()
    way_out = "A search with --warm-start losses needs none."
    raise EvaluationError(out_of_memory("gradients of the dense model", reason, way_out))


def _in_fast_numbers(prepared: Prepared, shaped: ShapedModel, levels: LevelSource) -> ShapedModel:
    """Return the model as losses are computed of it: loaded anew where its own format is slow."""
    spec, device = prepared.spec, prepared.device
    if spec.dtype != "auto" or not loading.is_slow(shaped.model):
        return shaped
    model = loading.load_model(prepared.folder, device, spec.dtype, spec.trust_remote_code)
    return ShapedModel(loading.in_fast_numbers(model, spec.dtype), prepared.space, levels)


def _text(prepared: Prepared) -> Tensor:
    """Return the first sequences of the search text."""
    rows = prepared.sequences[Split.SEARCH][:RULE_SEQUENCES]
    return torch.from_numpy(rows).long().to(prepared.device)


def check_rule(prepared: Prepared) -> None:
    """Refuse a space of which the rule of the strategy says nothing.

    Raises:
        SpecError: If it has genes that the rule does not know.
    """
    strategy = prepared.spec.strategy
    if strategy not in SAYS:
        return
    kinds, spaces = SAYS[strategy]
    other = sorted({gene.kind.value for gene in prepared.space.genes if gene.kind not in kinds})
    if other:
        raise SpecError(
            f"--strategy {strategy} says something of {spaces} alone, but the space has genes of "
            f"{', '.join(other)}. Narrow --space or take another strategy."
        )
