"""Linear layers that a step may put another linear layer in the place of."""

from collections import Counter

from torch import nn


def plain_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Those of torch's own class whose weight is theirs alone, by path.

    Layers inside of ``nn.TransformerEncoderLayer`` are left out: its fused path reads their
    weights itself.
    """
    uses = Counter(
        id(value)
        for module in model.modules()
        for value in module._parameters.values()  # noqa: SLF001  # tied ones each time
    )
    fused = {
        id(part)
        for module in model.modules()
        if isinstance(module, nn.TransformerEncoderLayer)
        for part in module.modules()
    }
    return {
        path: item
        for path, item in model.named_modules()
        if type(item) is nn.Linear and path and uses[id(item.weight)] == 1 and id(item) not in fused
    }
