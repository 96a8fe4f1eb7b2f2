"""`--config FILE`: the options of `phalanx serve` from TOML or YAML, flat or by group."""

import tomllib
from pathlib import Path
from typing import Any

from phalanx.cli.options import OPTIONS, UsageError, instead_of, nearest
from phalanx.config import OPTION_GROUPS


def read(path: Path) -> dict[str, Any]:
    """The values in the file by option name, in the types that the file gives them.

    Raises:
        UsageError: the file cannot be read or parsed, or names what is no option.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"--config: cannot read {path}: {reason}") from None
    return _flat(_parse(path, text), path)


def _parse(path: Path, text: str) -> dict[str, Any]:
    match path.suffix.lower():
        case ".toml":
            try:
                return tomllib.loads(text)
            except tomllib.TOMLDecodeError as error:
                raise UsageError(f"--config: {path} is not TOML: {error}") from None
        case ".yaml" | ".yml":
            import yaml

            try:
                content = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise UsageError(f"--config: {path} is not YAML: {' '.join(str(error).split())}") from None
            if content is None:
                return {}
            if not isinstance(content, dict):
                raise UsageError(f"--config: {path} must hold names and values, not a {type(content).__name__}")
            return content
        case other:
            raise UsageError(f"--config: {path} must end in .toml, .yaml or .yml, not {other or 'nothing'}")


def _flat(content: dict[Any, Any], path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = _name(key)
        # `model` is both a group and an option in it.
        if name in OPTION_GROUPS and isinstance(value, dict):
            for inner_key, inner in value.items():
                option = OPTIONS.get(_name(inner_key))
                if option is None or option.group != name:
                    in_group = [known.name for known in OPTIONS.values() if known.group == name]
                    near = instead_of(_name(inner_key)) or nearest(_name(inner_key), in_group)
                    elsewhere = f"; it belongs to [{option.group}]" if option else near
                    raise UsageError(f"{path}: {inner_key} is not an option of [{name}]{elsewhere}")
                _put(values, option.name, inner, path)
        elif name in OPTIONS:
            _put(values, name, value, path)
        else:
            near = instead_of(name) or nearest(name, [*OPTIONS, *OPTION_GROUPS])
            raise UsageError(f"{path}: {key} is not an option{near}")
    return values


def _put(values: dict[str, Any], name: str, value: Any, path: Path) -> None:
    if name in values:
        raise UsageError(f"{path}: {name} is given twice")
    if value is not None:
        values[name] = value
    elif OPTIONS.get(name.removesuffix("_file"), OPTIONS[name]).secret:
        raise UsageError(f"{path}: {name} is there and empty: an empty key would let everybody in")
    # Any other empty value or `null` of YAML is as if not given.


def _name(key: Any) -> str:
    return str(key).replace("-", "_")
