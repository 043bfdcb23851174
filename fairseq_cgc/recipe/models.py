"""Which model a path means: every command that takes one takes a run folder, a model folder or a checkpoint."""

import sys
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import CheckpointError
from ..lightconv_cgc import LightConvCGCModel
from ..text import HUB_NAMES, PREPARATION
from .checkpoints import find_checkpoints
from .files import read_json, sha256_of, usable_path
from .rows import PAPER
from .run_folder import BEST, CHECKPOINTS, LAST, MODEL, MODEL_FOLDER, RECORD, RUN


class Place(NamedTuple):
    """Where a path leads.

    Attributes:
        run: the run folder that it is, or lies in; otherwise the path's own folder
        model: the folder of a ready model, or None
        checkpoints: the folder of checkpoints, or None
        checkpoint: the one that was named, or None
    """

    run: Path
    model: Path | None = None
    checkpoints: Path | None = None
    checkpoint: Path | None = None


def locate(path):
    """The ``Place`` of a path.

    Raises CheckpointError for what is neither a file nor a folder with a model, a run or checkpoints in it.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give a run folder, a model folder or a checkpoint")
    near = [path, *list(path.absolute().parents)[:2]]
    run = next((folder for folder in near if (folder / RUN).is_file()), path if path.is_dir() else path.parent)
    if path.is_file():
        if path.name == MODEL:
            return Place(run, model=path.parent)
        return Place(run, checkpoints=path.parent, checkpoint=path)
    if (path / MODEL).is_file():
        return Place(run, model=path)
    model, checkpoints = path / MODEL_FOLDER, path / CHECKPOINTS
    if not checkpoints.is_dir() and any(path.glob("checkpoint*.pt")):
        checkpoints = path
    place = Place(run, model if (model / MODEL).is_file() else None, checkpoints if checkpoints.is_dir() else None)
    if place.model is None and place.checkpoints is None:
        raise CheckpointError(f"{path} holds no model and no checkpoints; give a run folder or a model folder")
    return place


def data_of(place):
    """The folder of a preparation that the run of a ``Place`` was trained on, or None."""
    record = place.run / RUN
    return Path(read_json(record, RECORD)["data"]["path"]) if record.is_file() else None


def check_vocabulary(run, folder):
    """Raises CheckpointError if a ``bin`` has other dictionaries or another subword model than a run's data had."""
    for name, digest in read_json(run / RUN, RECORD)["data"]["sha256"].items():
        if name.endswith((".bin", ".idx")):  # the text, which need not be the run's
            continue
        file = folder / HUB_NAMES.get(name, name)
        found = sha256_of(file) if file.is_file() else "none"
        if found != digest:
            raise CheckpointError(
                f"{folder} and the data that {run} was trained on differ in {name} (SHA-256 {found[:12]} and {digest[:12]}): "
                "prepare the text with the run's vocabulary, --vocabulary-of"
            )


def checkpoints_to_average(folder, by, asked, upper_bound=None):
    """The last checkpoints of a kind, as many as are asked for; see ``find_checkpoints``.

    None asks for the protocol's number, or what a short run has left, aloud. Raises CheckpointError if there are fewer,
    with what there is.
    """
    wanted = asked or PAPER["average"]
    found = find_checkpoints(folder, by, asked, upper_bound)[-wanted:]
    if not found and (upper_bound is not None or not (folder / LAST).is_file()):
        find_checkpoints(folder, by, wanted, upper_bound)  # says what there is
    if len(found) < wanted:
        instead = f"averaging the {len(found)} there" if found else f"using {LAST}"
        print(f"    {folder} has fewer than {wanted} {by} checkpoints; {instead}", flush=True)
    return found or [folder / LAST]


def load_hub(path, data=None):
    """The model that a path means, with its dictionaries and text handling, on the GPU where there is one.

    Of a run folder it is the averaged model, if there is one, and else the best checkpoint, which is said.

    Args:
        path: a run folder, a model folder, or a checkpoint
        data: the prepared folder; default: the dictionaries beside the model, or those of its run

    Returns:
        fairseq.hub_utils.GeneratorHubInterface

    Raises:
        CheckpointError: there is no model, or its dictionaries are nowhere to be found
        UserError: a path that fairseq could not tell from others
    """
    place = locate(path)
    file = place.model / MODEL if place.model else place.checkpoint
    if file is None:
        file = next((f for f in (place.checkpoints / BEST, place.checkpoints / LAST) if f.is_file()), None)
        if file is None:
            raise CheckpointError(f"{place.checkpoints} has neither {BEST} nor {LAST}; name a checkpoint")
        print(f"{path} has no averaged model (fairseq-cgc generate makes it): using {file}", file=sys.stderr)
    file = usable_path(file, "the model")
    folder = file.parent if data is None else Path(data)
    if data is None and not list(folder.glob("dict.*.txt")):
        folder = data_of(place) or folder
    folder = folder / "bin" if (folder / "bin").is_dir() else folder
    if not list(folder.glob("dict.*.txt")):
        raise CheckpointError(f"{folder} has no dictionaries (dict.*.txt); give the prepared folder with --data")
    folder = usable_path(folder.resolve(), "the prepared folder")
    if data is not None and (place.run / RUN).is_file():
        check_vocabulary(place.run, folder)
    if not (folder / PREPARATION).is_file():
        print(f"{folder} has no {PREPARATION}: sentences are taken as tokens and subwords already", file=sys.stderr)
    hub = LightConvCGCModel.from_pretrained(str(file.parent), file.name, str(folder))
    return hub.cuda() if torch.cuda.is_available() else hub
