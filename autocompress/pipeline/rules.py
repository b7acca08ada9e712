"""What rules say of a dense model, for the strategies that go by them."""

import torch

from autocompress.evaluators import scorers
from autocompress.models.surgery import LevelSource, ShapedModel
from autocompress.pipeline.prepared import Prepared
from autocompress.search.single_changes import gene_losses
from autocompress.search.strategies import RuleScores
from autocompress.trial import Split

RULE_SEQUENCES = 32


def rule_scores(prepared: Prepared, shaped: ShapedModel) -> RuleScores:
    """Let the rules of ShortGPT and Gromov read the first sequences of the search text."""
    shaped.apply_dense()
    ids = torch.from_numpy(prepared.sequences[Split.SEARCH][:RULE_SEQUENCES]).long()
    ids = ids.to(prepared.device)
    space = prepared.space
    windows = scorers.window_cosine(shaped.model, space, ids)
    return RuleScores(
        gene_losses(space, scorers.block_influence(shaped.model, space, ids)),
        [(window.n_layers, window.start) for window in windows],
    )


def weight_scores(prepared: Prepared, shaped: ShapedModel, levels: LevelSource) -> RuleScores:
    """Score every menu entry by the weights alone: a start that reads no text."""
    shaped.apply_dense()
    scores = scorers.weight_error(shaped.model, prepared.space, levels)
    return RuleScores(weight_error=gene_losses(prepared.space, scores))
