"""Checkpoints as data: loading, averaging, and a folder that is a model complete in itself."""

import pickle
import re
import shutil
from pathlib import Path

import torch

from .compat import user_error_text
from .errors import CheckpointError
from .files import whole


def load_checkpoint(path):
    """Load a fairseq checkpoint on the CPU with torch's weights-only loader.

    Returns:
        the checkpoint's dict

    Raises:
        CheckpointError: missing, truncated, no fairseq checkpoint, or holding more than data
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"the checkpoint {path} does not exist") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {user_error_text(error)}") from None
    except Exception as error:  # whatever torch's unpickler stumbles over in a damaged file
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise CheckpointError(f"{path} is truncated or no checkpoint ({reason}); get or make it again") from None
    if not isinstance(state, dict) or "model" not in state or not (state.get("cfg") or state.get("args")):
        raise CheckpointError(f"{path} is no fairseq checkpoint: it lacks 'model' or the options it was trained with")
    return state


def epoch_checkpoints(folder, count=None):
    """The last ``count`` epoch checkpoints (``checkpoint7.pt``) of a folder, oldest first.

    Args:
        count: ``None``: all there are, be it none

    Raises:
        CheckpointError: fewer than ``count``
    """
    found = {}
    for path in Path(folder).glob("checkpoint*.pt"):
        match = re.fullmatch(r"checkpoint(\d+)\.pt", path.name)
        if match:
            found[int(match[1])] = path
    if len(found) < (count or 0):
        raise CheckpointError(
            f"{folder} has {len(found)} epoch checkpoints (checkpoint<epoch>.pt) and {count} are wanted; "
            "train longer, keep more of them (--keep-last-epochs), or ask for fewer"
        )
    return [found[epoch] for epoch in sorted(found)][-count if count else 0 :]


def average_checkpoints(paths):
    """Average the parameters of checkpoints of one model, in float64.

    Args:
        paths: at least one

    Returns:
        the last checkpoint's dict without its optimizer state, its floating-point parameters
        averaged and at least float32; other buffers are the last one's

    Raises:
        CheckpointError: unreadable, or not of one model
    """
    total, state, first = {}, None, paths[0]
    for path in paths:
        state = load_checkpoint(path)
        shapes = {name: tuple(value.shape) for name, value in state["model"].items()}
        if not total:
            expected = shapes
        elif shapes != expected:
            name = next(n for n in {**expected, **shapes} if expected.get(n) != shapes.get(n))
            raise CheckpointError(
                f"{path} and {first} are of different models: {name} is {shapes.get(name, 'not there')} in the one and "
                f"{expected.get(name, 'not there')} in the other; average checkpoints of one training run"
            )
        for name, value in state["model"].items():
            if value.is_floating_point():
                value = value.double()
                total[name] = total[name] + value if name in total else value
            else:
                total[name] = value
    for name, value in state["model"].items():
        if value.is_floating_point():
            kept = torch.float64 if value.dtype == torch.float64 else torch.float32
            state["model"][name] = (total[name] / len(paths)).to(kept)
    state.pop("last_optimizer_state", None)
    return state


def write_model(state, bin_folder, folder):
    """Write a folder that ``from_pretrained(folder)`` takes: ``model.pt`` with its dictionaries and subword model."""
    with whole(folder) as partial:
        partial.mkdir(parents=True)
        torch.save(state, partial / "model.pt")
        for file in Path(bin_folder).iterdir():
            if file.suffix not in (".bin", ".idx"):
                shutil.copyfile(file, partial / file.name)
