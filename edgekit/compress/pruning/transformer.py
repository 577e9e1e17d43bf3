"""Attention whose heads are narrower than the model, for models that use torch's own."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.state import MAKEABLE, class_name


class HeadAttention(nn.Module):
    """``nn.MultiheadAttention`` with any number of heads of any width.

    torch's own ties the width of all heads to the width of the model, so none can be taken out of
    it. Parameters have the same names; in_proj_weight has 3 * heads * head width rows, and
    out_proj takes heads * head width columns.
    """

    in_proj_bias: nn.Parameter | None

    def __init__(
        self, embed_dim: int, num_heads: int, head_dim: int, *, batch_first: bool, dropout: float
    ) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, head_dim
        self.batch_first, self.dropout = batch_first, dropout
        inner = num_heads * head_dim
        self.in_proj_weight = nn.Parameter(torch.empty(3 * inner, embed_dim))
        self.register_parameter("in_proj_bias", nn.Parameter(torch.empty(3 * inner)))
        self.out_proj = nn.Linear(inner, embed_dim)

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """Torch's encoder layer takes its fused kernel only where this is True."""
        return False

    def forward(  # noqa: PLR0913, PLR0917  # the signature of nn.MultiheadAttention
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention`` for batched inputs.

        Shapes: query (batch, tokens, width) with batch_first, else (tokens, batch, width).
        """
        if not self.batch_first:
            query, key, value = (item.transpose(0, 1) for item in (query, key, value))
        weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            self._heads(functional.linear(item, weight, bias))
            for item, weight, bias in zip((query, key, value), weights, biases, strict=True)
        )
        mask = self._mask(attn_mask, key_padding_mask, q, is_causal=is_causal)
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(self.head_dim)
        shares = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        dropped = functional.dropout(shares, self.dropout, self.training)
        mixed = (dropped @ v).transpose(1, 2).flatten(2)
        output = self.out_proj(mixed)
        if not self.batch_first:
            output = output.transpose(0, 1)
        if not need_weights:
            return output, None
        return output, shares.mean(dim=1) if average_attn_weights else shares

    def _heads(self, value: Tensor) -> Tensor:
        return value.view(*value.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(
        self, mask: Tensor | None, padding: Tensor | None, query: Tensor, *, is_causal: bool
    ) -> Tensor | None:
        """What is added to the scores, of (batch, heads, queries, keys) after broadcasting."""
        del is_causal  # torch requires the mask to be given with it
        found = None if mask is None else _added(mask, query)
        if found is not None and found.ndim == 3:
            found = found.view(query.shape[0], self.num_heads, *found.shape[1:])
        if padding is not None:
            hidden = _added(padding, query)[:, None, None, :]
            found = hidden if found is None else found + hidden
        return found


def _added(mask: Tensor, query: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, -torch.inf)


def as_head_attention(cut: nn.MultiheadAttention, head_dim: int) -> HeadAttention:
    """Torch's attention, out of which whole heads were cut, as one that runs.

    Raises: TypeError for the options that it does not have.
    """
    if cut.in_proj_weight is None or cut.bias_k is not None or cut.add_zero_attn:
        raise TypeError("attention with other widths of keys or values, or with added keys")
    heads = cut.in_proj_weight.shape[0] // (3 * head_dim)
    made = HeadAttention(
        cut.embed_dim, heads, head_dim, batch_first=cut.batch_first, dropout=cut.dropout
    )
    made.in_proj_weight, made.out_proj = cut.in_proj_weight, cut.out_proj
    made.register_parameter("in_proj_bias", cut.in_proj_bias)
    made.embed_dim = cut.in_proj_weight.shape[1]
    return made.train(cut.training)


def _make(attributes: dict[str, Any]) -> nn.Module:
    return HeadAttention(
        attributes["embed_dim"],
        attributes["num_heads"],
        attributes["head_dim"],
        batch_first=attributes["batch_first"],
        dropout=attributes["dropout"],
    )


MAKEABLE[class_name(HeadAttention)] = _make
