"""Level databases of tiny models, built as a worker builds them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from autocompress.models.surgery import ShapedModel
from autocompress.operators.base import WeightOperator
from autocompress.operators.database import LevelDatabase
from autocompress.operators.ggml_rounding import GgmlRounding
from autocompress.operators.gptq import Gptq
from autocompress.operators.levels import Levels, Operators
from autocompress.operators.round_to_nearest import RoundToNearest
from autocompress.operators.sparse_gpt import SparseGpt
from autocompress.operators.statistics import gather
from autocompress.operators.structured_obs import StructuredObs
from autocompress.spaces.base import SiteKind
from tests.tiny_models import CPU, token_ids

GPTQ = Gptq()


def open_levels(folder: Path, codes: WeightOperator = GPTQ) -> Levels:
    """Return a level database; what nobody built is not there."""
    return Levels(
        LevelDatabase(folder),
        Operators(StructuredObs(), codes, SparseGpt(), RoundToNearest(), GgmlRounding()),
        CPU,
    )


@torch.inference_mode()
def build_levels(shaped: ShapedModel, levels: Levels, kinds: Sequence[SiteKind]) -> None:
    """Build what the database lacks of all sites of some kinds of a dense model."""
    sites = shaped.space.sites
    missing = [i for i, site in enumerate(sites) if site.kind in kinds and levels.lacks(site)]
    if not missing:
        return
    for index, statistics in gather(shaped, missing, token_ids(8, 16, seed=3)):
        weights = [linear.weight for linear in shaped.linears(index)]
        levels.build(sites[index], weights, statistics)
