"""A checkpoint is data: what is in one is checked before fairseq sees it, and no option in it is evaluated.

torch's weights-only loader lets nothing but tensors and plain values out of a file. That is not enough: fairseq builds
what a checkpoint's options name, and evaluates some of them as Python (``encoder_layers`` of ``fconv``,
``conv_feature_layers`` of wav2vec, ``wer_args`` of the CTC criterion, ...). So there are two guards, both Python's own audit
hook, which sees fairseq open a file and evaluate a string without a line of fairseq being changed:

* a checkpoint that fairseq is about to open is first loaded and checked here (``load_checkpoint``);
* of the strings that fairseq evaluates, from wherever they come, only literals get through.
"""

import argparse
import dis
import math
import os
import re
import sys
import traceback
import warnings
from collections import OrderedDict
from dataclasses import fields
from types import CodeType
from typing import Any

import torch

from . import checkpoint_arrays
from .compat import NEVER_SET
from .errors import CheckpointError, OptionError, UnsafeCheckpointError, UserError, flag

# What fairseq builds by the names in a checkpoint, and of these the ones whose code was read and found to open nothing
# but dictionaries, data and subword models, to start no process and to fetch nothing. Optimizers and schedulers are not
# among them: fairseq takes those from the command line alone. A plugin of your own may add its names.
HARMLESS = {
    "model": {"lightconv", "lightconv_cgc", "transformer"},  # with all their architectures
    "task": {"translation"},
    "criterion": {
        "adaptive_loss",
        "cross_entropy",
        "label_smoothed_cross_entropy",
        "label_smoothed_cross_entropy_with_alignment",
        "label_smoothed_cross_entropy_with_rdrop",
        "label_smoothed_cross_entropy_with_simcut",
    },
    "tokenizer": {"moses", "moses_cased", "moses_lowercase", "nltk", "space"},
    "eval_bleu_detok": {"moses", "moses_cased", "moses_lowercase", "nltk", "space"},
    "bpe": {"characters", "fastbpe", "sentencepiece", "subword_nmt"},
    "scoring": {"bert_score", "bleu", "chrf", "meteor", "sacrebleu", "wer"},
    "dataset_impl": {"cached", "huffman", "lazy", "mmap", "raw"},  # "fasta" hands file names to a shell
}
FETCHED = {"bpe_codes", "sentencepiece_model"}  # fairseq downloads them if they are addresses
EMBEDDINGS = {"encoder_embed_path", "decoder_embed_path"}  # fairseq reads them whatever they are
DTYPES = {torch.half, torch.bfloat16, torch.float, torch.double, torch.bool, torch.uint8, torch.int32, torch.int64}
MOST_OPTIONS, DEEPEST = 100_000, 20  # far beyond any fairseq configuration, and short of exhausting anything


def load_checkpoint(path: str | os.PathLike[str], mmap: bool = False) -> dict[str, Any]:
    """Load a fairseq checkpoint on the CPU, as data.

    Args:
        mmap: map the tensors from the file, which is to stay as it is, instead of reading them

    Returns:
        the checkpoint's dict, with ``model`` (name to tensor), ``cfg`` or ``args``, ``optimizer_history`` and
        ``extra_state``

    Raises:
        CheckpointError: missing, damaged, or no fairseq checkpoint
        UnsafeCheckpointError: it holds more than data, or its options name what is not known to be harmless
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise CheckpointError(f"the checkpoint {path} is not a file; give one, such as a model folder's model.pt")
        with open(path, "rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"  # as torch.load tells
        if is_zip and "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():
            raise UnsafeCheckpointError(f"{path} is a TorchScript program; expected a checkpoint that fairseq saved")
        if not is_zip and torch.__version__ < "2.6":
            raise CheckpointError(
                f"{path} is truncated, not a checkpoint, or from a torch before 1.6, which torch {torch.__version__} does "
                "not load safely; get or make it again, or use torch 2.6 or later"
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # of what is then refused, or was loaded
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_zip)
    except UserError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"the checkpoint {path} does not exist") from None
    except PermissionError:
        raise CheckpointError(f"the checkpoint {path} cannot be read: permission denied") from None
    except Exception as error:  # whatever torch stumbles over; its words advise to turn the safe loader off
        name = re.search(r"(?:GLOBAL |got <class ')([\w.]+)", str(error))
        if name:
            raise UnsafeCheckpointError(
                f"the checkpoint {path} was refused: it holds more than data ({name[1]}), and nothing of it was run.\n"
                "A checkpoint is only tensors and options; get it again, from a source you trust"
            ) from None
        raise CheckpointError(f"{path} is truncated, damaged or not a checkpoint; get or make it again") from None
    _check_form(path, state)
    _check_options(path, state)
    return state


def check_names(args: Any) -> None:
    """Refuse a training whose checkpoints would be refused.

    Args:
        args: its options, a namespace or fairseq's configuration of the model

    Raises:
        OptionError: one of them names what is not in ``HARMLESS``
    """
    for kind in HARMLESS.keys() - {"model"}:
        value = getattr(args, kind, None)
        if isinstance(value, str) and value not in HARMLESS[kind]:
            raise OptionError(
                f"{flag(kind)} is {value}, and this plugin would not load the checkpoints of such a training; "
                f"choose from {', '.join(sorted(HARMLESS[kind]))}, or add it to fairseq_cgc.safe_loading.HARMLESS"
            )


def keep_weights_only_loading() -> None:
    """Make every fairseq command load checkpoints as data.

    * fairseq calls ``torch.load`` without ``weights_only``. torch >= 2.6 then loads safely, older
      versions run whatever the pickle says, unless an environment variable of torch's tells them.
    * The variable that does the opposite is taken out: a checkpoint is data, always.
    * fairseq's own checkpoints hold an ``argparse.Namespace`` (the model's options), which the safe
      loader refuses until it is told that the class is harmless; and, of a training with ``--eval-bleu``, arrays.
    """
    if os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None):
        warnings.warn(
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is ignored: fairseq_cgc loads checkpoints as data only", stacklevel=2
        )
    if torch.__version__ < "2.6":
        os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.serialization.add_safe_globals([argparse.Namespace])
    checkpoint_arrays.let_through()


def guard_fairseq() -> None:
    """Check every checkpoint that fairseq opens in this process, and let it evaluate nothing but literals."""

    def hook(event, args):
        if event not in ("exec", "open"):
            return
        caller = sys._getframe().f_back  # None at an interpreter's prompt
        if caller is None or not caller.f_globals.get("__name__", "").startswith(("fairseq.", "fairseq_cli.")):
            return
        if event == "exec" and not _is_literal(args[0]):
            raise UnsafeCheckpointError(
                f"an option was refused: fairseq would run it as Python ({caller.f_code.co_name}), and it is not a literal: it "
                f"uses {', '.join(args[0].co_names) or 'a function'}; give a number or a list, for example"
            )
        if event == "open" and caller.f_code.co_name == "load_checkpoint_to_cpu":
            load_checkpoint(args[0], mmap=True)

    sys.addaudithook(hook)


def explained(error: BaseException) -> CheckpointError | None:
    """What a user can mend, where fairseq failed to build a model from a checkpoint.

    Args:
        error: an exception of fairseq's

    Returns:
        a CheckpointError of one or two lines, or None for an error that has another cause
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        place = frame.f_globals.get("__name__"), frame.f_code.co_name
        if place in BUILDING and isinstance(error, Exception) and "filename" in frame.f_locals:
            cause = error.__context__ if str(error).startswith("Cannot load model parameters") else error
            lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [""]
            if lines[0].startswith("Error(s) in loading state_dict"):
                reason = lines[1] if len(lines[1]) < 300 else f"{lines[1][:300]} ..."
                reason += f" (and {len(lines) - 2} more)" if len(lines) > 2 else ""
                return CheckpointError(f"{frame.f_locals['filename']} does not fit {BUILDING[place]}: {reason}")
            if lines[0].startswith("Model file not found"):
                return CheckpointError(f"the checkpoint {frame.f_locals['filename']} does not exist")
            reason = f"{type(cause).__name__}: {lines[0][:300]}"
            return CheckpointError(f"{frame.f_locals['filename']} cannot be used for {BUILDING[place]}: {reason}")
    return None


# The steps that Python takes to build a literal.
BUILDING_VALUES = set(
    """RESUME NOP CACHE LOAD_CONST LOAD_SMALL_INT BUILD_LIST BUILD_TUPLE BUILD_SET BUILD_MAP BUILD_CONST_KEY_MAP LIST_EXTEND
    SET_UPDATE DICT_UPDATE LIST_APPEND MAP_ADD SET_ADD UNARY_NEGATIVE BINARY_OP RETURN_VALUE RETURN_CONST""".split()
)

# Where fairseq builds a model from a checkpoint, and what of.
BUILDING = {
    ("fairseq.checkpoint_utils", "load_model_ensemble_and_task"): "the model that its options describe",
    ("fairseq.trainer", "load_checkpoint"): "the model that is being trained",
}


def _is_literal(code):
    """Whether evaluated code can only build values of a modest size: of numbers, texts and lists, by ``+``, ``-`` and ``*``.

    It names no variable, attribute or module, and holds no function.
    """
    steps = list(dis.get_instructions(code))
    size = len(steps) + sum(len(constant) for constant in code.co_consts if hasattr(constant, "__len__"))
    operators = [step.argrepr for step in steps if step.opname == "BINARY_OP"]
    times = math.prod(
        abs(step.argval)
        for step in steps
        if step.opname.startswith("LOAD") and type(step.argval) is int and step.argval
    )
    return (
        not code.co_names
        and not any(isinstance(constant, CodeType) for constant in code.co_consts)
        and all(step.opname in BUILDING_VALUES for step in steps)
        and (not operators or set(operators) <= {"+", "-", "*"} and times * size <= MOST_OPTIONS)
    )


def _check_form(path, state):
    """Raises CheckpointError if this is not the dict that fairseq saves; what fairseq never set is made zero if it is no number."""

    def refuse(found):
        raise CheckpointError(f"{path} is not a fairseq checkpoint: {found}; give one that fairseq-train saved")

    if not isinstance(state, dict):
        refuse(f"it holds a {type(state).__name__}, not a dict")
    required = {"model": dict, "optimizer_history": list, "extra_state": dict}
    optional = {"cfg": dict | None, "args": argparse.Namespace | None, "task_state": dict}
    for name, kind in {**required, **optional}.items():
        if name in required and name not in state:
            refuse(f"it lacks '{name}'")
        if name in state and not isinstance(state[name], kind):
            refuse(f"its '{name}' is a {type(state[name]).__name__}")
    if state.get("cfg") is None and state.get("args") is None:
        refuse("it lacks the options it was trained with ('cfg' or 'args')")
    if not state["model"]:
        refuse("it has no parameters")
    for name, value in state["model"].items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            refuse(f"its parameter {name!r} is a {type(value).__name__}, not a tensor")
        if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in DTYPES:
            refuse(f"its parameter {name} is {value.layout} of {value.dtype} on {value.device}")
        if value.is_floating_point() and not value.isfinite().all():
            if name.endswith(NEVER_SET):
                state["model"][name] = torch.zeros_like(value)
                continue
            raise CheckpointError(
                f"{path}: the parameter {name} holds values that are not finite (NaN or infinite): its training diverged, or it "
                "is damaged; use an earlier checkpoint"
            )
    last = state["optimizer_history"][-1:]
    if not last or not isinstance(last[0], dict) or not {"num_updates", "lr_scheduler_state"} <= last[0].keys():
        refuse("its 'optimizer_history' does not record its updates")


def _fits(value, default):
    """Whether a value is of the kind of a number or a switch that it stands for."""
    if value is None or type(default) not in (bool, int, float):
        return True
    return type(value) is bool if type(default) is bool else type(value) in (int, float)


def _check_options(path, state):
    """Raises UnsafeCheckpointError for an option that is not plain data, or names what is not known to be harmless."""
    from fairseq.dataclass.configs import GenerationConfig
    from fairseq.models import ARCH_MODEL_NAME_REGISTRY

    def refuse(found, where=()):
        option = f"its option {'.'.join(map(str, where))} " if where else ""
        raise UnsafeCheckpointError(f"the checkpoint {path} was refused: {option}{found}; nothing of it was run")

    forms = {form: state[form] for form in ("cfg", "args") if state.get(form) is not None}
    defaults = {field.name: field.default for field in fields(GenerationConfig)}
    named, count, rest = set(), 0, [((), forms)]
    while rest:
        where, value = rest.pop()
        count += 1
        if count > MOST_OPTIONS or len(where) > DEEPEST:
            refuse("is nested deeper, or larger, than any option of fairseq", where[:3])
        last = where[-1] if where else None
        kind = where[-2] if last == "_name" and len(where) > 1 else "model" if last == "arch" else last
        if type(value) in (dict, OrderedDict, argparse.Namespace) and last not in ("_name", "arch"):
            for name, inner in (vars(value) if type(value) is argparse.Namespace else value).items():
                if type(name) is not str or not re.fullmatch(r"_name|[A-Za-z]\w*", name):
                    refuse(f"has the name {str(name)[:30]!r}, which no option of fairseq has", where)
                rest.append(((*where, name), inner))
        elif type(value) in (list, tuple) and kind not in HARMLESS:
            rest.extend(((*where, number), inner) for number, inner in enumerate(value))
        elif type(value) not in (str, int, float, bool, type(None)):
            refuse(f"is a {type(value).__name__}, not plain data", where)
        elif kind in HARMLESS and value is not None:
            known = ARCH_MODEL_NAME_REGISTRY.get(value) if kind == "model" else value
            if known not in HARMLESS[kind]:
                refuse(f"is {str(value)[:60]!r}, which is not among those known to be harmless", where)
            named.add(where)
        elif type(value) is str and "${" in value:
            refuse("refers to other values (${...}), which a saved option does not", where)
        elif kind in FETCHED and type(value) is str and "://" in value:
            refuse("is an address on the network; expected a file", where)
        elif kind in EMBEDDINGS and type(value) is str and os.path.exists(value) and not os.path.isfile(value):
            refuse("is not a file", where)
        elif where[:2] == ("cfg", "generation") and not _fits(value, defaults.get(last)):
            refuse(f"is {str(value)[:60]!r}; expected a value such as {defaults[last]!r}", where)
    for group, names in (
        (("cfg", "model"), ("_name", "arch")),
        (("cfg", "task"), ("_name", "task")),
        (("args",), ("arch",)),
    ):
        if group[0] in forms and not any((*group, name) in named for name in names):
            refuse("names no architecture or task", group)
