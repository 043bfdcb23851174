"""The rows of the tables and the paper's protocol, as ``rows.toml`` describes them. Imports nothing heavy."""

import tomllib
from pathlib import Path
from typing import NamedTuple

from ..errors import OptionError

_FILE = tomllib.loads(Path(__file__).with_name("rows.toml").read_text(encoding="utf-8"))
PAPER, SMALL = _FILE["protocol"], _FILE["small"]
BASELINE, CONTROL, CGC = "lightconv", "cgc-constant", "cgc"  # what the others are compared with
LEARNED = "cgc-learned"  # what a gate can be without a context


class Row(NamedTuple):
    """A row of a table."""

    title: str
    options: str = ""  # of fairseq-train
    criterion: str = PAPER["criterion"]
    colour: str | None = None
    paper_bleu: float | None = None  # tokenised BLEU-4 and parameters of the paper's Table 6
    paper_parameters: str | None = None
    control: bool = False  # credit the context only if the gain also beats this
    of: str | None = None  # the row that this is a variant of
    evaluated_with: str | None = None  # the variant is that row's model, translating with these --model-overrides


ROWS = {name: Row(**row) for name, row in _FILE["rows"].items()}
SYSTEMS = {name: row for name, row in ROWS.items() if row.of is None}  # Table 6, and what is held against it
TRAINED = [name for name, row in ROWS.items() if row.evaluated_with is None]
PAPER_AND_CONTROLS = [name for name, row in ROWS.items() if row.paper_bleu or row.control]
SHUFFLED = {row.of: name for name, row in ROWS.items() if row.evaluated_with}  # a row's shuffled control


def row_options(name):
    """fairseq-train's options for a row. Raises OptionError if there is no such row."""
    if name not in TRAINED:
        raise OptionError(f"there is no row '{name}'; choose from {', '.join(TRAINED)}")
    row = ROWS[name]
    if row.of is not None:
        return [*row_options(row.of), *row.options.split()]
    return [*row.options.split(), *PAPER["options"].split(), *row.criterion.split()]


def small_options(name):
    """The further options that make a row's model and training small."""
    return [*SMALL["options"].split(), *(SMALL["kernels"].split() if has_kernels(name) else ())]


def has_kernels(name):
    """Whether a row's model has convolutions."""
    return name != "transformer"
