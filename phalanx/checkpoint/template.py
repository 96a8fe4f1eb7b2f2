"""The chat templates in a checkpoint's files."""

from pathlib import Path
from typing import Any, NamedTuple

from phalanx.checkpoint.errors import CheckpointError
from phalanx.checkpoint.files import TOKENIZER_CONFIG, read_json_if_there, refuse_pointer

DEFAULT = "default"
"""The name of a template that is given without one."""


class StoredTemplates(NamedTuple):
    by_name: dict[str, str]
    """Jinja sources, at least one."""
    origin: Path
    """The file that they are from."""


def stored_templates(folder: Path) -> StoredTemplates | None:
    """The templates of the first file that has any, in the order in which transformers looks; None without any.

    Raises CheckpointError that names the file at fault.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        refuse_pointer(path)
        try:
            return StoredTemplates({DEFAULT: path.read_text(encoding="utf-8")}, path)
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path} is not UTF-8: {error}") from None
    for path in (folder / TOKENIZER_CONFIG, folder / "chat_template.json"):
        if by_name := _by_name(read_json_if_there(path).get("chat_template")):
            return StoredTemplates(by_name, path)
    return None


def _by_name(found: Any) -> dict[str, str]:
    """One text, a list of objects with `name` and `template`, or an object from names to texts; else nothing."""
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
    named = found if isinstance(found, dict) else {DEFAULT: found}
    return {str(name): text for name, text in named.items() if isinstance(text, str)}
