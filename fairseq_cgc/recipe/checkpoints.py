"""Checkpoints as data: loading, averaging, and a folder that is a model complete in itself."""

import io
import re
import shutil
from pathlib import Path

import torch
from fairseq.data import Dictionary

from ..errors import CheckpointError, OptionError, check_at_least
from ..safe_loading import load_checkpoint
from .files import MARK, atomic_folder, atomic_write, check_output, sha256_of
from .run_folder import BEST, CHECKPOINTS, MODEL

POSITIONS = 1024  # of fairseq's models, unless told otherwise


# fairseq's names of checkpoints, and the number in them that orders them.
KINDS = {
    "epoch": re.compile(r"checkpoint(\d+)\.pt"),
    "update": re.compile(r"checkpoint_\d+_(\d+)\.pt"),
    "best": re.compile(r"checkpoint\.best_.+_(-?\d+\.\d{3})\d*\.pt"),
}


def find_checkpoints(folder, kind="epoch", count=None, upper_bound=None, option="--average"):
    """The last (or best) ``count`` checkpoints of a folder, oldest (or worst) first.

    Args:
        kind: ``epoch`` (``checkpoint7.pt``), ``update`` (``checkpoint_2_1500.pt``, of
            --save-interval-updates) or ``best`` (``checkpoint.best_loss_3.217.pt`` or
            ``checkpoint.best_bleu_27.310.pt``, of --keep-best-checkpoints; where there are none,
            ``checkpoint_best.pt``)
        count: ``None``: all there are, be it none
        upper_bound: the last epoch or update that counts
        option: that asks for ``count``

    Raises:
        CheckpointError: fewer than ``count``, with what there is; or best by more than one metric
        OptionError: a bound for the best
    """
    if kind == "best" and upper_bound is not None:
        raise OptionError("--checkpoint-upper-bound is for epochs or updates, not the best checkpoints; leave it out")
    folder, found = Path(folder), []
    for path in folder.glob("checkpoint*.pt"):
        match = KINDS[kind].fullmatch(path.name)
        if match and (upper_bound is None or float(match[1]) <= upper_bound):
            found.append((float(match[1]), path))
    if kind == "best" and found:
        found = [(number * _sign_of_best(path for _, path in found), path) for number, path in found]
    elif kind == "best" and (folder / BEST).is_file():
        found = [(0, folder / BEST)]
    if len(found) < (count or 0):
        names = [path.name for path in folder.glob("checkpoint*.pt")]
        there = {other: sum(map(bool, map(KINDS[other].fullmatch, names))) for other in KINDS if other != kind}
        if kind != "best" and not found and not any(there.values()):
            there["best"] = names.count(BEST)  # all that less than an epoch leaves
        others = ", ".join(f"{number} by {other}" for other, number in there.items() if number)
        raise CheckpointError(
            f"{folder} has {len(found)} {kind} checkpoints"
            + (f" up to {upper_bound}" if upper_bound is not None else "")
            + f" and {count} are needed"
            + (f" (and {others}): " if others else ": ")
            + (f"give {option} {len(found)}, or " if found else "choose another kind, or " if others else "")
            + "train longer and keep more (--keep-last-epochs, --keep-interval-updates, --keep-best-checkpoints)"
        )
    return [path for _, path in sorted(found)][-count if count else 0 :]


def _sign_of_best(paths):
    """1 if the checkpoints' metric is the better the higher, else -1."""
    paths = {re.match(r"checkpoint\.best_(.+)_", path.name)[1]: path for path in paths}
    if len(paths) > 1:
        raise CheckpointError(
            f"{next(iter(paths.values())).parent} has the best checkpoints by {' and by '.join(sorted(paths))}; name the "
            "ones you mean to fairseq-cgc average"
        )
    [(metric, path)] = paths.items()
    if metric.endswith(("loss", "ppl")):
        return -1
    try:
        return 1 if load_checkpoint(path)["cfg"]["checkpoint"]["maximize_best_checkpoint_metric"] else -1
    except (KeyError, TypeError):
        raise CheckpointError(f"{path} does not say if a higher {metric} is better; name those to average") from None


def updates_of(state, path):
    """How many updates the model of a training checkpoint had. Raises CheckpointError if it does not say."""
    try:
        return int(state["optimizer_history"][-1]["num_updates"])
    except (KeyError, IndexError, TypeError, ValueError):
        raise CheckpointError(f"{path} does not record its number of updates; train again") from None


def average_checkpoints(paths):
    """Average the parameters of checkpoints of one model, in float64; there is one at least.

    Returns the last checkpoint's dict without its optimizer state: floating-point parameters averaged and at least
    float32, other buffers the last one's. Raises CheckpointError for what is unreadable, or not of one model.
    """
    if not paths:
        raise CheckpointError("there are no checkpoints to average")
    total, expected = {}, None
    for path in paths:
        state = load_checkpoint(path)
        found = model_options(state), {name: tuple(value.shape) for name, value in state["model"].items()}
        expected = expected or found
        for here, there, missing in zip(found, expected, (None, "not there")):
            if here != there:
                name = next(n for n in {**there, **here} if there.get(n) != here.get(n))
                raise CheckpointError(
                    f"{path} and {paths[0]} are of different models: {name} is {here.get(name, missing)} in the one and "
                    f"{there.get(name, missing)} in the other; average checkpoints of one training run"
                )
        for name, value in state["model"].items():
            if value.is_floating_point():
                value = value.double()
                total[name] = total[name] + value if name in total else value
    for name, value in state["model"].items():
        if value.is_floating_point():
            dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
            state["model"][name] = (total[name] / len(paths)).to(dtype)
    state.pop("last_optimizer_state", None)
    return state


def _options(state):
    options = (state.get("cfg") or {}).get("model") or state["args"]
    return options if isinstance(options, dict) else vars(options)


def model_options(state):
    """The options in a checkpoint that decide what its parameters compute."""
    return {
        name: value
        for name, value in _options(state).items()
        if name == "arch" or name.startswith(("cgc_", "encoder_", "decoder_", "share_", "weight_softmax"))
    }


def position_limit(state):
    """Tokens of the longest sentence that a checkpoint's model takes, on either side."""
    return max(_options(state).get(f"max_{side}_positions") or POSITIONS for side in ("source", "target"))


def count_parameters(state):
    """Parameters of the model in what ``load_checkpoint`` returns, shared embeddings counted once."""
    options = _options(state)
    shares_all = options.get("share_all_embeddings", False)
    copies = set()
    if shares_all or options.get("share_decoder_input_output_embed", False):
        copies.add("decoder.output_projection.weight")
    if shares_all:
        copies.add("decoder.embed_tokens.weight")
    return sum(
        value.numel()
        for name, value in state["model"].items()
        if name not in copies and "version" not in name and "_float_tensor" not in name
    )


def check_dictionaries(state, bin_folder, source_lang, target_lang):
    """Raises CheckpointError if the dictionaries are not of the size that the model was trained with."""
    for side, language in (("encoder", source_lang), ("decoder", target_lang)):
        file = Path(bin_folder) / f"dict.{language}.txt"
        entries, embeddings = len(Dictionary.load(str(file))), state["model"].get(f"{side}.embed_tokens.weight")
        if embeddings is None or embeddings.dim() != 2:
            raise CheckpointError(f"the checkpoint has no embeddings of words in its {side}; give a translation model")
        rows = embeddings.size(0)
        if entries != rows:
            raise CheckpointError(
                f"{file} has {entries} entries and the model's {side} was trained with {rows}: this is not the model's data "
                "folder; give the one it was trained on, or prepare the text with its vocabulary"
            )


def save_checkpoint(state, path):
    """Write a checkpoint, whole or not at all."""
    with atomic_write(path) as partial:
        _save(state, partial)


def _save(state, path):
    """By way of memory: torch hides what the system says of a write that failed, such as a full disk."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    Path(path).write_bytes(buffer.getbuffer())


def write_model(state, bin_folder, folder, **facts):
    """Write a folder that ``from_pretrained(folder)`` takes: ``model.pt`` with its dictionaries and subword model.

    ``facts`` go into the folder's mark.
    """
    with atomic_folder(folder, "model", **facts) as partial:
        _save(state, partial / MODEL)
        for file in Path(bin_folder).iterdir():
            if file.is_file() and file.suffix not in (".bin", ".idx") and file.name != MARK:
                shutil.copyfile(file, partial / file.name)


def main(args):
    """``fairseq-cgc average``."""
    counts = {kind: getattr(args, f"num_{kind}_checkpoints") for kind in KINDS}
    asked = {kind: count for kind, count in counts.items() if count is not None}
    folders = [path for path in args.inputs if path.is_dir()]
    paths = args.inputs
    if not asked and args.checkpoint_upper_bound is not None:
        raise OptionError(
            "--checkpoint-upper-bound is for --num-epoch-checkpoints or --num-update-checkpoints; give one, or leave it out"
        )
    if not asked and folders:
        raise OptionError(f"{folders[0]} is a folder; choose among its checkpoints, as with --num-epoch-checkpoints N")
    for kind, count in asked.items():  # one at most
        option = f"--num-{kind}-checkpoints"
        check_at_least(1, **{f"num_{kind}_checkpoints": count})
        if len(args.inputs) != 1 or not folders:
            raise OptionError(f"{option} needs --inputs to be one existing folder")
        [folder] = args.inputs
        folder = folder / CHECKPOINTS if (folder / CHECKPOINTS).is_dir() else folder  # of a run
        paths = find_checkpoints(folder, kind, count, args.checkpoint_upper_bound, option)
    check_output(args.output, "--output", paths)
    print("average of", *map(str, paths))
    state = average_checkpoints(paths)
    named = len({path.name for path in paths}) < len(paths)  # alike, in several folders
    state["extra_state"]["average_of"] = {str(path) if named else path.name: sha256_of(path) for path in paths}
    save_checkpoint(state, args.output)
    print(f"-> {args.output}")
