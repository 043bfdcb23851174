"""Fill the tables of docs/options.md from the declarations of what they list: python docs/options.py"""

import re
from enum import EnumMeta
from pathlib import Path

import fairseq_cgc  # noqa: F401 (registers the architectures)
from fairseq_cgc.errors import flag
from fairseq_cgc.options import OPTIONS
from fairseq_cgc.recipe.command_line import COMMANDS

PAGE = Path(__file__).with_name("options.md")


def architectures():
    from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_INV_REGISTRY  # after the plugin, which quiets fairseq

    yield "`--arch`", "model"
    for name in ARCH_MODEL_INV_REGISTRY["lightconv_cgc"]:
        yield f"`{name}`", _text(ARCH_CONFIG_REGISTRY[name].__doc__)


def options():
    yield "option", "default", "values", "meaning"
    for option in OPTIONS:
        if isinstance(option.type, EnumMeta):
            values = ", ".join(f"`{choice.value}`" for choice in option.type)
        else:
            values = {bool: "switch", int: "number", float: "number"}.get(option.type, "text")
        default = "–" if option.default in (None, False) else f"`{option.default}`"
        if option.default is None and "default:" in option.metadata["help"]:
            default = "see meaning"
        yield f"`{flag(option.name)}`", default, values, _text(option.metadata["help"])


def commands():
    yield "command", "task"
    for name, (_, declare) in COMMANDS.items():
        yield f"`{name}`", _text(declare.__doc__)


def _text(words):
    return " ".join(words.replace("``", "`").split()).replace("*", "\\*").replace("|", "\\|")


def _table(rows):
    header, *rows = rows
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [header, ["---"] * len(header), *rows])


def filled(page):
    """The text of the page with its tables as they should be."""
    for table in (architectures, options, commands):
        marked = rf"(<!-- {table.__name__} -->\n)(?:\n(?:\|.*\n)+)?"
        page, count = re.subn(marked, lambda match: match[1] + "\n" + _table(table()), page)  # noqa: B023
        assert count == 1, f"{PAGE} has no place for the {table.__name__}"
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
