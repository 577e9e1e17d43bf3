"""Spoken digits: a small convolutional net on the sound itself, trained here in under a minute.

    edgekit build examples/keyword_spotting/workload.py --device phone --arg data=FOLDER

FOLDER holds ``fsdd_dev_jackson_nicolas.npz`` (Free Spoken Digit Dataset, CC BY-SA 4.0): int16
sound at 8 kHz, all clips in a row, with offsets and labels.
"""

import math
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import edgekit

DEFAULT_DATA = os.environ.get("EDGEKIT_DATA", "../shared/data")
RATE_HZ = 8000
CLIP_SAMPLES = 6000
STEP = 8
TRAINING_TAKES = range(16, 25)
CALIBRATION_TAKES = range(14, 16)
EPOCHS = 80
BATCH = 30


class KeywordNet(nn.Module):
    """Convolutions on the waveform, the strongest answer over time, ten scores.

    They are written as 2-d ones of height 1: LiteRT has no others, and its converter then folds
    the batch norms and adds no transposes. Steps of 8 samples stand as channels: a convolution
    over one channel would become a depthwise one, which gains nothing from 8 bits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *layer(STEP, 64, kernel=11),
            nn.MaxPool2d((1, 4)),
            *layer(64, 96, kernel=3),
            nn.MaxPool2d((1, 4)),
            *layer(96, 128, kernel=3),
            nn.MaxPool2d((1, 4)),
            *layer(128, 128, kernel=3),
            nn.MaxPool2d((1, 11)),
        )
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(128, 10)

    def forward(self, sound: Tensor) -> Tensor:
        steps = sound.reshape(-1, 1, CLIP_SAMPLES // STEP, STEP).permute(0, 3, 1, 2)
        return self.head(self.dropout(self.body(steps).flatten(1)))


def layer(channels_in: int, channels: int, kernel: int) -> list[nn.Module]:
    convolution = nn.Conv2d(
        channels_in, channels, (1, kernel), padding=(0, kernel // 2), bias=False
    )
    return [convolution, nn.BatchNorm2d(channels), nn.ReLU()]


def workload(data: str = DEFAULT_DATA):
    clips = read_clips(Path(data) / "fsdd_dev_jackson_nicolas.npz")
    sound = edgekit.Audio(rate_hz=RATE_HZ, samples=CLIP_SAMPLES, deviation=0.1)
    used = {*TRAINING_TAKES, *CALIBRATION_TAKES}
    return edgekit.Workload(
        name="spoken-digits",
        model=train([clip for clip in clips if clip[0] in TRAINING_TAKES]),
        inputs={"sound": sound},
        outputs={"scores": edgekit.Output(labels=tuple("0123456789"), activation="softmax")},
        calibration=[(wave, label) for take, wave, label in clips if take in CALIBRATION_TAKES],
        evaluation=[(wave, label) for take, wave, label in clips if take not in used],
        metric="top-1",
        # 280 clips cannot tell a drop of one point from none: they can tell 3 points.
        limits={"metric_drop": 3.0},
        license="CC-BY-SA-4.0 (data)",
        description="Spoken English digits, two speakers, 8 kHz.",
    )


def read_clips(path: Path) -> list[tuple[int, np.ndarray, int]]:
    """(take, int16 sound, digit) of every clip; a take is one recording of all ten digits."""
    with np.load(path) as arrays:
        samples, offsets = arrays["samples"], arrays["offsets"]
        labels, names = arrays["labels"], arrays["names"]
    takes = [int(str(name).removesuffix(".wav").rsplit("_", 1)[1]) for name in names]
    spans = pairwise(offsets)
    return [
        (take, samples[start:end], int(label))
        for take, (start, end), label in zip(takes, spans, labels, strict=True)
    ]


def train(clips: list[tuple[int, np.ndarray, int]]) -> KeywordNet:
    """18 recordings of each digit are few: every batch is heard at another speed and loudness."""
    torch.manual_seed(0)
    model = KeywordNet()
    sounds = torch.stack([as_tensor(wave) for _, wave, _ in clips])
    digits = torch.tensor([label for _, _, label in clips])
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    batches = math.ceil(len(clips) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, total_steps=EPOCHS * batches
    )
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(clips)).split(BATCH):
            scores = model(as_if_said_again(sounds[rows]))
            loss = nn.functional.cross_entropy(scores, digits[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def as_if_said_again(sounds: Tensor) -> Tensor:
    """The same digits faster or slower, earlier or later, louder or softer, with some noise."""
    speed, shift = 0.85 + 0.3 * float(torch.rand(())), int(torch.randint(-600, 600, ()))
    spoken = nn.functional.interpolate(sounds, size=int(CLIP_SAMPLES / speed), mode="linear")
    spoken = nn.functional.pad(spoken, (0, max(0, CLIP_SAMPLES - spoken.shape[2])))
    spoken = spoken[:, :, :CLIP_SAMPLES].roll(shift, dims=2)
    loudness, noise = torch.rand(2, len(sounds), 1, 1)
    return spoken * (0.5 + loudness) + torch.randn_like(spoken) * noise * 0.05


def as_tensor(wave: np.ndarray) -> Tensor:
    """What edgekit makes of a clip: cut or zero-padded, -1..1, over the stated deviation."""
    clip = np.zeros(CLIP_SAMPLES, np.float32)
    clip[: min(len(wave), CLIP_SAMPLES)] = wave[:CLIP_SAMPLES] / 32768
    return torch.from_numpy(clip / 0.1)[None]
