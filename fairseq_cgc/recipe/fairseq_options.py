"""fairseq's options, as words of its commands: what they say, what is decided here, and what is refused before any work."""

import contextlib
import io
import logging
import math
import re
import textwrap

from fairseq import options as fairseq_options

from ..errors import OptionError, UserError
from ..options import LARGEST_POOL_FACTOR
from .rows import PAPER

# What a number of fairseq's can be at all: others end in its tracebacks, or train or translate to no purpose.
LIMITED = {
    (0, 1): "--dropout --attention-dropout --activation-dropout --relu-dropout --input-dropout --weight-dropout "
    "--label-smoothing --encoder-layerdrop --decoder-layerdrop --simcut-p",
    (0, 1e9): "--lr --weight-decay --clip-norm --warmup-updates --warmup-init-lr --rdrop-alpha --adam-betas --adam-eps "
    "--cgc-lr-scale --simcut-alpha",
    (1, 1e9): "--max-source-positions --max-target-positions --update-freq --max-tokens",
    (-math.inf, math.inf): "--lenpen --unkpen --max-len-a",  # not nan
    (0, LARGEST_POOL_FACTOR): "--cgc-pool-factor",  # the model says its own least
}
RANGES = {name: limits for limits, names in LIMITED.items() for name in names.split()}

# Options of fairseq-train that decide how long it trains, as --max-update does, and nothing else.
LIMITS = "--max-epoch --patience --stop-time-hours --stop-min-lr".split()
# Those that decide what of a training is written, or where in its epoch a resumed one goes on; and the metric, which decides
# the rate too of the scheduler that waits.
WRITTEN = """--save-interval --save-interval-updates --keep-interval-updates --keep-best-checkpoints --no-epoch-checkpoints
    --log-interval --reset-dataloader""".split()
WAITING = "reduce_lr_on_plateau"
BEST_BY = "--best-checkpoint-metric --maximize-best-checkpoint-metric".split()
# Those that ``train_command`` decides.
DECIDED = """--update-freq --keep-last-epochs --save-dir --num-workers --log-format --required-batch-size-multiple
    --update-epoch-batch-itr --source-lang --target-lang --max-tokens-valid --distributed-world-size --device-id""".split()
# What to give instead of options of fairseq-train's that are decided here.
INSTEAD = {
    "--update-freq": "give --batch-tokens, and --max-tokens for smaller pieces",
    "--keep-last-epochs": "give --keep",
    "--save-dir": "give --runs",
    "--distributed-world-size": "give --gpus and --nodes",
}
# Other names of fairseq's for options.
ALIASES = {"-a": "--arch", "-s": "--source-lang", "-t": "--target-lang", "--post-process": "--remove-bpe"}


def option_groups(options):
    """What fairseq-train makes of its options where they are given twice: dict of name to the last time's words."""
    groups = {}
    for word in options:
        if re.match("--?[A-Za-z]", word):
            name = _name_and_value(word)[0]
            groups.pop(name, None)  # it stands where it stood last
            groups[name] = [word]
        elif groups:
            groups[name].append(word)
    return groups


def option_values(options):
    """Dict of each option's name to its value that counts, as text; ``on`` for a switch."""
    values = {}
    for name, (first, *rest) in option_groups(options).items():
        values[name] = " ".join([*_name_and_value(first)[1].split(), *rest]) or "on"
    return values


def _name_and_value(word):
    """An option's name, and what stands in the same word: ``--lr=1``, ``-s=de``, ``-sde``."""
    if word[:2] in ALIASES:
        return ALIASES[word[:2]], word[2:].removeprefix("=")
    name, _, value = word.partition("=")
    return ALIASES.get(name, name), value


def without_limits(options):
    """Options of fairseq-train but those that decide how long it trains, or what is written."""
    waits = option_values(options).get("--lr-scheduler") == WAITING
    left_out = (*LIMITS, *WRITTEN, *BEST_BY * (not waits))
    return [word for name, group in option_groups(options).items() if name not in left_out for word in group]


def refuse_overridden(asked, command):
    """Raises OptionError for the first of the options that are asked for of which a command makes something else."""
    decided = option_values(command)
    for name, value in option_values(asked).items():
        if decided.get(name, value) != value:
            instead = INSTEAD.get(name, "leave it out")
            raise OptionError(f"{name} is decided by this command: {decided[name]}, and not {value}; {instead}")


def batch_options(devices, max_tokens=None, batch_tokens=PAPER["batch_tokens"]):
    """The same tokens an update whatever the hardware: gradient accumulation makes up the difference.

    Args:
        devices: how many train together
        max_tokens: that one device takes at a time; default: all of its share
        batch_tokens: of an update, over all devices

    Raises:
        OptionError: the tokens cannot be divided so
    """
    if devices < 1:
        raise OptionError(f"the number of devices is {devices}; it must be at least 1")
    share, rest = divmod(batch_tokens, devices)
    if rest or not share:
        raise OptionError(
            f"{batch_tokens} tokens per update cannot be divided among {devices} devices; choose a number of devices that "
            "divides them"
        )
    max_tokens = share if max_tokens is None else max_tokens
    if max_tokens < 1 or share % max_tokens:
        raise OptionError(
            f"--max-tokens {max_tokens} does not divide the {share} tokens that each of {devices} devices takes per update "
            f"({batch_tokens} in all); choose a divisor of {share}"
        )
    return ["--max-tokens", str(max_tokens), "--update-freq", str(share // max_tokens)]


def precision_options(precision, cuda):
    """fairseq-train's options for ``fp32``, ``fp16`` or ``bf16``. Raises OptionError if the hardware does not allow it."""
    if precision == "fp32":
        return []
    if not cuda:
        raise OptionError(f"--precision {precision} needs a GPU, and torch sees none; use fp32")
    return [f"--{precision}"]


def check_numbers(options):
    """Raises OptionError for the first of fairseq's options whose value no training or translation can have."""
    values = option_values(options)
    if values.get("--lr-scheduler") == "inverse_sqrt" and values.get("--warmup-updates") == "0":
        raise OptionError("--warmup-updates is 0; with --lr-scheduler inverse_sqrt it must be at least 1")
    for name, text in values.items():
        least, most = RANGES.get(name, (None, None))
        for part in text.strip("[]() ").split(",") if name in RANGES and text != "on" else ():
            try:
                value = float(part)
            except ValueError:
                raise OptionError(f"{name} is {text}; expected a number") from None
            if not least <= value <= most:
                raise OptionError(f"{name} is {text}; it must be from {least:g} to {most:g}")


def check_words(words, command="train"):
    """Raises OptionError for words that fairseq-train does not take, or options of which it makes no model.

    ``command`` is ``generate`` for fairseq-generate's words.
    """
    parsers = {"train": fairseq_options.get_training_parser, "generate": fairseq_options.get_generation_parser}
    said, parser, before = io.StringIO(), parsers[command](), logging.root.manager.disable
    logging.disable(logging.WARNING)  # which it will give itself
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            fairseq_options.parse_args_and_arch(parser, words)
    except UserError:
        raise
    except SystemExit:
        reason = said.getvalue().rpartition("error: ")[2]
    except (ValueError, SyntaxError) as error:
        reason = str(error)
    except Exception as error:  # of what --user-dir names
        reason = f"{type(error).__name__}: {error}"
    else:
        return
    finally:
        logging.disable(before)
    raise OptionError(f"fairseq-{command} would refuse this: {textwrap.shorten(reason, 200, placeholder=' ...')}")
