import pytest
import torch
from torch import nn

from edgekit.compress.pruning.transformer import HeadAttention, as_head_attention


def torchs(**options):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        attention = nn.MultiheadAttention(16, 4, **options).eval()
        for name, value in attention.named_parameters():
            if name.endswith("bias"):
                nn.init.normal_(value)
    return attention


def inputs(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


CAUSAL = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"attn_mask": CAUSAL},
        {"key_padding_mask": PADDING},
        {"attn_mask": CAUSAL, "key_padding_mask": PADDING},
        {"attn_mask": torch.randn(8, 5, 5)},
        {"average_attn_weights": False},
        {"attn_mask": CAUSAL, "is_causal": True, "need_weights": False},
    ],
)
@pytest.mark.filterwarnings("ignore:Support for mismatched:UserWarning")
def test_attention_is_that_of_torch(batch_first, bias, masks):
    whole = torchs(batch_first=batch_first, bias=bias)
    made = as_head_attention(whole, head_dim=4)
    x = inputs((2, 5, 16) if batch_first else (5, 2, 16))
    wanted, shares = whole(x, x, x, **masks)
    found, found_shares = made(x, x, x, **masks)
    assert torch.allclose(found, wanted, atol=1e-6)
    if shares is None:
        assert found_shares is None
    else:
        assert torch.allclose(found_shares, shares, atol=1e-6)


def test_attention_over_other_tokens_is_that_of_torch():
    whole = torchs(batch_first=True)
    made = as_head_attention(whole, head_dim=4)
    query, memory = inputs((2, 5, 16)), inputs((2, 7, 16), seed=1)
    assert torch.allclose(
        made(query, memory, memory)[0], whole(query, memory, memory)[0], atol=1e-6
    )


def test_heads_that_were_cut_out_are_those_whose_columns_are_zero():
    whole = torchs(batch_first=True)
    kept = torch.cat([torch.arange(0, 4), torch.arange(8, 12)])
    rows = torch.cat([kept + 16 * part for part in range(3)])
    x = inputs((2, 5, 16))
    with torch.no_grad():
        gone = torch.cat([torch.arange(4, 8), torch.arange(12, 16)])
        cut = torchs(batch_first=True)
        cut.in_proj_weight = nn.Parameter(whole.in_proj_weight[rows])
        cut.in_proj_bias = nn.Parameter(whole.in_proj_bias[rows])
        cut.out_proj.weight = nn.Parameter(whole.out_proj.weight[:, kept])
        whole.out_proj.weight[:, gone] = 0
    made = as_head_attention(cut, head_dim=4)
    assert made.num_heads == 2
    assert torch.allclose(made(x, x, x)[0], whole(x, x, x)[0], atol=1e-6)


def test_attention_drops_out_only_in_training():
    made = as_head_attention(torchs(batch_first=True, dropout=0.5), head_dim=4)
    x = inputs((2, 5, 16))
    assert torch.equal(made(x, x, x)[0], made(x, x, x)[0])
    made.train()
    assert not torch.equal(made(x, x, x)[0], made(x, x, x)[0])


@pytest.mark.parametrize("options", [{"kdim": 8, "vdim": 8}, {"add_zero_attn": True}])
def test_options_that_it_does_not_have_are_refused(options):
    with pytest.raises(TypeError, match="other widths of keys or values, or with added keys"):
        as_head_attention(torchs(**options), head_dim=4)


def test_torchs_encoder_layer_calls_it():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    x = inputs((2, 5, 16))
    wanted = layer(x)
    layer.self_attn = as_head_attention(layer.self_attn, head_dim=4)
    with torch.no_grad():
        assert isinstance(layer.self_attn, HeadAttention)
        assert torch.allclose(layer(x), wanted, atol=1e-6)
