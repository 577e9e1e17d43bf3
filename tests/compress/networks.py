"""Networks with repeated blocks, for the tests that look into them."""

from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inside: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, image: Tensor) -> Tensor:
        inner = functional.relu(self.first_norm(self.first(image)))
        return functional.relu(self.second_norm(self.second(inner)) + self.shortcut(image))


class TinyResNet(nn.Module):
    """Two stages of blocks, at 8x8 and at 4x4, as the ResNets of CIFAR-10 have three."""

    def __init__(self, width: int = 8, blocks: tuple[int, int] = (2, 2), classes: int = 10) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        first, second = blocks
        self.stage1 = nn.Sequential(*(Block(width, width) for _ in range(first)))
        later = (Block(2 * width, 2 * width) for _ in range(second - 1))
        self.stage2 = nn.Sequential(Block(width, 2 * width, 2), *later)
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        found = self.stage2(self.stage1(functional.relu(self.stem_norm(self.stem(image)))))
        return self.classifier(found.mean(dim=(2, 3)))
