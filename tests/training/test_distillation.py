"""Training: it lowers the divergence, ends where it began when interrupted, and keeps the best."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.errors import EvaluationError
from autocompress.training import distillation
from autocompress.training.distillation import (
    Distance,
    Trained,
    TrainingSettings,
    distil,
    divergence,
)
from autocompress.training.saved_state import SavedState
from autocompress.training.validation import Validation
from tests.full_disk import FULL, no_room
from tests.tiny_models import VOCABULARY, TinyModels, token_ids

STEPS, SEQUENCES, CONTEXT = 40, 4, 16
SETTINGS = TrainingSettings(STEPS * SEQUENCES * CONTEXT, 3e-3, SEQUENCES)
TEXT = token_ids(12, CONTEXT, seed=1).numpy()
VALIDATION = token_ids(6, CONTEXT, seed=2).numpy()

Weights = dict[str, Tensor]


class Killed(BaseException):
    """What ends a training at once."""


@pytest.fixture
def dense(tiny_models: TinyModels) -> nn.Module:
    return tiny_models.load("llama")


@pytest.fixture
def student(dense: nn.Module) -> nn.Module:
    """The dense model with the MLP of its second layer taken to nothing."""
    made = copy.deepcopy(dense).requires_grad_(requires_grad=True)
    nn.init.zeros_(made.get_parameter("model.layers.1.mlp.down_proj.weight"))
    return made


def train(
    folder: Path,
    student: nn.Module,
    dense: nn.Module,
    settings: TrainingSettings = SETTINGS,
    until: int | None = None,
) -> Trained:
    def tell(done: int, total: int) -> None:
        assert 0 < done <= total
        if done == until:
            raise Killed

    return distil(student, dense, TEXT, VALIDATION, settings, 7, SavedState(folder), tell)


def weights_of(model: nn.Module) -> Weights:
    return {name: own.detach().clone() for name, own in model.named_parameters()}


def are_equal(first: Weights, second: Weights) -> bool:
    return all(torch.equal(first[name], second[name]) for name in second)


def test_training_gives_back_most_of_the_divergence(
    tmp_path: Path, dense: nn.Module, student: nn.Module
) -> None:
    trained = train(tmp_path, student, dense)

    kls = [own.kl for own in trained.history]
    assert trained.tokens == SETTINGS.tokens
    assert trained.history[0].tokens == 0
    assert trained.best.kl == min(kls) < 0.7 * kls[0]


def test_the_tensors_that_validated_best_are_left(
    tmp_path: Path, dense: nn.Module, student: nn.Module
) -> None:
    # Far too fast: it ends worse than it was on the way.
    trained = train(tmp_path, student, dense, dataclasses.replace(SETTINGS, rate=0.3))

    own = divergence_of(student, dense)
    assert own == pytest.approx(trained.best.kl, rel=1e-4)


@torch.no_grad()
def divergence_of(student: nn.Module, dense: nn.Module) -> float:
    ids = torch.from_numpy(VALIDATION).long()
    with distillation.fast_numbers(ids.device):
        ours = student(ids, use_cache=False).logits
    return float(divergence(dense(ids, use_cache=False).logits, ours)[:, :-1].mean())


def test_a_training_without_gain_ends_early(tmp_path: Path, dense: nn.Module) -> None:
    student = copy.deepcopy(dense).requires_grad_(requires_grad=True)

    hopeless = dataclasses.replace(SETTINGS, rate=0.1, patience=2, retreats=2)

    trained = train(tmp_path, student, dense, hopeless)

    assert len(trained.history) == 5
    assert trained.best.tokens == 0
    assert are_equal(weights_of(student), weights_of(dense))


@pytest.mark.parametrize("rate", [3e-3, 0.03])
@pytest.mark.parametrize("step", [1, 7, 23, STEPS])
def test_a_killed_training_ends_as_an_undisturbed_one(
    tmp_path: Path,
    dense: nn.Module,
    student: nn.Module,
    step: int,
    rate: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distillation, "SAVE_SECONDS", 0.0)
    settings = dataclasses.replace(SETTINGS, rate=rate)
    other, third = copy.deepcopy(student), copy.deepcopy(student)
    undisturbed = train(tmp_path / "undisturbed", student, dense, settings)

    with pytest.raises(Killed):
        train(tmp_path / "killed", other, dense, settings, step * SEQUENCES * CONTEXT)
    resumed = train(tmp_path / "killed", third, dense, settings)

    assert resumed.history == undisturbed.history
    assert are_equal(weights_of(third), weights_of(student))


def test_a_training_killed_at_each_step_goes_back_to_what_was_best_by_then(
    tmp_path: Path, dense: nn.Module, student: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = dataclasses.replace(SETTINGS, rate=0.03)
    starts = [copy.deepcopy(student) for _ in range(STEPS + 1)]
    undisturbed = train(tmp_path / "undisturbed", student, dense, fast)
    before_best = undisturbed.history[: undisturbed.history.index(undisturbed.best)]
    assert distillation._retreats(before_best, fast.patience).in_all > 0

    # The clock saves a state early, and none after it.
    monkeypatch.setattr(distillation, "SAVE_SECONDS", 0.0)
    for step in range(2, STEPS + 1):
        with pytest.raises(Killed):
            train(tmp_path / "killed", starts[step], dense, fast, step * SEQUENCES * CONTEXT)
        monkeypatch.setattr(distillation, "SAVE_SECONDS", math.inf)
    resumed = train(tmp_path / "killed", starts[0], dense, fast)

    assert resumed.history == undisturbed.history
    assert are_equal(weights_of(starts[0]), weights_of(student))


def test_a_training_that_has_ended_is_not_done_again(
    tmp_path: Path, dense: nn.Module, student: nn.Module
) -> None:
    again = copy.deepcopy(student)
    first = train(tmp_path, student, dense)

    second = train(tmp_path, again, dense, until=SEQUENCES * CONTEXT)

    assert second == first
    assert are_equal(weights_of(again), weights_of(student))


def test_a_training_too_fast_goes_back_and_on_at_a_lower_rate(
    tmp_path: Path, dense: nn.Module, student: nn.Module
) -> None:
    fast = dataclasses.replace(SETTINGS, rate=0.03)
    never = dataclasses.replace(fast, patience=1000)

    going_back = train(tmp_path / "back", copy.deepcopy(student), dense, fast)
    going_on = train(tmp_path / "on", student, dense, never)

    assert distillation._retreats(going_back.history, fast.patience).in_all > 0
    assert going_back.best.kl < going_on.best.kl


@given(st.lists(st.floats(0, 10), min_size=1), st.integers(1, 4))
def test_every_so_many_validations_without_gain_are_a_retreat(
    kls: list[float], patience: int
) -> None:
    history = [Validation(index, kl) for index, kl in enumerate(kls)]

    found = distillation._retreats(history, patience)

    lows = [index for index, kl in enumerate(kls) if all(kl < own for own in kls[:index])]
    waits = [end - start - 1 for start, end in zip(lows, [*lows[1:], len(kls)], strict=True)]
    assert found.in_all == sum(wait // patience for wait in waits)
    assert found.in_a_row == waits[-1] // patience


def test_what_requires_no_gradient_is_left(
    tmp_path: Path, dense: nn.Module, student: nn.Module
) -> None:
    frozen = student.get_parameter("model.embed_tokens.weight")
    frozen.requires_grad = False
    before = frozen.detach().clone()

    train(tmp_path, student, dense)

    assert torch.equal(frozen, before)


def test_hidden_states_come_nearer_where_they_are_asked_for(
    tmp_path: Path, dense: nn.Module, student: nn.Module
) -> None:
    plain = copy.deepcopy(student)
    ids = torch.from_numpy(VALIDATION).long()

    def apart(model: nn.Module) -> float:
        with torch.no_grad():
            ours, theirs = (distillation._states(own, ids) for own in (model, dense))
        return float((ours - theirs).square().mean())

    train(tmp_path / "hidden", student, dense, dataclasses.replace(SETTINGS, hidden=10.0))
    train(tmp_path / "plain", plain, dense)

    assert apart(student) < apart(plain)


def test_a_loss_that_is_no_number_is_told_with_its_step(
    tmp_path: Path, dense: nn.Module, student: nn.Module
) -> None:
    with torch.no_grad():
        student.get_parameter("model.norm.weight").fill_(math.inf)

    with pytest.raises(EvaluationError, match="step 1 of the training"):
        train(tmp_path, student, dense)


@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 40))
def test_each_pass_reads_all_of_the_text_once(n: int, at_once: int, seed: int) -> None:
    rows = np.concatenate([distillation._rows(n, at_once, step, seed) for step in range(3 * n)])

    for first in range(0, len(rows) - n + 1, n):
        assert sorted(rows[first : first + n]) == list(range(n))


@given(st.integers(1, 500))
def test_the_learning_rate_rises_then_falls(n_steps: int) -> None:
    shares = [distillation._share(step, n_steps) for step in range(n_steps)]

    top = shares.index(max(shares))
    assert shares[top] == 1.0
    assert shares[:top] == sorted(shares[:top])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert min(shares) > 0


def test_a_full_disk_is_told_in_a_line(student: nn.Module, tmp_path: Path) -> None:
    saved = SavedState(tmp_path)

    with no_room(), pytest.raises(EvaluationError, match=f"^Cannot write {tmp_path}: .*{FULL}"):
        saved.keep_best(dict(student.named_parameters()))

    assert not [*tmp_path.iterdir()]


def test_logits_of_a_few_tokens_are_there_at_a_time_and_change_nothing(
    dense: nn.Module, student: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.from_numpy(TEXT[:3]).long()
    held: list[int] = []
    for model in (dense, student):
        head = cast(nn.Linear, model.lm_head)
        head.register_forward_hook(lambda _m, _i, logits: held.append(logits[..., 0].numel()))
    with torch.no_grad():
        whole = Distance(student, dense).divergence(ids)
    at_once = gradients_of(student, dense, ids)
    assert set(held) == {ids.numel()}
    held.clear()

    monkeypatch.setattr(distillation, "LOGITS_AT_ONCE", 10 * VOCABULARY + 1)
    with torch.no_grad():
        in_parts = Distance(student, dense).divergence(ids)
    in_turn = gradients_of(student, dense, ids)

    assert max(held) == 10
    # The same sums in another order, in bfloat16 where the device multiplies it.
    torch.testing.assert_close(in_parts, whole, rtol=1e-4, atol=1e-5)
    assert in_turn.keys() == at_once.keys()
    for name, gradient in in_turn.items():
        torch.testing.assert_close(gradient, at_once[name], rtol=0.02, atol=1e-4)


def gradients_of(student: nn.Module, dense: nn.Module, ids: Tensor) -> Weights:
    student.zero_grad()
    Distance(student, dense, hidden=0.5).loss(ids).backward()
    return {
        name: own.grad.clone() for name, own in student.named_parameters() if own.grad is not None
    }
