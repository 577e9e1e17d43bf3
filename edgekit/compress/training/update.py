"""One step of training: a loss to new weights, with masks, average, half precision and rounding."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgekit.compress.training.checkpoint import Checkpoint, Tensors
from edgekit.compress.training.optimizer import (
    average_,
    decay_at,
    gradient_norm,
    make_optimizer,
    mask_,
    rate_at,
    set_rate_,
    zero_masked_,
)
from edgekit.compress.training.rounding import Rounder
from edgekit.core.steps.train import Train

# Mixed precision halves the scale of the loss, 65536 at first, when a gradient overflows.
_SMALLEST_SCALE = 1.0


class NotFiniteError(ArithmeticError):
    """A loss or a gradient is NaN, infinite or beyond use, or a learned step next to nothing."""


class Updater:
    """Changes the weights of one model, batch by batch."""

    def __init__(  # noqa: PLR0913  # all that changes with one step
        self,
        model: nn.Module,
        settings: Train,
        masks: Mapping[str, Tensor],
        *,
        device: torch.device,
        steps: int,
        is_mixed: bool = False,
        after_batch: Callable[[int], None] | None = None,
        rounder: Rounder | None = None,
    ) -> None:
        """steps: batches of the whole training. is_mixed: half precision where it is safe.

        rounder: rounds the weights and activations that losses and metrics see.
        """
        self._model, self._settings = model, settings
        self._kind, self._steps, self._after_batch = device.type, steps, after_batch
        self._is_mixed = is_mixed
        self._rounder = rounder or Rounder(())
        self._parameters = {
            name: value for name, value in model.named_parameters() if value.requires_grad
        } | self._rounder.parameters
        # Weights that are frozen keep their zeros by themselves.
        self._masks = {name: keeps for name, keeps in masks.items() if name in self._parameters}
        self._optimizer = make_optimizer(model, settings, self._rounder.parameters.values())
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._is_mixed)
        zero_masked_(model, masks)
        self._average = _copies(self.tensors) if settings.ema_decay else {}

    @property
    def tensors(self) -> Tensors:
        """What training changes: the weights that take gradients, and all statistics."""
        buffers = dict(self._model.named_buffers()) | self._rounder.buffers
        return {name: value.detach() for name, value in (self._parameters | buffers).items()}

    def step(self, loss_of: Callable[[], Tensor], done: int) -> float:
        """One batch; ``done`` came before it. Gives the loss.

        Raises: NotFiniteError before anything has changed but statistics; for a learned step that
        falls to next to nothing, after.
        """
        set_rate_(self._optimizer, rate_at(done, self._steps, self._settings))
        self._optimizer.zero_grad(set_to_none=True)
        with self._rounder.showing():
            value = self._backward(loss_of)
            self._rounder.pull_back_()
        self._clip()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._rounder.settle_()
        if collapsed := self._rounder.collapsed():
            raise NotFiniteError(collapsed)
        self._follow(done + 1)
        return value

    def _backward(self, loss_of: Callable[[], Tensor]) -> float:
        with torch.autocast(self._kind, dtype=torch.float16, enabled=self._is_mixed):
            loss = loss_of()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NotFiniteError(f"the loss is {value}")
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's own
        return value

    def _clip(self) -> None:
        self._scaler.unscale_(self._optimizer)
        # The scaler leaves out a batch whose gradient overflows; it must not do so for ever.
        if self._is_mixed and self._scaler.get_scale() < _SMALLEST_SCALE:
            raise NotFiniteError("no gradient is finite in half precision")
        steps = self._rounder.parameters
        weights = {name: item for name, item in self._parameters.items() if name not in steps}
        # Apart: the steps of a ResNet-20 have seven times the norm of its weights (2026-11), which
        # would hardly move.
        for group in (weights, steps):
            norm = gradient_norm(group, self._masks)
            if not self._is_mixed and not math.isfinite(norm):
                raise NotFiniteError(f"the norm of the gradient is {float(norm)}")
            if group and self._settings.clip_norm:
                limit = self._settings.clip_norm
                torch.nn.utils.clip_grads_with_norm_(group.values(), limit, norm)

    def settle(self, done: int) -> None:
        """What follows new weights, whoever made them: zeros, and what the step wants to do."""
        self.keep_zeros()
        if self._after_batch is not None:
            self._after_batch(done)
            self.keep_zeros()

    def _follow(self, done: int) -> None:
        self.settle(done)
        if self._average:
            average_(self._average, self.tensors, decay_at(done, self._settings.ema_decay))
            for name, keeps in self._masks.items():
                self._average[name].masked_fill_(~keeps, 0.0)

    def keep_zeros(self) -> None:
        """Make masked weights exactly zero."""
        mask_(self._parameters, self._masks, self._optimizer)

    @contextmanager
    def showing_result(self) -> Iterator[None]:
        """Within the block the model has the weights that training would end with now.

        They are averaged, where an average is kept, and rounded, where that is asked.
        """
        present = _copies(self.tensors) if self._average else {}
        if self._average:
            self.place(self._average)
            # The average of steps may be more than the average of weights can use.
            self._rounder.settle_()
        try:
            with self._rounder.showing():
                yield
        finally:
            self.place(present)

    def place(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the model these weights and statistics."""
        ours = self.tensors
        with torch.no_grad():
            for name, value in tensors.items():
                ours[name].copy_(value)

    def place_result(self, tensors: Mapping[str, Tensor]) -> None:
        """Give the model the weights that training ends with; frozen ones are rounded too."""
        self.place(tensors)
        self._rounder.round_()

    def copied_masks(self) -> Tensors:
        """Where weights stay at this moment."""
        return _copies(self._masks)

    def place_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Make the masks what they were, in place: whoever handed them over sees it."""
        for name, value in masks.items():
            self._masks[name].copy_(value)

    def record(self, state: Checkpoint) -> None:
        """Put all that training changes into a checkpoint; not copied, so write it at once."""
        state.tensors, state.average = self.tensors, self._average
        state.optimizer, state.scaler = self._optimizer.state_dict(), self._scaler.state_dict()
        state.masks = dict(self._masks)

    def restore(self, state: Checkpoint) -> None:
        """Go back to where a checkpoint was written."""
        self.place(state.tensors)
        for name, value in state.average.items():
            self._average[name].copy_(value)
        self.place_masks(state.masks)
        self._optimizer.load_state_dict(state.optimizer)
        if state.scaler:
            self._scaler.load_state_dict(state.scaler)

    def let_go(self) -> None:
        """Free the gradients."""
        self._optimizer.zero_grad(set_to_none=True)


def _copies(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: value.detach().clone() for name, value in tensors.items()}
