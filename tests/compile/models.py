"""Small torch models that the compilers' tests share, and what workloads say of them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgekit.core.contract import Image, InputKind, Output, Tensor
from edgekit.core.workload import Workload


class SmallCnn(nn.Module):
    """Batch norm, a residual sum and a depthwise convolution: (n, 3, 16, 16) to (n, 10)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.body = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.body_norm = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, 2 * width, 1)
        self.classifier = nn.Linear(2 * width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        stem = functional.relu(self.stem_norm(self.stem(image)))
        body = functional.relu(stem + self.body_norm(self.body(stem)))
        deep = functional.relu(self.depthwise_norm(self.depthwise(body)))
        return self.classifier(functional.relu(self.pointwise(deep)).mean((2, 3)))


class EncoderLayer(nn.Module):
    """Pre-norm attention and feed-forward, written with scaled_dot_product_attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class SmallTransformer(nn.Module):
    """An encoder of token ids with learned positions: int64 (n, 16) to (n, width)."""

    def __init__(self, vocabulary: int = 256, width: int = 64, length: int = 16) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.1)
        self.layers = nn.ModuleList(EncoderLayer(width, 4) for _ in range(2))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.norm(x).mean(1)


class SmallMlp(nn.Module):
    """Three linear layers: (n, 64) to (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class TwoByTwo(nn.Module):
    """Two inputs of different shape, two outputs in a dict whose order is not alphabetical."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(12, 16), nn.Linear(20, 16)
        self.score, self.embed = nn.Linear(16, 5), nn.Linear(16, 7)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        both = torch.tanh(self.left(left) - self.right(right))
        return {"score": self.score(both), "embedding": self.embed(both)}


class _OptionA(nn.Module):
    """The shortcut of He et al. 2016 without weights: every second pixel, zero channels."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra // 2))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else _OptionA(outputs - inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet of depth 6n+2 for CIFAR-10 (He et al. 2016, section 4.2), option A shortcuts."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = _Block(inputs, outputs, stride)
        return nn.Sequential(first, *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(functional.avg_pool2d(x, 8).flatten(1))


CIFAR_MEAN, CIFAR_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pretrained_resnet(data_dir: Path, depth: int) -> CifarResNet:
    """ResNet-20 or ResNet-56 with the published weights of ``SOURCES.md``."""
    name = {20: "resnet20-12fca82f.th", 56: "resnet56-4bfd9763.th"}[depth]
    state = torch.load(data_dir / name, map_location="cpu", weights_only=True)["state_dict"]
    model = CifarResNet(depth)
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return model.eval()


def cifar_images(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Normalized float images (n, 3, 32, 32) and labels of one of the CIFAR files."""
    with np.load(path) as file:
        images, labels = file["images"], file["labels"]
    mean, deviation = np.float32(CIFAR_MEAN), np.float32(CIFAR_DEVIATION)
    scaled = (images.astype(np.float32) / 255 - mean) / deviation
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)), labels


def trained_like(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with seeded weights and non-trivial batch-norm statistics, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            elif name.endswith("running_mean"):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
            elif value.is_floating_point() and value.dim() > 1:
                fan_in = value[0].numel()
                value.copy_(torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5)
            elif value.is_floating_point() and "norm" not in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return model.eval()


def workload_of(
    model: Any,
    inputs: dict[str, InputKind],
    outputs: Iterable[str],
    *,
    has_dynamic_batch: bool = False,
) -> Workload:
    """A workload for one of these models; compilers never read its data."""
    return Workload(
        name="small",
        model=model,
        inputs=inputs,
        outputs={name: Output() for name in outputs},
        calibration=(),
        evaluation=(),
        has_dynamic_batch=has_dynamic_batch,
    )


def cnn_workload(*, has_dynamic_batch: bool = False) -> Workload:
    """SmallCnn behind an image input."""
    model = trained_like(SmallCnn())
    image: dict[str, InputKind] = {"image": Image(height=16, width=16)}
    return workload_of(model, image, ["logits"], has_dynamic_batch=has_dynamic_batch)


def transformer_workload() -> Workload:
    """SmallTransformer behind token ids."""
    ids: dict[str, InputKind] = {"ids": Tensor(shape=(16,), dtype="int64")}
    return workload_of(trained_like(SmallTransformer()), ids, ["embedding"])


def mlp_workload(*, has_dynamic_batch: bool = False) -> Workload:
    """SmallMlp behind a plain tensor."""
    x: dict[str, InputKind] = {"x": Tensor(shape=(64,))}
    return workload_of(trained_like(SmallMlp()), x, ["logits"], has_dynamic_batch=has_dynamic_batch)


def two_by_two_workload() -> Workload:
    """TwoByTwo, its outputs named in another order than the model gives them."""
    inputs: dict[str, InputKind] = {"left": Tensor(shape=(12,)), "right": Tensor(shape=(20,))}
    return workload_of(trained_like(TwoByTwo()), inputs, ["embedding", "score"])
