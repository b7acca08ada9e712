"""Distils the dense model into a compressed one: its predictions are the labels.

The loss is KL(dense ‖ student) over the whole vocabulary, nats a token, as the search measures it
(Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", at temperature 1); optionally
also how far the last hidden states are apart, relative to their size.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autocompress.errors import EvaluationError
from autocompress.training.saved_state import Progress, SavedState
from autocompress.training.validation import Validation

VALIDATIONS: Final = 20
"""How often, over all of a training, the student is held against the dense model."""
WARM_UP: Final = 0.03
LEAST_RATE: Final = 0.05
"""Of the learning rate, where the cosine ends."""
RETREAT_SHARE: Final = 1 / 3
"""Of the rate, that is left after going back to the best tensors."""
LARGEST_NORM: Final = 1.0
BETAS: Final = (0.9, 0.95)
SAVE_SECONDS: Final = 60.0
"""After which a state is saved between two validations; each validation saves one."""
LOGITS_AT_ONCE: Final = 2**26
"""Of as many predictions as that makes by the vocabulary; in float32 they take 0.3 GB, and a few
such tensors are there at a time."""

Tell = Callable[[int, int], None]
"""Told tokens trained on, and all that are to be."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How a student is trained.

    Args:
        tokens: To train on at most, those read again counted again.
        rate: AdamW's highest learning rate; it warms up and falls along a cosine.
        sequences: Of a step.
        hidden: Weight of the distance of hidden states; 0 leaves it out.
        patience: Validations in a row without a smaller loss after which a training goes back to
            its best tensors, and on at a third of the rate.
        retreats: So many of these in a row, none followed by a smaller loss, end it.
    """

    tokens: int
    rate: float = 1e-3
    sequences: int = 8
    hidden: float = 0.0
    patience: int = 2
    retreats: int = 4


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training came to.

    Args:
        tokens: Trained on.
        history: Validations, the first before any training.
        best: The one whose tensors were kept.
    """

    tokens: int
    history: tuple[Validation, ...]
    best: Validation
    seconds: float


@dataclass
class _Course:
    """Where a training stands."""

    step: int = 0
    history: list[Validation] = field(default_factory=list)
    seconds: float = 0.0


def distil(
    student: nn.Module,
    dense: nn.Module,
    text: np.ndarray,
    validation: np.ndarray,
    settings: TrainingSettings,
    seed: int,
    saved: SavedState,
    tell: Tell,
) -> Trained:
    """Train a student in place, and leave it with the tensors that validated best.

    A student that lost little is soon harmed by a rate that suits one that lost much: where a
    training does not gain, it goes back to what was best and takes smaller steps.

    A training that was interrupted goes on where it was last saved: with the same tensors, text
    and random numbers, so that it ends as an undisturbed one does.

    Args:
        student: A causal LM of float32 parameters, on the dense model's device. What requires
            gradients is trained.
        text: (N, T) token ids, read in a new order in each pass.
        validation: (M, T) token ids that no step reads.

    Raises:
        EvaluationError: If the loss is no finite number.
    """
    trained = {name: own for name, own in student.named_parameters() if own.requires_grad}
    n_steps = max(1, settings.tokens // (settings.sequences * text.shape[1]))
    optimizer = make_optimizer("adamw", trained.values(), settings.rate)
    distance = Distance(student, dense, settings.hidden)
    course = _Course()
    found = saved.load(trained, optimizer)
    if found is not None:
        course = _Course(found.step, list(found.history), found.seconds)
    else:
        course.history.append(distance.validate(validation, 0, settings.sequences))
        saved.keep_best(trained)
    every = max(1, n_steps // VALIDATIONS)
    started, saved_at = time.monotonic() - course.seconds, time.monotonic()
    retreats = _retreats(course.history, settings.patience)
    while course.step < n_steps and retreats.in_a_row < settings.retreats:
        for group in optimizer.param_groups:
            fallen = RETREAT_SHARE**retreats.in_all
            group["lr"] = settings.rate * fallen * _share(course.step, n_steps)
        rows = _rows(len(text), settings.sequences, course.step, seed)
        loss = distance.loss(torch.from_numpy(text[rows]).long().to(_device(student)))
        take_step(loss, trained.values(), optimizer, course.step)
        course.step += 1
        tokens = course.step * settings.sequences * text.shape[1]
        tell(tokens, n_steps * settings.sequences * text.shape[1])
        course.seconds = time.monotonic() - started
        is_validated = course.step % every == 0 or course.step == n_steps
        if is_validated:
            now = distance.validate(validation, tokens, settings.sequences)
            if now.kl < min(own.kl for own in course.history):
                saved.keep_best(trained)
            course.history.append(now)
            before, retreats = retreats, _retreats(course.history, settings.patience)
            if retreats.in_all > before.in_all:
                saved.take_best(trained)
                # Its moments are of the steps that led nowhere.
                optimizer.state.clear()
        # A state from before a validation would go back to the best tensors from after it.
        if is_validated or time.monotonic() - saved_at > SAVE_SECONDS:
            saved.save(trained, optimizer, _progress(course))
            saved_at = time.monotonic()
    saved.take_best(trained)
    best = min(course.history, key=lambda own: own.kl)
    tokens = course.step * settings.sequences * text.shape[1]
    return Trained(tokens, tuple(course.history), best, course.seconds)


def make_optimizer(
    name: str, parameters: Iterable[nn.Parameter], rate: float
) -> torch.optim.Optimizer:
    """Return `adamw`, or `sgd` with momentum, for a training without weight decay."""
    if name == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=BETAS[0])
    return torch.optim.AdamW(parameters, rate, BETAS, weight_decay=0.0)


def take_step(
    loss: Tensor, parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Lower a loss by one step, its gradients clipped.

    Args:
        step: Its number, from 0 on.

    Raises:
        EvaluationError: If the loss is no finite number.
    """
    if not math.isfinite(float(loss.detach())):
        raise EvaluationError(
            f"The loss of step {step + 1} of the training is no finite number: lower its rate."
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, LARGEST_NORM)
    optimizer.step()


class Distance:
    """How the student and the dense model predict, and how far apart.

    Args:
        hidden: Weight of the distance of hidden states; 0 leaves it out.
    """

    def __init__(self, student: nn.Module, dense: nn.Module, hidden: float = 0.0) -> None:
        self._student = student
        self._dense = dense
        self._hidden = hidden

    def loss(self, ids: Tensor) -> Tensor:
        """Return what a step lowers, of (B, T) token ids."""
        theirs, ours = self._states(ids)
        loss = self._divergence(theirs, ours).mean()
        if self._hidden:
            apart = (ours.float() - theirs.float()).square().mean()
            loss = loss + self._hidden * apart / theirs.float().square().mean()
        return loss

    def divergence(self, ids: Tensor) -> Tensor:
        """Return KL(dense ‖ student) of each prediction, (B, T), of (B, T) token ids."""
        return self._divergence(*self._states(ids))

    def _states(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the dense model's and the student's last hidden states, (B, T, hidden)."""
        with torch.no_grad():
            theirs = _states(self._dense, ids)
        with fast_numbers(ids.device):
            return theirs, _states(self._student, ids)

    def _divergence(self, theirs: Tensor, ours: Tensor) -> Tensor:
        """Return what `divergence` does, of last hidden states.

        Logits of a few predictions are there at a time, and made again for the gradients.
        """
        vocabulary = len(self._dense.get_parameter("lm_head.weight"))
        at_once = max(1, LOGITS_AT_ONCE // vocabulary)
        if ours[..., 0].numel() <= at_once:
            return self._of_part(theirs, ours)
        flat = (states.flatten(0, 1).split(at_once) for states in (theirs, ours))
        parts = [
            # Nothing is drawn at random there.
            checkpoint(self._of_part, *both, use_reentrant=False, preserve_rng_state=False)
            for both in zip(*flat, strict=True)
        ]
        return torch.cat(parts).view(ours.shape[:2])

    def _of_part(self, theirs: Tensor, ours: Tensor) -> Tensor:
        """Return the divergence of predictions, (...), of last hidden states (..., hidden)."""
        with torch.no_grad():
            their_logits = self._dense.lm_head(theirs)  # type: ignore[operator]  # (..., V)
        with fast_numbers(ours.device):
            our_logits = self._student.lm_head(ours)  # type: ignore[operator]  # (..., V)
        return divergence(their_logits, our_logits)

    def validate(self, rows: np.ndarray, tokens: int, at_once: int) -> Validation:
        """Return how far apart they are on (M, T) token ids."""
        return Validation(tokens, mean_divergence(self._student, self._dense, rows, at_once))


@torch.no_grad()
def mean_divergence(
    student: nn.Module, dense: nn.Module, rows: np.ndarray, at_once: int = 8
) -> float:
    """Return the mean KL(dense ‖ student), nats a token, over the predictions of (M, T) ids."""
    device = _device(student)
    total, n = 0.0, 0
    distance = Distance(student, dense)
    for first in range(0, len(rows), at_once):
        ids = torch.from_numpy(rows[first : first + at_once]).long().to(device)
        apart = distance.divergence(ids)[:, :-1]
        total, n = total + float(apart.sum()), n + apart.numel()
    return total / n


def divergence(theirs: Tensor, ours: Tensor) -> Tensor:
    """Return KL(theirs ‖ ours) of each prediction, (...), of logits (..., V)."""
    log_p = theirs.float().log_softmax(-1)
    log_q = ours.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _states(model: nn.Module, ids: Tensor) -> Tensor:
    states: Tensor = model.model(ids, use_cache=False).last_hidden_state  # type: ignore[operator]
    return states


def fast_numbers(device: torch.device, *, is_fast: bool = True) -> torch.autocast:
    """Compute products in bfloat16 where the device multiplies it; sums stay in float32."""
    able = device.type == "cuda" and is_fast
    if device.type == "cpu" and is_fast:
        own = torch.cpu.get_capabilities()
        able = bool(own.get("avx512_bf16") or own.get("amx_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


def _rows(n: int, at_once: int, step: int, seed: int) -> np.ndarray:
    """Return which sequences a step reads: each pass over the text has an order of its own."""
    places = range(step * at_once, (step + 1) * at_once)
    orders = {
        own: np.random.default_rng([seed, own]).permutation(n)
        for own in {place // n for place in places}
    }
    return np.asarray([orders[place // n][place % n] for place in places])


def _share(step: int, n_steps: int) -> float:
    """Return the share of the learning rate that a step has."""
    warm = max(1, round(WARM_UP * n_steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, n_steps - warm)
    return LEAST_RATE + (1 - LEAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, slots=True)
class _Retreats:
    """How often a training went back to its best tensors.

    Args:
        in_a_row: Since it last gained.
    """

    in_all: int
    in_a_row: int


def _retreats(history: Sequence[Validation], patience: int) -> _Retreats:
    """Return how often a training with these validations has gone back."""
    best, without_gain, in_all, in_a_row = math.inf, 0, 0, 0
    for own in history:
        if own.kl < best:
            best, without_gain, in_a_row = own.kl, 0, 0
            continue
        without_gain += 1
        if without_gain == patience:
            without_gain, in_all, in_a_row = 0, in_all + 1, in_a_row + 1
    return _Retreats(in_all, in_a_row)


def _progress(course: _Course) -> Progress:
    return Progress(course.step, tuple(course.history), course.seconds)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
