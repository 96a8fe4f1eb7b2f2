"""Texts have the ids that transformers gives them, wherever a checkpoint declares its special tokens."""

import asyncio
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.checkpoints import write_checkpoint

from phalanx.checkpoint import facts
from phalanx.checkpoint.declared_tokens import declared_tokens
from phalanx.checkpoint.errors import CheckpointError
from phalanx.text.chat_template import ChatTemplate, TemplateSource, find_template
from phalanx.text.tokenizer import ModelTokenizer

TEXT = "Hi<|user|>there <|x|> and <|y|>!<|end|> <im> <s>"
X = {"content": "<|x|>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
Y = {**X, "content": "<|y|>", "special": False, "lstrip": True}
USER = {**X, "content": "<|user|>"}


class Files(NamedTuple):
    """A checkpoint's tokenizer files, as they differ from the usual ones."""

    config: dict[str, Any]
    """Fields of tokenizer_config.json; None leaves one out."""
    special_map: dict[str, Any] | None = None
    added: dict[str, int] | None = None
    gone: frozenset[str] = frozenset()
    """Added tokens that tokenizer.json lacks."""
    tokenizer: dict[str, Any] = {}  # noqa: RUF012 a NamedTuple's default, which nothing changes
    """Fields of tokenizer.json."""


BEGIN_AND_END = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|system|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|system|>": {"id": "<|system|>", "ids": [257], "tokens": ["<|system|>"]}},
}

CASES = {
    "nothing more": Files({}),
    "by id": Files({"added_tokens_decoder": {"260": X, "261": Y}}),
    "by id, not in order of ids": Files({"added_tokens_decoder": {"261": X, "260": Y}}),
    "by id, one that tokenizer.json lacks in the middle": Files(
        {"added_tokens_decoder": {"258": USER}}, gone=frozenset({"<|user|>"})
    ),
    "by id, all that tokenizer.json lacks": Files(
        {"added_tokens_decoder": {"256": {**X, "content": "<|end|>"}, "258": USER, "260": X}},
        gone=frozenset({"<|user|>", "<|end|>", "<|system|>", "<|assistant|>"}),
    ),
    "by id, known with other flags": Files({"added_tokens_decoder": {"258": {**USER, "lstrip": True, "rstrip": True}}}),
    "by id, a word of the vocabulary": Files({"added_tokens_decoder": {"39": {**X, "content": "H"}}}),
    "by id, so that older files do not count": Files(
        {"added_tokens_decoder": {"260": X}, "pad_token": "<|x|>"},
        special_map={"pad_token": "<|y|>"},
        added={"<|y|>": 260},
    ),
    "an older file": Files({}, added={"<|x|>": 260, "<|y|>": 261}),
    "an older file and named tokens": Files({"pad_token": "<|x|>"}, added={"<|x|>": 260, "<|y|>": 261}),
    "the map of named tokens": Files(
        {}, special_map={"pad_token": "<|x|>", "eos_token": {k: v for k, v in Y.items() if k != "special"}}
    ),
    "the map against the configuration": Files({"pad_token": "<|x|>"}, special_map={"pad_token": "<|y|>"}),
    "a named token alone": Files({"pad_token": "<|x|>", "bos_token": "<s>"}),
    "a named token of this model": Files({"image_token": "<im>"}),
    "additional special tokens": Files({"additional_special_tokens": ["<|y|>", "<|x|>"]}),
    "additional special tokens in the map": Files({}, special_map={"additional_special_tokens": ["<|y|>", "<|x|>"]}),
    "extra special tokens": Files({"extra_special_tokens": ["<|x|>", "<im>"]}),
    "extra special tokens with names": Files({"extra_special_tokens": {"image_token": "<im>"}}),
    "special tokens that are split": Files({"split_special_tokens": True}),
    "begin and end asked for, and no post-processor": Files(
        {"add_bos_token": True, "add_eos_token": True, "bos_token": "<|system|>"}, tokenizer={"post_processor": None}
    ),
    "begin not asked for, and a post-processor that adds it": Files(
        {"add_bos_token": False, "bos_token": "<|system|>"}, tokenizer={"post_processor": BEGIN_AND_END}
    ),
}


def written(folder: Path, files: Files) -> Path:
    write_checkpoint(folder)

    def change(name: str, fields: dict[str, Any]) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(content | fields))

    saved = json.loads((folder / "tokenizer.json").read_text())
    kept = [token for token in saved["added_tokens"] if token["content"] not in files.gone]
    change("tokenizer.json", {"added_tokens": kept, **files.tokenizer})
    change("tokenizer_config.json", files.config)
    if files.special_map is not None:
        change("special_tokens_map.json", files.special_map)
    if files.added is not None:
        change("added_tokens.json", files.added)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_texts_have_the_ids_that_transformers_gives_them(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = written(tmp_path, CASES[name])
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = ModelTokenizer.load(folder)
    try:
        for add in (True, False):
            tokens = asyncio.run(ours.encode(TEXT, add_special_tokens=add, limit=1000))
            assert tokens == theirs(TEXT, add_special_tokens=add)["input_ids"]
        assert asyncio.run(ours.decode(tokens, skip_special_tokens=True)) == theirs.decode(
            tokens, skip_special_tokens=True
        )
        assert ours.special == theirs.special_tokens_map
    finally:
        ours.close()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("options", [{"add_generation_prompt": True}, {"continue_final_message": True}], ids=str)
def test_chats_have_the_ids_that_transformers_gives_them(name: str, options: dict[str, bool], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = written(tmp_path, CASES[name])
    chat = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": "<|x|> e"}]
    theirs = AutoTokenizer.from_pretrained(folder).apply_chat_template(chat, tokenize=True, **options)["input_ids"]
    found = find_template(folder)
    assert isinstance(found, TemplateSource)
    ours = ModelTokenizer.load(folder)
    try:
        text = ChatTemplate(found.text, ours.special).render(chat, **{"add_generation_prompt": False, **options})
        assert asyncio.run(ours.encode(text, add_special_tokens=False, limit=1000)) == theirs
    finally:
        ours.close()


def test_special_tokens_are_texts_or_objects(tmp_path: Path) -> None:
    settings = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "pad_token": None, "x": "y"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert declared_tokens(tmp_path).texts == {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    "files",
    [
        Files({}, special_map={"eos_token": "<|user|>"}),
        Files({"added_tokens_decoder": {}}, special_map={"eos_token": "<|user|>"}),
        Files({"added_tokens_decoder": {"260": X}, "eos_token": "<|x|>"}, special_map={"eos_token": "<|user|>"}),
        Files({"eos_token": None}, special_map={"eos_token": {"content": "<|user|>", "lstrip": False}}),
        Files({"eos_token": "H"}),
    ],
    ids=str,
)
def test_answers_end_with_the_token_that_templates_see_and_transformers_names(files: Files, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = written(tmp_path, files)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"eos_token_id": None, "vocab_size": 261}))
    (folder / "generation_config.json").unlink()
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = ModelTokenizer.load(folder)
    ours.close()
    assert ours.special["eos_token"] == theirs.eos_token
    assert facts.read(folder, None).eos_token_ids == (theirs.eos_token_id,)


def test_where_the_deciding_declaration_is_null_the_checkpoint_is_refused_as_transformers_refuses_it(
    tmp_path: Path,
) -> None:
    from transformers import AutoTokenizer

    folder = written(tmp_path, Files({"added_tokens_decoder": None}, special_map={"eos_token": "<|user|>"}))
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'items'"):
        AutoTokenizer.from_pretrained(folder)
    words = r"tokenizer_config\.json: added_tokens_decoder is null, not an object"
    with pytest.raises(CheckpointError, match=words):
        facts.read(folder, None)
    with pytest.raises(CheckpointError, match=words):
        ModelTokenizer.load(folder)


def test_a_token_whose_declared_id_is_another_s_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = written(tmp_path, CASES["by id, one that tokenizer.json lacks in the middle"])
    ModelTokenizer.load(folder).close()
    assert "declares '<|user|>' as token 258; its tokenizer knows it as 259" in caplog.text


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"one": X}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": "x"}}),
        ("tokenizer_config.json", {"added_tokens_decoder": [X]}),
        ("tokenizer_config.json", {"added_tokens_decoder": None}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": {"text": "x"}}}),
        ("added_tokens.json", {"<|x|>": "260"}),
    ],
    ids=str,
)
def test_declarations_that_cannot_be_read_name_their_file(file: str, content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=file):
        declared_tokens(tmp_path)
