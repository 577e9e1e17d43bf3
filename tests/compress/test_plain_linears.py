"""Which linear layers another one may stand in for."""

from torch import nn

from edgekit.compress.plain_linears import plain_linears


def test_own_weights_of_torchs_own_layers_outside_of_fused_ones_count():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv1d(4, 4, 1))
    model.append(nn.TransformerEncoderLayer(4, 2, 8))
    model.append(nn.modules.linear.NonDynamicallyQuantizableLinear(4, 4))
    model[1].weight = model[0].weight
    assert list(plain_linears(model)) == ["2"]
