"""all-MiniLM-L6-v2 with text to learn from: what ``minilm.py`` builds.

The lines of WikiText-2's validation text are split three ways: the example's own 464 for
calibration and evaluation, 100 to choose on, and all others, cut into pieces of about 64 tokens, to
learn from, beside pieces of tinyshakespeare. No line is in two sets.
"""

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch

import edgekit

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "sentence_embedding" / "workload.py"
WIKI, PLAYS = "wikitext2_valid.txt", "tinyshakespeare.txt"
SELECTION = 100
# About 64 tokens of English: four to five characters each.
PIECE_CHARACTERS = 280


def example() -> ModuleType:
    """The example that defines and pins the model."""
    name = "sentence_embedding_example"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXAMPLE)
        if spec is None or spec.loader is None:
            raise ImportError(f"{EXAMPLE} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        # Found by name again where edgekit looks at a class's own source.
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def workload(length: str = "64", wiki: str = "2800", plays: str = "1400") -> edgekit.Workload:
    """MiniLM. length: tokens of a text. wiki, plays: how many pieces of either to learn from."""
    made = example().workload(text=str(data_folder() / WIKI), length=length)
    lines = other_lines()
    learned = [*pieces(lines[SELECTION:])[: int(wiki)], *pieces(plays_lines())[: int(plays)]]
    return replace(made, selection=lines[:SELECTION], training=learned)


def tiny() -> edgekit.Workload:
    """The same with a random model of 4 layers and few short texts, to see that all of it runs."""
    made = workload(length="16", wiki="32", plays="8")
    return replace(
        made,
        model=_tiny_model(),
        calibration=made.calibration[:8],
        evaluation=made.evaluation[:16],
        selection=made.selection[:8],
    )


def data_folder() -> Path:
    """Where the data are: EDGEKIT_DATA, by default the folder beside the checkout."""
    return Path(os.environ.get("EDGEKIT_DATA", ROOT / ".." / "shared" / "data"))


def other_lines() -> list[str]:
    """The lines of WikiText-2 that the example does not use."""
    known = example()
    first = known.CALIBRATION_SENTENCES + known.EVALUATION_SENTENCES
    lines: list[str] = known.read_sentences(data_folder() / WIKI)
    return lines[first:]


def plays_lines() -> list[str]:
    """What is said in the plays, a speech a line."""
    speeches = (data_folder() / PLAYS).read_text(encoding="utf-8").split("\n\n")
    return [" ".join(speech.split()) for speech in speeches]


def pieces(lines: list[str]) -> list[str]:
    """Lines cut at spaces into pieces of about 64 tokens; what is short is joined to what follows.

    No two pieces are equal.
    """
    words = " ".join(lines).split(" ")
    found, current, size = [], list[str](), 0
    for word in words:
        current.append(word)
        size += len(word) + 1
        if size >= PIECE_CHARACTERS:
            found.append(" ".join(current))
            current, size = [], 0
    return list(dict.fromkeys(found))


def _tiny_model() -> torch.nn.Module:
    from transformers import BertConfig, BertModel  # noqa: PLC0415  # takes seconds

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        config = BertConfig(
            hidden_size=40,
            num_hidden_layers=4,
            num_attention_heads=10,
            intermediate_size=80,
            attn_implementation="eager",
        )
        return example().SentenceEncoder(BertModel(config, add_pooling_layer=False)).eval()
