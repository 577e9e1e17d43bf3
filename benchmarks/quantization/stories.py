"""stories260K as a torch Llama, its tokenizer, and text that it is calibrated and judged on.

Source of the layouts: karpathy/llama2.c, export.py and tokenizer.py, version 0.
"""

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import edgekit
from benchmarks.quantization.workloads import data_folder

TOKENS, CALIBRATION, JUDGED = 128, 128, 64
BEGIN, FIRST_BYTE = 1, 3
TEXTS = {"plays": "tinyshakespeare.txt", "wiki": "wikitext2_valid.txt"}
# Enough characters for a sample of TOKENS tokens.
PIECE_CHARACTERS = 500


class Llama(nn.Module):
    """transformers' Llama with a tensor in and a tensor out. Shapes: (n, t) -> (n, t, vocab)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor) -> Tensor:
        """Scores of the next token, at every place."""
        return self.inner(input_ids).logits


def workload(text: str = "plays") -> edgekit.Workload:
    """The model, calibrated on plays and judged on others, on "stories" or on "wiki"."""
    model = load(data_folder() / "lm" / "stories260K.bin")
    return edgekit.Workload(
        name="stories260k",
        model=model,
        inputs={"input_ids": edgekit.Tensor(shape=(TOKENS,), dtype="int64")},
        outputs={"logits": edgekit.Output()},
        calibration=list(read("plays", JUDGED, CALIBRATION)),
        evaluation=list(judged(model, text)),
        metric="cosine",
    )


def judged(model: Llama, text: str) -> np.ndarray:
    """Tokens that calibration did not see. Shapes: (JUDGED, TOKENS)."""
    if text == "stories":
        return told(model, JUDGED, seed=1)
    return read(text, 0, JUDGED)


def read(text: str, first: int, count: int) -> np.ndarray:
    """The beginnings of pieces of a text, from piece ``first`` on. Shapes: (count, TOKENS)."""
    content = (data_folder() / TEXTS[text]).read_text(encoding="utf-8")
    words = vocabulary(data_folder() / "lm" / "tok512.bin")
    starts = (piece * PIECE_CHARACTERS for piece in range(first, first + count))
    pieces = (content[start : start + PIECE_CHARACTERS] for start in starts)
    return np.array([encode(piece, words)[:TOKENS] for piece in pieces])


@torch.no_grad()
def told(model: Llama, count: int, *, seed: int) -> np.ndarray:
    """Stories that the float model tells by chance. Shapes: (count, TOKENS)."""
    generator = torch.Generator().manual_seed(seed)
    tokens, past = [torch.full((count, 1), BEGIN)], None
    for _ in range(TOKENS - 1):
        # Keys and values of the tokens before are kept, so each step computes one token.
        given = model.inner(tokens[-1], past_key_values=past, use_cache=True)
        shares, past = given.logits[:, -1].softmax(-1), given.past_key_values
        tokens.append(torch.multinomial(shares, 1, generator=generator))
    return torch.cat(tokens, dim=1).numpy()


def load(path: Path) -> Llama:
    """The weights in transformers' own Llama, whose rotary halves are not interleaved."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415  (seconds)

    content = path.read_bytes()
    width, hidden, layers, heads, kv_heads, words, length = struct.unpack_from("7i", content)
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=hidden,
        max_position_embeddings=length,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    kv_width = kv_heads * width // heads
    shapes = {
        "embed_tokens": (words, width),
        "input_layernorm": (layers, width),
        "self_attn.q_proj": (layers, width, width),
        "self_attn.k_proj": (layers, kv_width, width),
        "self_attn.v_proj": (layers, kv_width, width),
        "self_attn.o_proj": (layers, width, width),
        "post_attention_layernorm": (layers, width),
        "mlp.gate_proj": (layers, hidden, width),
        "mlp.down_proj": (layers, width, hidden),
        "mlp.up_proj": (layers, hidden, width),
        "norm": (width,),
    }
    floats, at = torch.from_numpy(np.frombuffer(content, np.float32, offset=28).copy()), 0
    state = model.state_dict()
    for name, shape in shapes.items():
        count = int(np.prod(shape))
        values = floats[at : at + count].reshape(shape)
        at += count
        if name in ("embed_tokens", "norm"):
            state[f"model.{name}.weight"].copy_(values)
            continue
        for layer in range(layers):
            one = values[layer]
            if name in ("self_attn.q_proj", "self_attn.k_proj"):
                one = _in_halves(one, width // heads)
            state[f"model.layers.{layer}.{name}.weight"].copy_(one)
    return Llama(model)


def _in_halves(weight: Tensor, head: int) -> Tensor:
    """Rows in pairs to rows in halves, head by head. Shapes: (heads x head, width) -> the same."""
    pairs = weight.view(-1, head // 2, 2, weight.shape[-1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def vocabulary(path: Path) -> list[tuple[bytes, float]]:
    """Every piece with its score."""
    content, at, found = path.read_bytes(), 4, []
    while at < len(content):
        score, length = struct.unpack_from("<fi", content, at)
        at += 8
        found.append((content[at : at + length], score))
        at += length
    return found


def encode(text: str, words: list[tuple[bytes, float]]) -> list[int]:
    """Byte pair encoding: the two neighbours that make the best piece are joined, over and over."""
    index = {piece: place for place, (piece, _) in enumerate(words)}
    tokens: list[int] = []
    for character in " " + text:
        piece = character.encode()
        tokens += [index[piece]] if piece in index else [byte + FIRST_BYTE for byte in piece]
    while True:
        joined = [index.get(words[left][0] + words[right][0]) for left, right in pairwise(tokens)]
        best = max(
            (place for place, item in enumerate(joined) if item is not None),
            key=lambda place: words[joined[place]][1],
            default=None,
        )
        if best is None:
            return [BEGIN, *tokens]
        tokens[best : best + 2] = [joined[best]]
