"""Transformers with outliers in their activations, and what static INT8 makes of them.

The rescale is function-preserving and written here by hand; the rounding is numpy's idea of what
the static kernels do: one scale and zero point for each input of a linear layer, one scale for each
row of its weights.
"""

import copy

import torch
from torch import nn


@torch.no_grad()
def with_outliers(model, times=100.0):
    """A copy with one channel in eight of each norm ``times`` larger; the outputs stay."""
    changed = copy.deepcopy(model)
    for layer in changed.layers:
        attention = layer.attention
        readers = [attention.query, attention.key, attention.value]
        for norm, linears in ((layer.attention_norm, readers), (layer.ffn_norm, [layer.ffn_in])):
            scales = torch.ones(len(norm.weight))
            scales[::8] = times
            norm.weight.mul_(scales)
            norm.bias.mul_(scales)
            for linear in linears:
                linear.weight.div_(scales)
    return changed.eval()


def scores_of(model, data):
    """The scores of the selection data."""
    rows = next(iter(data.selection.batches(data.selection.count)))
    with torch.no_grad():
        return model.eval()(torch.from_numpy(rows["image"]))


@torch.no_grad()
def in_int8(model, data):
    """The scores with inputs and weights of all linear layers in 8 bits, by calibration data."""
    ranges, rounded = {}, copy.deepcopy(model).eval()
    layers = [item for item in rounded.modules() if isinstance(item, nn.Linear)]

    def watch(layer, given):
        low, high = ranges.get(layer, (0.0, 0.0))
        ranges[layer] = min(low, float(given[0].min())), max(high, float(given[0].max()))

    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    rows = next(iter(data.calibration.batches(data.calibration.count)))
    rounded(torch.from_numpy(rows["image"]))
    for hook in hooks:
        hook.remove()
    for layer in layers:
        step = layer.weight.abs().amax(1, keepdim=True) / 127
        layer.weight.copy_((layer.weight / step).round() * step)
        layer.register_forward_pre_hook(lambda it, given: (_rounded(given[0], *ranges[it]),))
    return scores_of(rounded, data)


def _rounded(values, low, high):
    step = (high - low) / 255
    zero = round(-low / step)
    return ((values / step).round().add(zero).clamp(0, 255) - zero) * step
