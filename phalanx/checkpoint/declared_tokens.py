"""The tokens that a checkpoint declares beside tokenizer.json, read as transformers reads them.

tokenizer_config.json may declare tokens in `added_tokens_decoder`. Where it does, it alone counts. Where it does not,
as in older checkpoints, special_tokens_map.json overrides its entries and added_tokens.json declares more tokens.

`add_bos_token` and `add_eos_token` are not read: what a tokenizer puts around a text is the post-processor's in
tokenizer.json, for transformers too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from phalanx.checkpoint.errors import CheckpointError
from phalanx.checkpoint.files import TOKENIZER_CONFIG, read_json_if_there

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""In the order in which they are added."""

_FLAGS = ("lstrip", "rstrip", "normalized", "single_word")


class DeclaredToken(NamedTuple):
    content: str
    special: bool
    flags: Mapping[str, bool]
    """Those of `lstrip`, `rstrip`, `normalized` and `single_word` that are declared."""


class DeclaredTokens(NamedTuple):
    """What the files beside tokenizer.json say about tokens."""

    by_name: dict[str, DeclaredToken]
    """`bos_token`, `eos_token` and their like, and those that only this model has, such as `image_token`."""
    by_id: dict[int, DeclaredToken]
    extra: list[DeclaredToken]
    """Special tokens without a name."""
    split_special_tokens: bool
    """A special token that is written in a text is read as ordinary text."""

    @property
    def texts(self) -> dict[str, str]:
        """The named tokens as chat templates see them."""
        return {name: token.content for name, token in self.by_name.items()}

    def id_of(self, text: str) -> int | None:
        """The id that is declared with this text, or None where it is declared without one or not at all."""
        return next((number for number, token in self.by_id.items() if token.content == text), None)


def declared_tokens(folder: Path) -> DeclaredTokens:
    """Read the files. Raises CheckpointError that names the one at fault."""
    settings = read_json_if_there(folder / TOKENIZER_CONFIG)
    alone = "added_tokens_decoder" in settings
    if not alone:
        # A list of extra tokens in the settings is not replaced by the older file's.
        unnamed = {key: settings[key] for key in ("additional_special_tokens",) if settings.get(key)}
        settings = settings | read_json_if_there(folder / "special_tokens_map.json") | unnamed
    extra_tokens = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    # A mapping gives names.
    by_name = _named(settings | extra_tokens if isinstance(extra_tokens, dict) else settings)
    extra = [] if isinstance(extra_tokens, dict) else [token for item in extra_tokens if (token := _token(item))]
    if alone:
        by_id = _declared_by_id(settings["added_tokens_decoder"], folder / TOKENIZER_CONFIG)
    else:
        named = [by_name[name] for name in _NAMES if name in by_name]
        by_id = _older_by_id(folder / "added_tokens.json", {token.content for token in (*named, *extra)})
    exact = {token.content: token for token in by_id.values()}
    return DeclaredTokens(
        {name: exact.get(token.content, token) for name, token in by_name.items()},
        by_id,
        extra,
        settings.get("split_special_tokens") is True,
    )


def _declared_by_id(declared: Any, path: Path) -> dict[int, DeclaredToken]:
    if not isinstance(declared, dict):
        kind = "null" if declared is None else f"a {type(declared).__name__}"
        raise CheckpointError(f"{path}: added_tokens_decoder is {kind}, not an object")
    by_id = {}
    for number, value in declared.items():
        special = isinstance(value, dict) and value.get("special") is True
        if not number.isdecimal() or isinstance(value, str) or (token := _token(value, special)) is None:
            raise CheckpointError(
                f"{path}: added_tokens_decoder has {number!r}: {value!r}, which is no token with its id"
            )
        by_id[int(number)] = token
    return by_id


def _older_by_id(path: Path, special: set[str]) -> dict[int, DeclaredToken]:
    """What added_tokens.json declares. `special`: texts of the tokens that other files call special."""
    by_id = {}
    for text, number in read_json_if_there(path).items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise CheckpointError(f"{path}: the id of {text!r} is {number!r}, not a whole number")
        by_id[number] = DeclaredToken(text, text in special, {"normalized": text not in special})
    return by_id


def _named(settings: dict[str, Any]) -> dict[str, DeclaredToken]:
    """`*_token` entries, which are texts or objects with their text as `content`."""
    order = (*_NAMES, *(name for name in settings if name.endswith("_token") and name not in _NAMES))
    return {name: token for name in order if (token := _token(settings.get(name))) is not None}


def _token(value: Any, special: bool = True) -> DeclaredToken | None:
    """The token; None for what is neither a text nor an object with one."""
    if isinstance(value, str):
        return DeclaredToken(value, special, {})
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        flags = {name: value[name] is True for name in _FLAGS if name in value}
        return DeclaredToken(value["content"], special, flags)
    return None
