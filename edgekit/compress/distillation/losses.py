"""Losses of distillation, as plain functions of what a student and its teacher made of one batch.

None of them knows a model or a setting. Soft labels are ``class_losses.soft_labels``, and
``mean_scores`` makes one teacher of several for them. No gradient flows into what is ``wanted``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

# Relations between samples grow with the square of their number, angles with the cube.
RELATED_SAMPLES = 128
# Angle to distance, as the authors weigh them (arXiv:1904.05068, section 4.1: 50 to 25).
ANGLE_SHARE = 2.0


def mean_scores(scores: Sequence[Tensor], temperature: float) -> Tensor:
    """Class scores whose softened probabilities are the mean of those of several teachers.

    Formula: T log(mean_k softmax(z_k / T)); of one teacher its scores.
    Shapes: (n, classes) each.
    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2 (the arithmetic mean).
    """
    if len(scores) == 1:
        return scores[0]
    softened = torch.stack([functional.log_softmax(item / temperature, dim=-1) for item in scores])
    return (softened.logsumexp(dim=0) - math.log(len(scores))) * temperature


def mean_direction(outputs: Sequence[Tensor]) -> Tensor:
    """The mean of several teachers' embeddings, each of length 1. Shapes: (n, ...) each."""
    if len(outputs) == 1:
        return outputs[0]
    units = [functional.normalize(item.flatten(1), dim=1) for item in outputs]
    return torch.stack(units).mean(dim=0).reshape(outputs[0].shape)


def feature_loss(features: Tensor, wanted: Tensor) -> Tensor:
    """Squared error of features, relative to the mean square of the wanted ones.

    The squared error is FitNets'; what it is divided by makes a weight mean the same for every
    layer. Features of the student come projected to the teacher's width.
    Shapes: the same for both.
    Source: Romero et al. 2015, arXiv:1412.6550, equation 3.
    """
    goal = wanted.detach().float()
    scale = goal.square().mean().clamp_min(torch.finfo(torch.float32).tiny)
    return functional.mse_loss(features.float(), goal) / scale


def attention_map(features: Tensor) -> Tensor:
    """Where a layer looks: the mean over channels of squared activations, scaled to length 1.

    Shapes: (n, ..., channels) -> (n, positions).
    Source: Zagoruyko & Komodakis 2017, arXiv:1612.03928, section 3.1 (p = 2).
    """
    return functional.normalize(features.float().square().mean(dim=-1).flatten(1), dim=1)


def attention_map_loss(features: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance of the attention maps of two layers, mean over samples: 0 to 2.

    Formula: mean_n || Q_s / ||Q_s|| - Q_t / ||Q_t|| ||^2 with Q the sum of squares over channels.
    Shapes: (n, ..., channels), of the same positions.
    Source: Zagoruyko & Komodakis 2017, arXiv:1612.03928, equation 2, squared as in their code.
    """
    difference = attention_map(features) - attention_map(wanted.detach())
    return difference.square().sum(dim=1).mean()


def attention_probability_loss(
    probabilities: Tensor, wanted: Tensor, is_counted: Tensor | None = None
) -> Tensor:
    """Divergence of attention probabilities from the teacher's, mean over heads and queries.

    Of models with different numbers of heads, their means over heads are compared.
    is_counted: which positions are tokens and not padding.
    Shapes: (n, heads, queries, keys), or (n, queries, keys); is_counted (n, queries).
    Source: Wang et al. 2020, arXiv:2002.10957 (MiniLM), equation 2.
    """
    ours, theirs = _with_heads(probabilities), _with_heads(wanted.detach())
    if ours.shape[1] != theirs.shape[1]:
        ours, theirs = (item.mean(dim=1, keepdim=True) for item in (ours, theirs))
    tiny = torch.finfo(torch.float32).tiny
    return _mean_divergence(ours.clamp_min(tiny).log(), theirs, is_counted)


def query_key_loss(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    heads: int,
    is_counted: Tensor | None = None,
) -> Tensor:
    """Divergence of the attention that queries and keys give, split into so many relation heads.

    Formula: mean over heads and queries of KL(softmax(Q_t K_t' / sqrt(d_t)) || the student's).
    With the models' own number of heads it is their attention, before rotation and causal masks;
    with another one it needs no equal numbers of heads.
    is_counted: which positions are tokens and not padding.
    Shapes: queries and keys (n, tokens, width), widths a multiple of heads; is_counted (n, tokens).
    Source: Wang et al. 2021, arXiv:2012.15828 (MiniLMv2), section 3.1.
    """
    hidden = None if is_counted is None else ~is_counted[:, None, None, :]
    ours = _relation(*student, heads, hidden)
    theirs = _relation(teacher[0].detach(), teacher[1].detach(), heads, hidden).exp()
    return _mean_divergence(ours, theirs, is_counted)


def distance_loss(embeddings: Tensor, wanted: Tensor) -> Tensor:
    """Huber loss of the distances between samples, each relative to the mean of all.

    Formula: mean over pairs i < j of huber(d_s / mean d_s - d_t / mean d_t), d the Euclidean
    distance. Widths may differ; one sample alone has no relation and costs nothing.
    Shapes: (n, width) each.
    Source: Park et al. 2019, arXiv:1904.05068 (RKD-D), equations 4 to 6.
    """
    if len(embeddings) < 2:
        return embeddings.sum() * 0.0
    ours, theirs = _distances(embeddings), _distances(wanted.detach())
    return functional.smooth_l1_loss(ours, theirs)


def angle_loss(embeddings: Tensor, wanted: Tensor) -> Tensor:
    """Huber loss of the cosines of the angles that any three samples form.

    Formula: mean over triples of different i, j, k of huber(cos_s - cos_t), where cos is that of
    the angle at j between i and k.
    Shapes: (n, width) each; fewer than three samples form no angle and cost nothing.
    Source: Park et al. 2019, arXiv:1904.05068 (RKD-A), equations 7 and 8.
    """
    if len(embeddings) < 3:
        return embeddings.sum() * 0.0
    ours, theirs = _angles(embeddings), _angles(wanted.detach())
    losses = functional.smooth_l1_loss(ours, theirs, reduction="none")
    # An end that is the corner has cosine 0 for both; an end with itself is no angle.
    whole = losses.sum() - losses.diagonal(dim1=1, dim2=2).sum()
    count = len(embeddings)
    return whole / (count * (count - 1) * (count - 2))


def relation_loss(embeddings: Tensor, wanted: Tensor) -> Tensor:
    """Distances and twice the angles between the first 128 samples of a batch.

    Shapes: (n, width) each, widths may differ.
    Source: Park et al. 2019, arXiv:1904.05068 (RKD-DA), section 4.1.
    """
    ours, theirs = embeddings[:RELATED_SAMPLES].float(), wanted[:RELATED_SAMPLES].float()
    return distance_loss(ours, theirs) + ANGLE_SHARE * angle_loss(ours, theirs)


def _with_heads(probabilities: Tensor) -> Tensor:
    found = probabilities.float()
    return found[:, None] if found.ndim == 3 else found


def _relation(query: Tensor, key: Tensor, heads: int, hidden: Tensor | None) -> Tensor:
    """Logarithms of probabilities. Shapes: (n, heads, queries, keys)."""
    samples, tokens, width = query.shape
    split = (samples, tokens, heads, width // heads)
    queries, keys = (item.float().reshape(split).transpose(1, 2) for item in (query, key))
    scores = queries @ keys.transpose(2, 3) / math.sqrt(width // heads)
    if hidden is not None:
        # Finite, so that a sample of padding alone gives no NaN.
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    return functional.log_softmax(scores, dim=-1)


def _mean_divergence(ours: Tensor, theirs: Tensor, is_counted: Tensor | None) -> Tensor:
    """Mean over heads and queries. Shapes: logarithms and probabilities (n, heads, q, keys)."""
    rows = functional.kl_div(ours, theirs, reduction="none").sum(dim=-1).mean(dim=1)
    if is_counted is None:
        return rows.mean()
    return (rows * is_counted).sum() / is_counted.sum().clamp_min(1)


def _distances(points: Tensor) -> Tensor:
    """Distances of all pairs by their mean. Shapes: (n, width) -> (n (n - 1) / 2,)."""
    found = functional.pdist(points)
    return found / found.mean().clamp_min(torch.finfo(found.dtype).tiny)


def _angles(points: Tensor) -> Tensor:
    """Cosine of the angle at the first index. Shapes: (n, width) -> (n, n, n)."""
    directions = functional.normalize(points[None, :, :] - points[:, None, :], dim=2)
    return directions @ directions.transpose(1, 2)
