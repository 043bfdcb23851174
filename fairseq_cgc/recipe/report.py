"""What commands hand out to be read: tables, and plots as PNG."""

import re
import sys
import warnings
from importlib.util import find_spec

from tabulate import tabulate

from .files import OURS, atomic_write, check_own_files

DPI = 150  # of the PNGs


def render_table(header, rows, align="l", style="pipe"):
    """A table of cells that are text already.

    Args:
        header: of the columns; empty for none
        rows: lists of cells
        align: a letter a column, ``l`` or ``r``; the columns beyond are figures, aligned right
        style: tabulate's: ``pipe`` for Markdown, ``plain`` for a terminal
    """
    if style == "pipe":
        header, *rows = ([str(cell).replace("|", "\\|") for cell in row] for row in [header, *rows])
    columns = max(map(len, [header, *rows]))
    sides = ["left" if side == "l" else "right" for side in align.ljust(columns, "r")]
    return tabulate(rows, header, tablefmt=style, disable_numparse=True, colalign=sides)


def write_text_and_plots(out, name, text, plots):
    """Write a text to a folder that is there and, where there is matplotlib, plots; return the text.

    Args:
        text: Markdown, which is marked as ours
        plots: dict of name to what draws it: a function that returns a figure

    Raises:
        UserError: the folder holds somebody's file of one of these names
    """
    check_own_files(out, [name, *plots])
    with atomic_write(out / name) as partial:  # a name of a file, in the text, may be no UTF-8
        partial.write_text(f"{text}\n<!-- written by {OURS} -->\n", encoding="utf-8", errors="backslashreplace")
    if plots and not has_matplotlib():
        print(f"no {' and '.join(plots)} {WITHOUT_PLOTS}", file=sys.stderr)
        return text
    for plot, draw in plots.items():
        with atomic_write(out / plot) as partial:
            save_figure(draw(), partial, plot)
    return text


WITHOUT_PLOTS = "without matplotlib; pip install -c constraints.txt -e '.[plots]'"


def has_matplotlib():
    """Whether plots can be drawn; ``WITHOUT_PLOTS`` says what to do if not. Where it is installed and broken, that is said."""
    if find_spec("matplotlib") is None:
        return False
    try:
        import matplotlib.figure  # noqa: F401
    except Exception as error:  # whatever one of its libraries raises
        print(f"matplotlib is installed and cannot be imported: {error}", file=sys.stderr)
        return False
    return True


def new_figure(width, height, rows=1, columns=1, **options):
    """A figure of matplotlib's, in inches, and its axes: of one plot, or an array of them; see ``Figure.subplots``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def save_figure(figure, file, name="a plot"):
    """Write a figure as a PNG; letters that its font lacks are told in a line."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a $ in a name or sentence is a dollar
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph .* missing")
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": OURS})
    missing = {str(warning.message) for warning in caught if str(warning.message).startswith("Glyph ")}
    for warning in caught:
        if str(warning.message) not in missing:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing:
        print(f"{name}: letters that its font lacks are boxes: {len(missing)} ({min(missing)})", file=sys.stderr)


def last_words(lines):
    """Why a command failed, of what it printed: its error or its exception, without a traceback."""
    lines = [line.rstrip() for line in lines if line.strip()] or ["it printed nothing"]
    exceptions = []
    for number, line in enumerate(lines):
        if line.startswith("error: "):
            return "\n".join(lines[number : number + 2]).removeprefix("error: ")
        # torchrun sums up what its processes said in an exception of its own
        found = re.match(r"(?:\[rank\d+\]: *)?(?:\w+\.)*\w*(?:Error|Exception|Interrupt)\b(?:: )?(.*)", line)
        if found and "ChildFailedError" not in line:
            exceptions.append(found[1] or line)
    return exceptions[-1] if exceptions else lines[-1]
