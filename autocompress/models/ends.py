"""The two ends of a causal LM, token embedding and output head, dense or as candidates store them.

Dense tensors stay those of the model; what stands in for them is kept beside.
"""

from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn
from transformers import PreTrainedModel

EMBEDDING: Final = "model.embed_tokens.weight"
HEAD: Final = "lm_head.weight"

EndWeights = Mapping[str, Tensor]
"""What the ends compute with as they are stored, (vocabulary, hidden) each, by name.

Of a model that ties them there is the embedding alone.
"""


def dense_ends(model: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return the weights of the ends by their names in a checkpoint; tied ones once."""
    names = (EMBEDDING,) if ties_ends(model) else (EMBEDDING, HEAD)
    return {name: model.get_parameter(name) for name in names}


def ties_ends(model: PreTrainedModel) -> bool:
    """Whether embedding and head are one tensor.

    The model says so, not its config: where a checkpoint holds two that differ, transformers
    leaves them two.
    """
    return model.get_parameter(HEAD) is model.get_parameter(EMBEDDING)


class Ends:
    """Lets a model compute with its dense ends or with stored ones; it begins with the dense ones.

    Args:
        stored: None leaves nothing to change between.
    """

    def __init__(self, model: PreTrainedModel, stored: EndWeights | None) -> None:
        self._model = model
        self._dense = dense_ends(model) if stored else {}
        self._stored = {
            name: nn.Parameter(weight.to(self._dense[name]), requires_grad=False)
            for name, weight in (stored or {}).items()
        }
        self._is_dense = True

    def put_dense(self) -> None:
        """Put the dense tensors in place."""
        self._put(is_dense=True)

    def put_stored(self) -> None:
        """Put what is stored in place, where anything is."""
        self._put(is_dense=False)

    def _put(self, *, is_dense: bool) -> None:
        if not self._stored or is_dense == self._is_dense:
            return
        weights = self._dense if is_dense else self._stored
        embedding = weights[EMBEDDING]
        for name, weight in ((EMBEDDING, embedding), (HEAD, weights.get(HEAD, embedding))):
            module = self._model.get_submodule(name.removesuffix(".weight"))
            module.register_parameter("weight", weight)
        self._is_dense = is_dense
