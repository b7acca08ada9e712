import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import LongTensor, Tensor

from autocompress.models.entropy_temperature import EntropyTemperature
from autocompress.models.generation_settings import logits_processors
from autocompress.spaces.decoding import ENTROPY_BASE

NO_TEXT = LongTensor(1, 0)
# Of a surer model than that, the entropy is lost in float32, where the answer is certain anyway.
LOGITS = st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=12)


def by_formula(logits: list[float], strength: float, temperature: float) -> Tensor:
    """Return EDT's distribution, computed in float64."""
    first = torch.tensor(logits, dtype=torch.float64)
    shares = first.softmax(-1)
    entropy: float = -sum(share * math.log(share) for share in shares.tolist() if share)
    own: float = temperature * ENTROPY_BASE ** (strength / entropy)
    return ((first - first.max()) / own).softmax(-1)


@given(logits=LOGITS, strength=st.sampled_from([0.1, 0.3, 1.0]))
def test_the_temperature_is_the_papers(logits: list[float], strength: float) -> None:
    decoding = {"do_sample": True, "temperature": 0.6, "entropy_temperature": strength}

    processed = logits_processors(decoding)(NO_TEXT, torch.tensor([logits]))

    expected = by_formula(logits, strength, 0.6)[None]
    # Entropy is summed in float32, and a power of it may be far from 1.
    torch.testing.assert_close(processed.softmax(-1).double(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("sure", [[50.0, 0.0, 0.0], [3e4, 0.0, -3e4], [1.0, -math.inf, -math.inf]])
def test_a_certain_model_is_greedy(sure: list[float]) -> None:
    processed = EntropyTemperature(0.3)(NO_TEXT, torch.tensor([sure]))

    assert processed.softmax(-1).tolist() == [[1.0, 0.0, 0.0]]


def test_rows_have_temperatures_of_their_own() -> None:
    rows = torch.tensor([[2.0, 1.0, 0.0], [0.1, 0.0, 0.0]])
    processor = EntropyTemperature(0.3)

    together = processor(NO_TEXT, rows)

    alone = torch.cat([processor(NO_TEXT, row[None]) for row in rows])
    assert torch.equal(together, alone)
