"""Small models of every kind that pruning must take, with random weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.compress.architecture_parts import (
    Classified,
    CrossStage,
    Dense,
    FusedAttention,
    FusedGate,
    Gated,
    Grouped,
    GroupedQueries,
    Inverted,
    LambdaResidual,
    LeNet,
    Output,
    PaddedResidual,
    Residual,
    Shuffled,
    SplitAttention,
    SqueezeExcite,
    TorchTransformer,
    Transformer,
    UpDown,
    Wide,
    conv,
)

IMAGE, TOKENS, IDS = (2, 3, 16, 16), (2, 9, 12), (2, 9)


def _bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    return Output(BertModel(config), "input_ids", "last_hidden_state")


def _vit() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
    )
    return Output(ViTModel(config), "pixel_values", "last_hidden_state")


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        use_cache=False,
    )
    return Output(LlamaForCausalLM(config), "input_ids", "logits")


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=32, use_cache=False, **ends
    )
    return Output(GPT2LMHeadModel(config), "input_ids", "logits")


@dataclass(frozen=True)
class Architecture:
    """How to make a model, and the shape of its inputs."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def model(self, seed: int = 0) -> nn.Module:
        """The model with random weights, in eval mode; torch's own generator stays."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            made = self.make()
            for module in made.modules():
                if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    module.running_var.uniform_(0.5, 2.0)
        return made.eval()

    def inputs(self, seed: int = 1) -> Tensor:
        """Random inputs: normal floats, or token numbers below 50."""
        draws = torch.Generator().manual_seed(seed)
        if self.shape == IDS:
            return torch.randint(0, 50, self.shape, generator=draws)
        return torch.randn(self.shape, generator=draws)


def _pictures(body: Callable[[], nn.Module], width: int) -> Architecture:
    return Architecture(lambda: Classified(body(), width), IMAGE)


def _tokens(attention: Callable[[], nn.Module], ffn: Callable[[], nn.Module]) -> Architecture:
    return Architecture(lambda: Transformer(attention, ffn), TOKENS)


def _stack(*makers: Callable[[], Any]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(make() for make in makers))


CNNS: dict[str, Architecture] = {
    "residual": _pictures(
        _stack(
            lambda: conv(3, 16),
            lambda: Residual(16, 16),
            lambda: Residual(16, 32, 2),
            lambda: Residual(32, 32),
        ),
        32,
    ),
    "padded shortcuts": _pictures(
        _stack(
            lambda: conv(3, 8),
            lambda: PaddedResidual(8, 8),
            lambda: PaddedResidual(8, 16, 2),
            lambda: PaddedResidual(16, 16),
            lambda: PaddedResidual(16, 32, 2),
        ),
        32,
    ),
    "padded in a lambda": _pictures(
        _stack(
            lambda: conv(3, 8), lambda: LambdaResidual(8, 16, 2), lambda: LambdaResidual(16, 16)
        ),
        16,
    ),
    "depthwise": _pictures(
        _stack(
            lambda: conv(3, 16),
            lambda: Inverted(16, 16),
            lambda: Inverted(16, 24, 2),
            lambda: Inverted(24, 24),
        ),
        24,
    ),
    "depth multiplier": _pictures(
        _stack(
            lambda: conv(3, 8),
            lambda: nn.Conv2d(8, 16, 3, padding=1, groups=8, bias=False),
            lambda: nn.Conv2d(16, 16, 1),
        ),
        16,
    ),
    "concatenation": _pictures(
        _stack(
            lambda: nn.Conv2d(3, 16, 3, 1, 1),
            lambda: Dense(16, 8),
            lambda: Dense(24, 8),
            lambda: nn.Sequential(nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 1)),
            lambda: Dense(16, 8),
        ),
        24,
    ),
    "grouped, few": _pictures(_stack(lambda: conv(3, 16), lambda: Grouped(4)), 16),
    "grouped, many": _pictures(_stack(lambda: conv(3, 16), lambda: Grouped(16)), 16),
    "squeeze-excite": _pictures(
        _stack(lambda: conv(3, 16), lambda: SqueezeExcite(16), lambda: conv(16, 16)), 16
    ),
    "channel shuffle": _pictures(
        _stack(lambda: conv(3, 16), lambda: Shuffled(16), lambda: Shuffled(16)), 16
    ),
    "cross stage": _pictures(CrossStage, 16),
    "group norm": _pictures(
        _stack(
            lambda: nn.Conv2d(3, 16, 3, 1, 1),
            lambda: nn.GroupNorm(8, 16),
            nn.ReLU,
            lambda: nn.Conv2d(16, 16, 3, 1, 1),
        ),
        16,
    ),
    "up and down": Architecture(UpDown, IMAGE),
    "a size in the code": Architecture(LeNet, IMAGE),
}

TRANSFORMERS: dict[str, Architecture] = {
    "fused qkv": _tokens(lambda: FusedAttention(32, 4), lambda: Wide(32)),
    "split qkv": _tokens(lambda: SplitAttention(32, 4), lambda: FusedGate(32)),
    "separate qkv": _tokens(lambda: GroupedQueries(32, 4, 4), lambda: Wide(32)),
    "grouped queries, four keys": _tokens(lambda: GroupedQueries(32, 8, 4), lambda: Gated(32)),
    "grouped queries, two keys": _tokens(lambda: GroupedQueries(32, 8, 2), lambda: Gated(32)),
    "torch's own": Architecture(TorchTransformer, TOKENS),
    "bert": Architecture(_bert, IDS),
    "vit": Architecture(_vit, IMAGE),
    "llama": Architecture(_llama, IDS),
    "gpt2": Architecture(_gpt2, IDS),
}

ALL = CNNS | TRANSFORMERS
