"""The tokens that a checkpoint declares beside tokenizer.json, read as transformers reads them.

tokenizer_config.json may declare tokens in `added_tokens_decoder`. Where it does, it alone counts. Where it does not,
as in older checkpoints, special_tokens_map.json overrides its entries and added_tokens.json declares more tokens. What
tokenizer.json has not already is added to the tokenizer, which gives each new token an id behind those it has.

`add_bos_token` and `add_eos_token` are not read: what a tokenizer puts around a text is the post-processor's in
tokenizer.json, for transformers too.
"""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from tokenizers import AddedToken

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""In the order in which they are added."""

_FLAGS = ("lstrip", "rstrip", "normalized", "single_word")


class DeclaredTokens(NamedTuple):
    """What the files beside tokenizer.json say about tokens."""

    by_name: dict[str, AddedToken]
    """`bos_token`, `eos_token` and their like, and those that only this model has, such as `image_token`."""
    by_id: dict[int, AddedToken]
    extra: list[AddedToken]
    """Special tokens without a name."""
    split_special_tokens: bool
    """A special token that is written in a text is read as ordinary text."""

    @property
    def texts(self) -> dict[str, str]:
        """The named tokens as chat templates see them."""
        return {name: token.content for name, token in self.by_name.items()}

    def missing_from(self, known: dict[int, AddedToken]) -> list[AddedToken]:
        """What is to be added, in order, to a tokenizer whose added tokens are `known`."""
        exact = {repr(token) for token in known.values()}
        missing = [token for _, token in sorted(self.by_id.items()) if repr(token) not in exact]
        texts = {token.content for token in (*known.values(), *missing)}
        for token in (*self.by_name.values(), *self.extra):
            if token.content not in texts:
                texts.add(token.content)
                missing.append(token)
        named = {token.content for token in self.by_name.values()}
        for token in missing:
            token.special = token.special or token.content in named
        return missing


def declared_tokens(folder: Path) -> DeclaredTokens:
    """Raises ValueError that names the file."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path)
    by_id: dict[int, AddedToken] = {}
    declared = settings.get("added_tokens_decoder")
    if declared is not None:
        by_id = _declared_by_id(declared, path)
    else:
        # A list of extra tokens in the settings is not replaced by the older file's.
        unnamed = {key: settings[key] for key in ("additional_special_tokens",) if settings.get(key)}
        settings = settings | read_json(folder / "special_tokens_map.json") | unnamed
    extra_tokens = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    # A mapping gives names.
    names = settings | extra_tokens if isinstance(extra_tokens, dict) else settings
    by_name = _named(names)
    extra = [] if isinstance(extra_tokens, dict) else [token for item in extra_tokens if (token := _token(item))]
    if declared is None:
        special = {by_name[name].content for name in _NAMES if name in by_name} | {token.content for token in extra}
        for text, number in read_json(folder / "added_tokens.json").items():
            if not isinstance(number, int):
                raise ValueError(
                    f"{folder / 'added_tokens.json'}: the id of {text!r} is {number!r}, not a whole number"
                )
            by_id[number] = AddedToken(text, normalized=text not in special, special=text in special)
    exact = {token.content: token for token in by_id.values()}
    return DeclaredTokens(
        {name: exact.get(token.content, token) for name, token in by_name.items()},
        by_id,
        extra,
        settings.get("split_special_tokens") is True,
    )


def _declared_by_id(declared: Any, path: Path) -> dict[int, AddedToken]:
    if not isinstance(declared, dict):
        raise ValueError(f"{path}: added_tokens_decoder is a {type(declared).__name__}, not an object")
    by_id = {}
    for number, value in declared.items():
        special = isinstance(value, dict) and value.get("special") is True
        if not number.isdecimal() or isinstance(value, str) or (token := _token(value, special)) is None:
            raise ValueError(f"{path}: added_tokens_decoder has {number!r}: {value!r}, which is no token with its id")
        by_id[int(number)] = token
    return by_id


def _named(settings: dict[str, Any]) -> dict[str, AddedToken]:
    """`*_token` entries, which are texts or objects with their text as `content`."""
    order = (*_NAMES, *(name for name in settings if name.endswith("_token") and name not in _NAMES))
    return {name: token for name in order if (token := _token(settings.get(name))) is not None}


def _token(value: Any, special: bool = True) -> AddedToken | None:
    """The token; None for what is neither a text nor an object with one."""
    if isinstance(value, str):
        return AddedToken(value, special=special)
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        flags = {name: value[name] is True for name in _FLAGS if name in value}
        return AddedToken(value["content"], special=special, **flags)
    return None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of the checkpoint; empty where there is no such file.

    Raises ValueError that names the file.
    """
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return found
