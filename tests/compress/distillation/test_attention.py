"""Attention is read from real transformers and compared as their own probabilities say."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from edgekit.compress.distillation.attention import pair_sites, queries_and_keys
from edgekit.compress.distillation.losses import attention_probability_loss
from edgekit.compress.distillation.taps import seen_layers, tapped
from tests.compress.benches import TinyCnn, TinyTransformer, bench_of, seeded

TOKENS = 6


def _text_bench():
    """Enough of a bench to look into a model that takes token ids."""

    def example(count):
        draws = torch.Generator().manual_seed(0)
        return {"input_ids": torch.randint(0, 50, (count, TOKENS), generator=draws)}

    def call(model, inputs):
        return {"states": model(**inputs).last_hidden_state}

    return SimpleNamespace(call=call, example=example)


def _bert(layers=2, heads=4, attention="eager"):
    config = BertConfig(
        vocab_size=50,
        hidden_size=8 * heads,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=16,
        attn_implementation=attention,
    )
    return seeded(lambda: BertModel(config, add_pooling_layer=False))


def _llama(heads=4, groups=2):
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=8 * heads,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=16,
    )
    return seeded(lambda: LlamaModel(config))


def _pairs(student, teacher, bench):
    return pair_sites(student, teacher, seen_layers(student, bench), seen_layers(teacher, bench))


def _loss(pairs, student, teacher, bench, **more):
    inputs = bench.example(3)
    ours = [tap for pair in pairs for tap in pair.student.taps]
    theirs = [tap for pair in pairs for tap in pair.teacher.taps]
    with torch.no_grad():
        with tapped(student, ours) as one:
            bench.call(student, inputs)
        with tapped(teacher, theirs) as other:
            bench.call(teacher, inputs)
        return [float(pair.loss(one, other, None)) for pair in pairs]


def _own_attention(model, bench):
    with torch.no_grad():
        return model(**bench.example(3), output_attentions=True).attentions


def test_eager_bert_gives_its_probabilities():
    bench, teacher = _text_bench(), _bert(layers=4)
    student = _bert(layers=2)
    pairs = _pairs(student, teacher, bench)
    assert [pair.teacher.path for pair in pairs] == [
        "encoder.layer.1.attention.self",
        "encoder.layer.3.attention.self",
    ]
    ours, theirs = _own_attention(student, bench), _own_attention(teacher, bench)
    wanted = [
        float(attention_probability_loss(ours[index], theirs[2 * index + 1])) for index in (0, 1)
    ]
    assert _loss(pairs, student, teacher, bench) == pytest.approx(wanted, rel=1e-5)
    assert min(wanted) > 1e-6


def test_queries_and_keys_give_the_attention_of_a_model_that_does_not_show_it():
    bench = _text_bench()
    hidden_student, hidden_teacher = _bert(attention="sdpa"), _bert(3, attention="sdpa")
    pairs = _pairs(hidden_student, hidden_teacher, bench)
    assert all(pair.student.heads == 4 for pair in pairs)
    ours, theirs = (_own_attention(model, bench) for model in (_bert(attention="eager"), _bert(3)))
    wanted = [
        float(attention_probability_loss(ours[0], theirs[1])),
        float(attention_probability_loss(ours[1], theirs[2])),
    ]
    found = _loss(pairs, hidden_student, hidden_teacher, bench)
    assert found == pytest.approx(wanted, rel=1e-3)


def test_models_with_other_numbers_of_heads_share_relation_heads():
    bench = _text_bench()
    student, teacher = _bert(heads=2, attention="sdpa"), _bert(heads=4, attention="sdpa")
    pairs = _pairs(student, teacher, bench)
    assert (pairs[0].student.heads, pairs[0].teacher.heads) == (2, 4)
    assert all(loss > 0 for loss in _loss(pairs, student, teacher, bench))


def test_keys_that_heads_share_are_repeated_for_each():
    bench, model = _text_bench(), _llama()
    pairs = _pairs(model, model, bench)
    site = pairs[0].student
    assert site.path == "layers.0.self_attn"
    assert site.heads == 4
    draws = torch.Generator().manual_seed(0)
    query = torch.randn(2, TOKENS, 32, generator=draws)
    key = torch.randn(2, TOKENS, 16, generator=draws)
    _, found = queries_and_keys([query, key], site)
    # heads 0 and 1 share the first group's key, 2 and 3 the second's
    heads = found.reshape(2, TOKENS, 4, 8)
    groups = key.reshape(2, TOKENS, 2, 8)
    for head, group in ((0, 0), (1, 0), (2, 1), (3, 1)):
        assert torch.equal(heads[:, :, head], groups[:, :, group])
    assert _loss(pairs, model, model, bench) == pytest.approx([0.0, 0.0], abs=1e-6)


class _Fused(nn.Module):
    """Attention whose queries, keys and values are made in one."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.qkv = 2, nn.Linear(8, 24)

    def forward(self, tokens):
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        return nn.functional.scaled_dot_product_attention(query, key, value)


class _FusedModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend, self.classifier = _Fused(), nn.Linear(8, 10)

    def forward(self, image):
        return self.classifier(self.attend(image.flatten(1, 2)).mean(dim=1))


def test_a_fused_layer_is_split_into_queries_and_keys(digits, checkpoints):
    model = seeded(_FusedModel)
    bench = bench_of(model, digits, checkpoints)
    (pair,) = _pairs(model, model, bench)
    tokens = bench.example(2)["image"].flatten(1, 2)
    made = model.attend.qkv(tokens)
    query, key = queries_and_keys([made], pair.student)
    assert torch.equal(query, made[..., :8])
    assert torch.equal(key, made[..., 8:16])


def test_a_convolutional_network_has_no_attention_to_read(digits, checkpoints):
    bench = bench_of(seeded(TinyCnn), digits, checkpoints)
    assert _pairs(bench.model, bench.teacher, bench) == ()


def test_small_transformers_of_other_depths_are_paired(digits, checkpoints):
    student, teacher = seeded(TinyTransformer), seeded(lambda: TinyTransformer(layers=5))
    bench = bench_of(student, digits, checkpoints)
    pairs = _pairs(student, teacher, bench)
    assert [pair.teacher.path for pair in pairs] == ["layers.2.attention", "layers.4.attention"]
