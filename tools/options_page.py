"""Writes docs/options.md, every option of `phalanx serve`, from the configuration tree: options_page.py [--check].

`--check` writes nothing and exits with 1 where the page is not what it would be.
"""

import sys
from pathlib import Path

from phalanx.cli.options import OPTIONS, Option
from phalanx.config import OPTION_GROUPS

PAGE = Path(__file__).parent.parent / "docs" / "options.md"

HEAD = """# What can be set?

Every option of `phalanx serve`, as `phalanx serve --help` tells them. Each is a flag, and a name in a `--config` file
(TOML or YAML, flat or by group); names may be written with dashes or underscores. The command line wins over the file,
the file over the default. This page is written by `make docs` from `phalanx/config.py`.
"""


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for group, struct in OPTION_GROUPS.items():
        title = (struct.__doc__ or group).strip()
        rows = "".join(_row(option) for option in OPTIONS.values() if option.group == group)
        parts.append(f"## {title}\n\n| option | takes | default | what it does |\n| --- | --- | --- | --- |\n{rows}")
    return "\n".join(parts)


def _row(option: Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.short, option.flag)) if option.name != "model" else "`MODEL`"
    if option.boolean:
        names += f", `--no-{option.flag[2:]}`"
        takes, default = "", "yes" if option.default else "no"
    else:
        takes = option.expected
        default = "" if option.default in (None, ()) else f"`{option.default}`"
    cells = (names, takes, default, option.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def main() -> int:
    """Write the page, or compare it; returns the exit status."""
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.read_text() == page() else 1
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
