"""Smaller models of the same class from transformers' configurations."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from edgekit.compress.distillation.config_student import config_student, kept_layers
from edgekit.core.errors import StepError
from tests.compress.benches import TinyCnn, seeded


def _bert(layers=6):
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
    )
    return seeded(lambda: BertModel(config))


def test_layers_are_taken_evenly_and_the_last_among_them():
    assert kept_layers(6, 3) == [1, 3, 5]
    assert kept_layers(6, 4) == [1, 2, 4, 5]
    assert kept_layers(12, 1) == [11]
    assert kept_layers(3, 3) == [0, 1, 2]


def test_a_shallower_student_inherits_every_second_layer():
    teacher = _bert(6)
    student = config_student(teacher, depth_ratio=0.5)
    assert len(student.encoder.layer) == 3
    assert student.config.num_hidden_layers == 3
    ours, theirs = student.state_dict(), teacher.state_dict()
    for number, origin in enumerate((1, 3, 5)):
        name = "attention.self.query.weight"
        found = ours[f"encoder.layer.{number}.{name}"]
        assert torch.equal(found, theirs[f"encoder.layer.{origin}.{name}"])
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(ours[name], theirs[name])
    assert teacher.config.num_hidden_layers == 6


def test_a_student_of_all_layers_says_what_its_teacher_says():
    teacher = _bert(2)
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        ours = config_student(teacher)(ids).last_hidden_state
        theirs = teacher(ids).last_hidden_state
    assert torch.equal(ours, theirs)


def test_a_narrower_student_keeps_whole_heads():
    student = config_student(_bert(2), width_ratio=0.5)
    assert student.config.hidden_size == 16
    assert student.config.num_attention_heads == 2
    assert student.config.intermediate_size == 32
    assert student(torch.arange(6)[None]).last_hidden_state.shape == (1, 6, 16)


def test_a_narrower_student_begins_the_same_for_one_seed():
    one, other, third = (
        config_student(_bert(2), width_ratio=0.5, seed=seed).state_dict() for seed in (0, 0, 1)
    )
    name = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(one[name], other[name])
    assert not torch.equal(one[name], third[name])


def test_keys_shared_by_heads_stay_shared():
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=32,
    )
    student = config_student(seeded(lambda: LlamaForCausalLM(config)), width_ratio=0.5)
    assert student.config.num_attention_heads == 4
    assert student.config.num_key_value_heads == 2
    assert student(torch.arange(6)[None]).logits.shape == (1, 6, 50)


def test_other_names_for_the_same_are_understood():
    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=4, n_head=4, n_positions=16)
    teacher = seeded(lambda: GPT2LMHeadModel(config))
    student = config_student(teacher, depth_ratio=0.5)
    assert len(student.transformer.h) == 2
    found = student.state_dict()["transformer.h.1.mlp.c_fc.weight"]
    assert torch.equal(found, teacher.state_dict()["transformer.h.3.mlp.c_fc.weight"])
    # the tied weights of embedding and head stay one
    assert student.lm_head.weight is student.transformer.wte.weight


def test_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    config_student(_bert(2), width_ratio=0.5)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.5])
def test_a_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(StepError, match=f"depth_ratio is {ratio}"):
        config_student(_bert(2), depth_ratio=ratio)


def test_a_model_without_a_configuration_is_refused():
    with pytest.raises(StepError, match="a TinyCnn has no 'config'"):
        config_student(seeded(TinyCnn), depth_ratio=0.5)
