"""What rules say of a dense model, for the strategies that go by them."""

import torch

from autocompress.evaluators import scorers
from autocompress.models import loading
from autocompress.pipeline.prepared import Prepared
from autocompress.search.strategies import RuleScores
from autocompress.trial import Split

RULE_SEQUENCES = 32


def rule_scores(prepared: Prepared) -> RuleScores:
    """Load the model and let the rules read the first sequences of the search text."""
    spec = prepared.spec
    model = loading.load_model(
        prepared.folder, prepared.device, spec.dtype, spec.trust_remote_code
    )
    ids = torch.from_numpy(prepared.sequences[Split.SEARCH][:RULE_SEQUENCES]).long()
    ids = ids.to(prepared.device)
    return RuleScores(
        scorers.block_influence(model, prepared.space, ids),
        [(w.n_layers, w.start) for w in scorers.window_cosine(model, prepared.space, ids)],
    )
