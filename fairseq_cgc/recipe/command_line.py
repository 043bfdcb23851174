"""``fairseq-cgc COMMAND``: every command and its options.

Each command is a function here, which declares its options, and the ``main(args)`` of a module, which is imported when
the command starts: nothing imported here is slow, so that ``--help`` answers at once.
"""

import argparse
import importlib
import logging
import shlex
import sys
import textwrap
from pathlib import Path

from .. import __version__
from ..compat import USER_DIR
from ..errors import flag
from .files import run_command
from .interrupts import ending_at_once
from .rows import PAPER, PAPER_AND_CONTROLS, ROWS, SMALL, SYSTEMS, TRAINED


def main(argv=None):
    """Run a command; ``argv`` as in ``sys.argv[1:]``."""
    args = parse(sys.argv[1:] if argv is None else argv)
    if args.module is None:
        run_command(lambda: print(USER_DIR))
    else:
        run_command(lambda: _run(args))


def _run(args):
    with ending_at_once():
        from .. import plugin  # noqa: F401 (registers the architectures)

        module = importlib.import_module(f".{args.module}", __package__)
    logging.disable(logging.INFO)
    module.main(args)


def parse(argv):
    """The options of a command, with its ``module``, its whole ``command_line`` and, in ``fairseq``, what is passed on to
    fairseq's command.
    """
    listed = "\n".join(
        f"  {name:16} {declare.__doc__.partition('. ')[0].rstrip('.')}" for name, (_, declare) in COMMANDS.items()
    )
    parser = argparse.ArgumentParser(
        prog="fairseq-cgc",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Context-gated convolution for machine translation: corpora, training, translation, scores, tables.",
        epilog=f"commands:\n{listed}\n\nfairseq-cgc COMMAND --help lists the options of a command.",
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("--version", action="version", version=f"fairseq-cgc {__version__}")
    name = parser.parse_args(argv[:1] or ["--help"]).command
    module, declare = COMMANDS[name]
    passes_on = declare in (train, generate, experiment)
    parser = argparse.ArgumentParser(
        prog=f"fairseq-cgc {name}", allow_abbrev=not passes_on, formatter_class=_Help, description=declare.__doc__
    )
    declare(parser)
    if passes_on:
        args, args.fairseq = parser.parse_known_args(argv[1:])
        if "--" in args.fairseq:  # where people are used to put it, before what is passed on
            args.fairseq.remove("--")
        if args.fairseq and not args.fairseq[0].startswith("-"):
            parser.error(f"unrecognized argument: {args.fairseq[0]}")
    else:
        args = parser.parse_intermixed_args(argv[1:])
    args.module, args.command_line = module, shlex.join(["fairseq-cgc", *argv])
    return args


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names each default, unless there is none or the help has its own words for it; leaves names with hyphens whole."""

    def _split_lines(self, text, width):
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _get_help_string(self, action):
        silent = action.default is None or isinstance(action.default, bool) or "default" in action.help
        return action.help if silent else super()._get_help_string(action)


def _option(parser, option, metavar, text, default=None, **more):
    parser.add_argument(option, default=default, metavar=metavar, help=text, **more)


def _number(parser, option, default, text):
    _option(parser, option, "N", text, default, type=int)


def _path(parser, option, metavar, text, default=None, **more):
    _option(parser, option, metavar, text, default, type=_path_of, **more)


def _path_of(text):
    if not text:  # which Path takes for the current folder
        raise argparse.ArgumentTypeError("expected a path, found an empty text")
    return Path(text)


def quickstart(parser):
    """Train a small translator of interface strings, from nothing to its BLEU. A context-gated LightConv learns
    German-English from Home Assistant's strings, translates held-out ones with beam 6, and is scored. A second run skips
    finished steps and resumes where the first one stopped.
    """
    _path(parser, "--work", "DIR", "work folder", Path("runs/quickstart"))
    parser.add_argument(
        "--arch",
        default="lightconv_cgc",
        choices=["lightconv_cgc", "lightconv_iwslt_de_en"],
        help="the second is fairseq's LightConv, the same model without the gate",
    )
    _number(parser, "--seed", 1, "random seed of the training")
    _number(parser, "--updates", 1700, "updates to train for; more than a previous run had continues it")
    _path(parser, "--archive", "PATH", "a local copy of the homeassistant 2025.4.4 wheel")
    _option(parser, "--sha256", "HEX", "expected hash of the wheel, if not the pinned one")
    _number(parser, "--valid-size", 500, "pairs held out for validation")
    _number(parser, "--test-size", 1000, "pairs held out for test")
    parser.add_argument("--fresh", action="store_true", help="start over: remove this run and the prepared data")


def prepare(parser):
    """Prepare a parallel corpus: plain text to fairseq's binarised data. As in the IWSLT'14 recipe: Moses tokens,
    cleaning, lower case, joint subwords. PREFIX stands for PREFIX.SOURCE and PREFIX.TARGET, plain or .gz, .bz2, .xz. With
    --vocabulary-of, a new test set, or a corpus to fine-tune a model on, gets the settings, subwords and dictionaries of an
    existing preparation.
    """
    _option(parser, "--source-lang", "LANG", "source language; required without --vocabulary-of")
    _option(parser, "--target-lang", "LANG", "target language; required without --vocabulary-of")
    parser.add_argument("--train", metavar="PREFIX")
    _option(parser, "--valid", "PREFIX", "default: pairs held out of the training data, see --valid-every")
    parser.add_argument("--test", metavar="PREFIX", required=True)
    _path(parser, "--out", "DIR", "output folder", required=True)
    _path(parser, "--vocabulary-of", "DIR", "a preparation whose settings and vocabulary to use")
    _preparation_settings(parser)


def prepare_iwslt14(parser):
    """Prepare IWSLT'14 German-English, or another pair in either direction, from its archive. The tokens are those of
    fairseq's prepare-iwslt14.sh. A second run skips finished steps; an interrupted download resumes.
    """
    _option(parser, "--source-lang", "LANG", "source language, one of the archive's two", "de")
    _option(parser, "--target-lang", "LANG", "target language, the other one", "en")
    _path(parser, "--archive", "PATH", "a local copy of de-en.tgz; default: download it")
    _option(parser, "--url", "URL", "address of the archive, if not that of fairseq's recipe")
    _path(parser, "--out", "DIR", "output folder; default: data/iwslt14.SOURCE-TARGET")
    _preparation_settings(parser)


def _preparation_settings(parser):
    bpe = "subword model (default: subword_nmt)"
    parser.add_argument("--bpe", choices=["subword_nmt", "sentencepiece"], help=bpe)
    _number(parser, "--bpe-size", None, "merge operations, or pieces (default: 10000)")
    parser.add_argument("--keep-case", dest="lowercase", action="store_false", default=None, help="do not lowercase")
    joined = "one dictionary for both sides"
    parser.add_argument("--joined-dictionary", action="store_true", default=None, help=joined)
    _number(parser, "--max-tokens", None, "longest side of a training pair, in tokens (default: 175)")
    _option(parser, "--max-ratio", "R", "largest length ratio of a training pair (default: 1.5)", type=float)
    _number(parser, "--valid-every", None, "hold out every Nth cleaned training pair (default: 23)")
    _number(parser, "--workers", None, "processes; default: one per core")


def train(parser):
    """Train one row of Table 6 by the paper's protocol, or resume it. Further options are passed to fairseq-train,
    after the row's own: the last one counts.
    """
    parser.add_argument(
        "row",
        choices=TRAINED,
        metavar="ROW",
        help=f"the system: {', '.join(SYSTEMS)}; or a variant of cgc: {', '.join(name for name in TRAINED if ROWS[name].of)}",
    )
    _path(parser, "--data", "DIR", "prepared folder", Path("data/iwslt14.de-en"))
    _path(parser, "--runs", "DIR", "the run goes to DIR/ROW-seedN", Path("runs/iwslt14"))
    _number(parser, "--seed", 1, "random seed")
    _number(parser, "--max-update", PAPER["max_update"], "updates to train for; more than a run has had continue it")
    _number(parser, "--gpus", 1, "GPUs of this machine; without any, CPU processes (gloo)")
    _number(parser, "--nodes", 1, "machines, which share a file system; run the same command on each")
    _number(parser, "--node-rank", 0, "number of this machine, from 0")
    _option(parser, "--master", "HOST:PORT", "address of the first machine")
    _number(parser, "--batch-tokens", PAPER["batch_tokens"], "tokens per update, over all devices")
    share = "tokens per device and step; default: the device's share. Gradient accumulation makes up the rest"
    _number(parser, "--max-tokens", None, share)
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="training precision")
    _number(parser, "--keep", PAPER["average"], "epoch checkpoints to keep")
    _path(parser, "--finetune-from", "MODEL", "start from this run folder's, model folder's or checkpoint's parameters")
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard logs to the run folder")


def average(parser):
    """Average the parameters of checkpoints of one model. In float64, to one checkpoint without optimizer state. The
    options are those of fairseq's script average_checkpoints.py. Checkpoints are loaded as data only; those of
    different models are refused.
    """
    _path(parser, "--inputs", "PATH", "checkpoints, or a folder of them, or a run folder", required=True, nargs="+")
    _path(parser, "--output", "FILE", "where to write the average", required=True)
    which = parser.add_mutually_exclusive_group()
    _number(which, "--num-epoch-checkpoints", None, "the last N epochs of a folder (checkpoint7.pt)")
    _number(which, "--num-update-checkpoints", None, "the last N saved between epochs (checkpoint_2_1500.pt)")
    best = "the N best (checkpoint.best_loss_3.217.pt, by whatever metric; or checkpoint_best.pt)"
    _number(which, "--num-best-checkpoints", None, best)
    _number(parser, "--checkpoint-upper-bound", None, "last epoch or update to use")


def generate(parser):
    """Average a run's checkpoints, translate a split with beam search and score it. Further options are passed to
    fairseq-generate.
    """
    _path(parser, "folder", "RUN", "a run folder, its checkpoint folder, a checkpoint or a model folder (not averaged)")
    _path(parser, "--data", "DIR", "prepared folder; default: the run's training data")
    out = "default: the split's name in the run folder; with another folder the run keeps its model"
    _path(parser, "--out", "DIR", out)
    parser.add_argument("--split", default="test", help="split to translate")
    _number(parser, "--average", None, f"number of checkpoints; default: {PAPER['average']}, or all of a shorter run")
    _by(parser, PAPER["by"], "average the last epochs, the last updates or the best")
    _number(parser, "--checkpoint-upper-bound", None, "last epoch or update to use")
    _number(parser, "--beam", PAPER["beam"], "beam size, as in the paper")
    _number(parser, "--max-tokens", 8000, "source tokens per batch")


def _by(parser, default, text):
    parser.add_argument("--by", choices=["epoch", "update", "best"], default=default, help=text)


def translate(parser):
    """Translate raw sentences. From the command line, a file or standard input, one per line, to standard output."""
    _path(parser, "model", "MODEL", "a run folder, a model folder or a checkpoint")
    parser.add_argument("sentences", nargs="*", metavar="SENTENCE", help="default: the lines of standard input")
    _path(parser, "--input", "FILE", "raw sentences to translate, one per line, plain or .gz, .bz2, .xz")
    _path(parser, "--data", "DIR", "prepared folder, for a checkpoint without dictionaries")
    _number(parser, "--beam", PAPER["beam"], "beam size")
    _number(parser, "--batch", 64, "sentences translated together")


def score(parser):
    """Score translations against a reference. Tokenised BLEU-4 (as fairseq-score counts it), sacreBLEU and chrF, each with
    its signature. Files are UTF-8 text, one sentence per line, plain or .gz, .bz2, .xz. Several systems are compared with
    the first one by paired bootstrap resampling.
    """
    _option(parser, "systems", "SYS", "file of hypotheses, - for standard input; the first is the baseline", nargs="+")
    _option(parser, "--ref", "REF", "file of references; given several times, several references", action="append")
    known = "a test set of sacreBLEU instead of --ref, such as wmt14/full; needs --language-pair"
    _option(parser, "--test-set", "NAME", known)
    _option(parser, "--language-pair", "SOURCE-TARGET", "languages of --test-set, such as de-en")
    _option(parser, "--tokenize", "NAME", "sacreBLEU's tokeniser; default: the language's (13a, zh ...)")
    parser.add_argument(
        "--tokenised",
        action="store_true",
        help="the files hold Moses tokens with spaces between them, as fairseq-generate --remove-bpe writes them; "
        "without this option, raw text",
    )
    language = "language of the files, for (de)tokenisation; default: --language-pair's target, or en"
    _option(parser, "--lang", "LANG", language)
    parser.add_argument("--lowercase", action="store_true", help="ignore case")
    _number(parser, "--samples", 1000, "bootstrap resamples")
    _number(parser, "--seed", 12345, "seed of the resampling, at least 1")
    _path(parser, "--json", "FILE", "also write all figures to this file")


def experiment(parser):
    """Train rows over seeds, translate the test split and tabulate the rows. Beam 6; the table has BLEU, loss, parameters
    and speed. Finished steps are not repeated. Further options are passed to fairseq-train, after the rows' own. The table says
    in words what each row is.
    """
    _path(parser, "--data", "DIR", "prepared folder; required without --table")
    _path(parser, "--runs", "DIR", "folder for runs and tables", Path("runs/ablations"))
    _option(
        parser,
        "--rows",
        "ROW,...",
        f"any of {', '.join(ROWS)}; or all, which leaves out transformer and rows with a loss of their own; default: "
        f"the paper's and the controls, {', '.join(PAPER_AND_CONTROLS)}",
    )
    _option(parser, "--seeds", "N,...", "random seeds", "1,2")
    parser.add_argument(
        "--small",
        action="store_true",
        help="a small model for a CPU core and some ten thousand sentences: 128 channels, 4 + 3 layers, dropout 0.1, peak "
        "rate 0.005 with cosine decay; changes the defaults below",
    )
    for name, text in (
        ("max_update", "updates of a run"),
        ("batch_tokens", "tokens per update"),
        ("average", "checkpoints to average"),
    ):
        text += f" (default: {PAPER[name]}, the paper's; {SMALL[name]} with --small)"
        _number(parser, flag(name), None, text)
    _by(parser, None, f"which checkpoints to average (default: {PAPER['by']})")
    _number(parser, "--jobs", 1, "runs at a time, each on a GPU of its own as far as there are (without --gpus)")
    _option(parser, "--corpus", "NAME", "corpus name in the table's title; default: the data folder's")
    parser.add_argument("--table", action="store_true", help="only make the table of the existing runs")


def table(parser):
    """Make Table 6 of the paper from the runs of a folder. That is table.md, table.png and curves.png, and the table on
    standard output. Runs that are missing or not finished are named under it. With --experiment, the table of an
    experiment, with the variants in it.
    """
    _path(parser, "runs", "RUNS_DIR", "folder of run folders")
    _path(parser, "--out", "DIR", "output folder; default: RUNS_DIR")
    title = "corpus name in the title; default: IWSLT'14 De-En if the data has its pairs, else the data folder's name"
    _option(parser, "--corpus", "NAME", title)
    parser.add_argument("--experiment", action="store_true", help="make an experiment's table")


def report(parser):
    """Write one HTML page about a run, two runs side by side, or an experiment. Of a run: what was trained on what, the
    learning curve, scores with intervals, BLEU by source length, the worst and the best sentences, the gates. Of two: the same
    of both, with significance, and the sentences that changed most. Of a folder of runs: the table, which sorts, and its
    plots. The page opens from disk and loads nothing.
    """
    _path(parser, "run", "RUN", "a run folder that has been translated, or an experiment's folder of runs")
    _path(parser, "other", "RUN2", "a run to hold against it", nargs="?")
    _path(parser, "--out", "FILE", "default: report.html in RUN; of two runs report-RUN2.html")


def inspect(parser):
    """Look at a trained model's gates for raw sentences. Writes gates.json and, as PNGs, the gated kernels beside the
    ungated ones (kernels.png), the gate over the taps for a few sentences (gates.png), and how much each layer's gate
    varies between sentences (variance.png); gates.md has the figures as tables. With --classes or --labels, the paper's
    analysis of classes (supplement A.1) with a permutation test (classes.png); with --pairs, a table of minimal pairs.
    """
    _path(parser, "checkpoint", "MODEL", "a run folder, a model folder or a checkpoint")
    _path(parser, "--input", "FILE", "raw sentences, one per line, plain or .gz, .bz2, .xz", nargs="+")
    _path(parser, "--out", "DIR", "output folder", Path("gates"))
    _path(parser, "--data", "DIR", "prepared folder, for a checkpoint without dictionaries")
    _option(parser, "--layers", "N,...", "layers to plot, from 1; default: all")
    _option(parser, "--heads", "N,...", "heads to plot, from 1; default: all")
    _option(parser, "--show", "N,...", "sentences of gates.png, from 1; default: five spread over the file")
    parser.add_argument(
        "--classes",
        choices=["file", "length", "question"],
        help="compare classes of sentences: the file they come from, fifths by length, questions and others",
    )
    _path(parser, "--labels", "FILE", "compare these classes: one label per line, for each sentence")
    _option(parser, "--class-layer", "N", "layer whose kernels are compared; default: the last gated one")
    _number(parser, "--permutations", 1000, "number of label permutations")
    _number(parser, "--seed", 1, "random seed of the permutations")
    _path(
        parser,
        "--pairs",
        "FILE",
        "minimal pairs, separated by a tab: reports how much each layer's gate changes, and the encoder's output at the "
        "token farthest from the difference",
    )
    _number(parser, "--batch", 64, "sentences encoded together")


def user_dir(parser):
    """Print the folder to give to fairseq's --user-dir."""


COMMANDS = {  # name to the module of its main, and what declares its options
    "quickstart": ("quickstart", quickstart),
    "prepare": ("preparation", prepare),
    "prepare-iwslt14": ("iwslt14", prepare_iwslt14),
    "train": ("training", train),
    "average": ("checkpoints", average),
    "generate": ("evaluation", generate),
    "translate": ("translate", translate),
    "score": ("scoring", score),
    "experiment": ("experiment", experiment),
    "table": ("table", table),
    "report": ("page", report),
    "inspect": ("inspection", inspect),
    "user-dir": (None, user_dir),
}
