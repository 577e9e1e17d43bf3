"""Models to rotate, and a run of both rotations without a step around it."""

import copy

import torch
from torch import nn

from edgekit.compress.quantization.rotation_heads import rotate_values_
from edgekit.compress.quantization.rotation_merge import rotate_streams_
from edgekit.compress.quantization.rotation_stream import find_streams
from edgekit.compress.quantization.rotation_values import find_values

INPUT = "x"


def call(model, inputs):
    return {"y": model(inputs[INPUT])}


def unevened(model, seed=3):
    """Biases and the weights of norms away from 0 and 1, as training leaves them."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 1:
                value.add_(0.3 * torch.randn(value.shape, generator=draws, dtype=value.dtype))
    return model.eval()


def rotate_stream(model, value, **given):
    """The outputs before and after, the rotated copy, and what was found."""
    turned, inputs = copy.deepcopy(model), {INPUT: value}
    found = find_streams(turned, call, inputs, **given)
    rotate_streams_(turned, found.streams, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(value), turned(value), turned, found


def rotate_heads(model, value, **given):
    """The same of the values of attention."""
    turned, inputs = copy.deepcopy(model), {INPUT: value}
    found = find_values(turned, call, inputs, **given)
    rotate_values_(found.givers, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(value), turned(value), turned, found


def llama(*, is_tied=False, width=48, layers=2):
    """transformers' Llama with two values for six heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=32,
        use_cache=False,
        tie_word_embeddings=is_tied,
    )
    return Logits(LlamaForCausalLM(config))


class Logits(nn.Module):
    """A language model with a tensor in and a tensor out."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, ids):
        return self.inner(ids).logits
