import pytest
import torch
from torch import nn

from edgekit.compress.pruning.channels import prune_channels, prune_heads
from edgekit.core.errors import StepError
from edgekit.core.steps import Prune
from tests.compress.architecture_parts import Residual, conv
from tests.compress.architectures import ALL, CNNS, TRANSFORMERS

BOTH = ("channels", "heads")
# Sums over fewer channels round otherwise: a few units in the last place of float32.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("name", ["residual", "fused qkv", "grouped queries, four keys"])
def test_the_same_seed_prunes_the_same(name):
    model, inputs = ALL[name].model(), ALL[name].inputs()
    settings = Prune(units=BOTH, importance="random")
    first, again = (prune_channels(model, inputs, settings, seed=3).removed for _ in range(2))
    other = prune_channels(model, inputs, settings, seed=4).removed
    assert first == again
    assert first != other


def zero_rows(model, rows):
    with torch.no_grad():
        for path, indices in rows.items():
            layer = model.get_submodule(path)
            layer.weight[list(indices)] = 0
            if getattr(layer, "bias", None) is not None:
                layer.bias[list(indices)] = 0


def test_silent_channels_of_a_residual_stream_go_and_nobody_notices():
    model, inputs = CNNS["residual"].model(), CNNS["residual"].inputs()
    stream, inner = (1, 4, 5, 7, 8, 11, 13, 15), (0, 2, 3, 5, 6, 9, 10, 12)
    zero_rows(model, dict.fromkeys(("body.0.0", "body.1.conv2"), stream))
    zero_rows(model, {"body.1.conv1": inner})
    wanted = model(inputs)
    settings = Prune(importance="l1", layer_ratios={r"body\.[01]": 0.5}, ratio=0.01)
    pruned = prune_channels(model, inputs, settings)
    assert pruned.removed["body.0.0"] == pruned.removed["body.1.conv2"] == stream
    assert pruned.removed["body.1.conv1"] == inner
    assert torch.allclose(pruned.model(inputs), wanted, **CLOSE)


def test_zeros_beside_a_padded_shortcut_follow_the_channels_that_stay():
    """Stage two is 4 zeros, the 8 channels of stage one, 4 zeros; the uneven ones of them go."""
    model, inputs = CNNS["padded shortcuts"].model(), CNNS["padded shortcuts"].inputs()
    padded, shared = (0, 1, 2, 13), (0, 2, 5, 7)
    of_stage_one = tuple(4 + channel for channel in shared)
    for path in ("body.2.conv2", "body.3.conv2"):
        zero_rows(model, {path: padded + of_stage_one})
    zero_rows(model, dict.fromkeys(("body.0.0", "body.1.conv2"), shared))
    of_stage_two = tuple(8 + channel for channel in sorted(padded + of_stage_one))
    zero_rows(model, {"body.4.conv2": (*of_stage_two, 0, 1, 2, 3, 4, 5, 6, 24)})
    wanted = model(inputs)
    settings = Prune(importance="l1", layer_ratios={"conv1": 0.0})
    pruned = prune_channels(model, inputs, settings)
    assert pruned.removed["body.0.0"] == shared
    assert pruned.removed["body.3.conv2"] == tuple(sorted(padded + of_stage_one))
    assert set(pruned.removed["body.4.conv2"]) == {*of_stage_two, *range(7), 24}
    assert torch.allclose(pruned.model(inputs), wanted, **CLOSE)


@pytest.mark.parametrize(
    ("name", "heads", "rows"),
    [
        ("fused qkv", (1, 3), 3),
        ("split qkv", (0, 2), 3),
    ],
)
def test_silent_heads_of_a_fused_projection_go_and_nobody_notices(name, heads, rows):
    model, inputs = TRANSFORMERS[name].model(), TRANSFORMERS[name].inputs()
    path = {"fused qkv": "attention.qkv", "split qkv": "attention.c_attn"}[name]
    gone = tuple(
        part * 32 + head * 8 + column
        for part in range(rows)
        for head in heads
        for column in range(8)
    )
    for layer in range(3):
        zero_rows(model, {f"layers.{layer}.{path}": gone})
    wanted = model(inputs)
    pruned = prune_channels(model, inputs, Prune(units=("heads",), importance="l1", ratio=0.5))
    assert pruned.removed[f"layers.0.{path}"] == gone
    assert pruned.model.get_submodule(f"layers.0.{path}").out_features == 48
    assert torch.allclose(pruned.model(inputs), wanted, **CLOSE)


def test_keys_go_with_the_queries_that_share_them():
    model = TRANSFORMERS["grouped queries, four keys"].model()
    inputs = TRANSFORMERS["grouped queries, four keys"].inputs()
    for layer in range(3):
        zero_rows(
            model,
            {
                f"layers.{layer}.attention.key": range(4, 8),
                f"layers.{layer}.attention.value": range(4, 8),
                f"layers.{layer}.attention.query": range(8, 16),
            },
        )
    wanted = model(inputs)
    pruned = prune_channels(model, inputs, Prune(units=("heads",), importance="l1", ratio=0.25))
    attention = pruned.model.layers[0].attention
    assert (attention.num_heads, attention.num_keys) == (6, 3)
    assert pruned.removed["layers.0.attention.key"] == (4, 5, 6, 7)
    assert pruned.removed["layers.0.attention.query"] == tuple(range(8, 16))
    assert torch.allclose(pruned.model(inputs), wanted, **CLOSE)


def test_with_two_keys_each_keeps_as_many_queries():
    """litert-torch converts several queries on one key to something else, so two keys stay."""
    architecture = TRANSFORMERS["grouped queries, two keys"]
    pruned = prune_heads(architecture.model(), architecture.inputs(), 0.5)
    attention = pruned.model.layers[0].attention
    assert (attention.num_heads, attention.num_keys) == (4, 2)
    assert attention.key.out_features == 2 * 4


@pytest.mark.parametrize(
    ("name", "path", "attribute", "left"),
    [
        ("bert", "model.encoder.layer.0.attention.self", "num_attention_heads", 2),
        ("gpt2", "model.transformer.h.0.attn", "num_heads", 2),
        ("fused qkv", "layers.0.attention", "heads", 2),
        ("split qkv", "layers.0.attention", "n_head", 2),
        ("torch's own", "encoder.layers.0.self_attn", "num_heads", 2),
    ],
)
def test_head_counts_are_written_back(name, path, attribute, left):
    architecture = TRANSFORMERS[name]
    pruned = prune_heads(architecture.model(), architecture.inputs(), 0.5)
    assert getattr(pruned.model.get_submodule(path), attribute) == left


def test_width_of_a_transformer_stays_unless_it_is_asked_for():
    architecture = TRANSFORMERS["fused qkv"]
    model, inputs = architecture.model(), architecture.inputs()
    narrow = prune_channels(model, inputs, Prune(units=BOTH)).model
    assert narrow.tokens.out_features == 32
    thin = prune_channels(model, inputs, Prune(units=(*BOTH, "embedding"))).model
    assert thin.tokens.out_features == 16
    assert thin(inputs).shape == (2, 10)


def test_outputs_never_shrink():
    for name, architecture in ALL.items():
        model, inputs = architecture.model(), architecture.inputs()
        pruned = prune_channels(model, inputs, Prune(units=BOTH, ratio=0.9))
        assert pruned.model(inputs).shape == model(inputs).shape, name


@pytest.mark.parametrize("goal", ["macs", "parameters", "bytes"])
@pytest.mark.parametrize("name", ["residual", "depthwise", "concatenation", "llama", "fused qkv"])
def test_goal_is_met_and_said(name, goal):
    architecture = ALL[name]
    settings = Prune(units=BOTH, ratio=0.3, goal=goal)
    pruned = prune_channels(architecture.model(), architecture.inputs(), settings)
    (reached,) = pruned.reached
    before, after = getattr(pruned.before, goal), getattr(pruned.after, goal)
    assert reached.reached == after
    assert 0.45 * before < after <= 0.7 * before


def test_amount_to_keep_is_kept():
    architecture = CNNS["residual"]
    settings = Prune(goal="parameters", keep=20_000)
    pruned = prune_channels(architecture.model(), architecture.inputs(), settings)
    assert 15_000 < sum(value.numel() for value in pruned.model.parameters()) <= 20_000


def test_goal_out_of_reach_is_an_error_that_says_the_least():
    architecture = CNNS["residual"]
    settings = Prune(goal="parameters", keep=20)
    with pytest.raises(StepError, match=r"20 parameters cannot be reached.* 1\d\d parameters stay"):
        prune_channels(architecture.model(), architecture.inputs(), settings)


def test_pruning_that_takes_nothing_is_an_error():
    architecture = CNNS["residual"]
    with pytest.raises(StepError, match=r"nothing goes: the ratio is 0\.05"):
        prune_channels(architecture.model(), architecture.inputs(), Prune(ratio=0.05), multiple=8)
    settings = Prune(goal="parameters", keep=99_999)
    with pytest.raises(StepError, match="nothing goes: keep is 99,999 parameters"):
        prune_channels(architecture.model(), architecture.inputs(), settings)


def test_channel_counts_are_multiples():
    architecture = CNNS["depthwise"]
    settings = Prune(ratio=0.4, round_to=8)
    pruned = prune_channels(architecture.model(), architecture.inputs(), settings)
    widths = [m.out_channels for m in pruned.model.modules() if isinstance(m, nn.Conv2d)]
    assert all(width % 8 == 0 for width in widths)
    assert len(set(widths)) > 1


def test_small_layers_fall_back_to_a_smaller_multiple_and_say_so():
    architecture = CNNS["padded shortcuts"]
    pruned = prune_channels(architecture.model(), architecture.inputs(), Prune(), multiple=8)
    assert pruned.model.body[0][0].out_channels == 4
    assert any("fewer than 16 channels" in note for note in pruned.notes)


def test_global_ratio_takes_from_the_layers_that_matter_least():
    model, inputs = CNNS["residual"].model(), CNNS["residual"].inputs()
    zero_rows(model, {"body.3.conv1": range(24)})
    settings = Prune(importance="l2", is_global=True, ratio=0.2)
    pruned = prune_channels(model, inputs, settings)
    assert set(range(24)) <= set(pruned.removed["body.3.conv1"])
    assert len(pruned.removed.get("body.1.conv1", ())) < 8


def test_every_layer_loses_alike_without_competition():
    architecture = CNNS["residual"]
    pruned = prune_channels(architecture.model(), architecture.inputs(), Prune(ratio=0.25))
    for path, module in pruned.model.named_modules():
        if isinstance(module, nn.Conv2d):
            whole = architecture.model().get_submodule(path)
            assert module.out_channels == 0.75 * whole.out_channels


def test_heads_and_widths_have_shares_of_their_own():
    architecture = TRANSFORMERS["bert"]
    settings = Prune(units=("heads", "ffn"), head_ratio=0.25, ffn_ratio=0.5)
    pruned = prune_channels(architecture.model(), architecture.inputs(), settings)
    layer = pruned.model.model.encoder.layer[0]
    assert layer.attention.self.query.out_features == 24
    assert layer.intermediate.dense.out_features == 32


def test_ignored_layers_stay_whole():
    architecture = CNNS["residual"]
    settings = Prune(ignore=(r"body\.1\.conv1",))
    pruned = prune_channels(architecture.model(), architecture.inputs(), settings)
    assert pruned.model.body[1].conv1.weight.shape == (16, 16, 3, 3)
    assert pruned.model.body[3].conv1.out_channels == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Prune(ignore=("body.9",)), r"ignore: 'body.9' matches no layer; the nearest are 'body"),
        (Prune(layer_ratios={"stem": 0.5}), r"layer_ratios: 'stem' matches no layer"),
        (Prune(layer_ratios={"classifier": 0.5}), r"nothing may go of the outputs of 'classifier'"),
        (Prune(units=("heads",)), r"nothing of heads may go.*channels might go: name them"),
    ],
)
def test_settings_that_match_nothing_are_errors(settings, message):
    architecture = CNNS["residual"]
    with pytest.raises(StepError, match=message):
        prune_channels(architecture.model(), architecture.inputs(), settings)


def test_operator_without_a_rule_is_named_with_its_module():
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.rfft(x, dim=1).abs()

    model = nn.Sequential(conv(3, 16), Spectrum(), nn.Conv2d(9, 16, 1), nn.Conv2d(16, 4, 1)).eval()
    pruned = prune_channels(model, torch.randn(2, 3, 8, 8), Prune())
    assert pruned.model[0][0].out_channels == 16
    assert pruned.model[2].out_channels == 8
    assert any("'_fft_r2c' in module '1' has no rule" in note for note in pruned.notes)


def test_model_that_fails_is_an_error_that_names_module_and_operator():
    class Broken(nn.Module):
        def forward(self, x):
            return x.view(-1, 7)

    model = nn.Sequential(nn.Conv2d(3, 8, 3), Broken()).eval()
    with pytest.raises(StepError, match=r"module '1' failed at operator 'view'"):
        prune_channels(model, torch.randn(2, 3, 8, 8), Prune())


def test_module_that_needs_its_width_keeps_it_and_is_named():
    class Stubborn(nn.Module):
        """Python code that no one can follow decides what to do."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 4)

        def forward(self, x):
            if sum(map(len, x.tolist())) and x.shape[1] != 8:
                raise RuntimeError("8 channels, please")
            return self.linear(x.view(-1, 8))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(5, 16), nn.Linear(16, 8), Stubborn()

        def forward(self, x):
            return self.last(torch.relu(self.second(torch.relu(self.first(x)))))

    pruned = prune_channels(Model().eval(), torch.randn(2, 5), Prune())
    assert pruned.model.second.out_features == 8
    assert pruned.model.first.out_features == 8
    assert any("module 'last' needs the width it has" in note for note in pruned.notes), (
        pruned.notes
    )


def test_masks_follow_the_weights_that_stay():
    model, inputs = CNNS["residual"].model(), CNNS["residual"].inputs()
    masks = {}
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 4:
                masks[name] = value.abs() > value.abs().median()
                value.mul_(masks[name])
    pruned = prune_channels(model, inputs, Prune(), masks=masks)
    for name, mask in pruned.masks.items():
        value = pruned.model.get_parameter(name)
        assert mask.shape == value.shape
        assert torch.equal(mask, value != 0)


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Embedding(50, 32), nn.LayerNorm(32)
            self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
            self.head = nn.Linear(32, 50, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            x = self.embed(x)
            return self.head(self.norm(x + self.down(torch.relu(self.up(x)))))

    inputs = torch.randint(0, 50, (2, 9))
    pruned = prune_channels(Tied().eval(), inputs, Prune(units=("channels", "embedding")))
    assert pruned.model.head.weight is pruned.model.embed.weight
    assert pruned.model.embed.weight.shape == (50, 16)


def test_taps_outside_the_graph_do_not_hold_channels():
    """Numbers that a model only looks at (asserts, logging) couple nothing."""

    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(5, 16), nn.Linear(16, 3)

        def forward(self, x):
            y = torch.relu(self.body(x))
            if not bool(torch.isfinite(y).all()):
                raise ValueError("not finite")
            return self.head(y)

    pruned = prune_channels(Looking().eval(), torch.randn(2, 5), Prune())
    assert pruned.model.body.out_features == 8


def test_residual_blocks_are_what_they_were():
    """Only what holds sizes in its code becomes a block of calls."""
    pruned = prune_channels(CNNS["residual"].model(), CNNS["residual"].inputs(), Prune())
    assert pruned.rewritten == ()
    assert all(isinstance(block, Residual) for block in list(pruned.model.body)[1:])
