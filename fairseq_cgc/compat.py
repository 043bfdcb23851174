"""What torch's and fairseq's versions make necessary, each quirk with its reason.

Nothing of fairseq or torch is patched; what cannot be set through their own switches is left alone.
"""

import argparse
import copyreg
import importlib.util
import logging
import os
import pickle
import sys
import warnings
from traceback import walk_tb

from .errors import UserError

USER_DIR = os.path.dirname(os.path.abspath(__file__))  # what to give to --user-dir
FAIRSEQ = "ve-fairseq==0.12.3"

# fairseq drops the last batch of every pass over the data, without a word, if the number of its
# sentences is no multiple of 8 (data_utils.batch_by_size): the longest sentences in training and
# validation, and up to 7 of a test set, or all of a small one, when generating.
EVERY_SENTENCE = ["--required-batch-size-multiple", "1"]

# fairseq forms its batches once a process, seeded by the seed and the epoch it starts in
# (FairseqTask.get_batch_iterator): a training resumed in a later epoch would see other batches than
# one that was never stopped. With this it forms them anew for each epoch, resumed or not.
SAME_BATCHES_WHEN_RESUMED = ["--update-epoch-batch-itr", "True"]

# fairseq divides the data's path, and that of models, and hands every option to Hydra as text between quotes, in which it fills in
# variables: a folder may come out as another one.
MEANS_MORE_IN_A_PATH = {os.pathsep: "separates paths", "${": "begins a variable", "\\'": "ends a text"}

# A sentence beyond the model's position limit, in a validation or test set, ends fairseq otherwise.
SKIP_TOO_LONG = ["--skip-invalid-size-inputs-valid-test"]

# Of several devices fairseq lets the first read the checkpoint and broadcasts it to the others, as a pickle
# that the weights-only loader refuses: each reads it for itself.
EACH_DEVICE_LOADS = ["--load-checkpoint-on-all-dp-ranks"]

# fairseq-train takes every GPU that it sees, each with batches of its own, unless it is told how many to take. One that is alone
# is the one that a variable of torchrun's (LOCAL_RANK) names, whoever left it there.
WORLD_SIZE = "--distributed-world-size"
ONE_DEVICE = [WORLD_SIZE, "1", "--device-id", "0"]

# fairseq starts a data loader's worker process for each epoch, from a thread; with Python 3.11 and
# torch 2.13 each takes seconds to end, in which nothing trains (20 epochs of one update: 8 s without
# workers, 64 s with one). fairseq reads ahead in a thread of its own anyway.
NO_WORKERS = ["--num-workers", "0"]

# fairseq's dynamic convolution has a bias that LightConv's models never use, nor set: it holds whatever
# memory held, which may be no number.
NEVER_SET = ".conv.conv_bias"

# Where fairseq refuses options, such as a model to refine that is not there, or embeddings to share of two dictionaries:
# (module, function) to its exception.
OPTIONS_REFUSED_IN = {
    ("fairseq.checkpoint_utils", "load_checkpoint"): ValueError,
    ("fairseq.models.lightconv", "build_model"): RuntimeError,
}


def require_environment() -> None:
    """Say what is missing before an import fails for a reason that nobody understands.

    fairseq 0.12.2 does not import on Python >= 3.11, and the wheels of the one that does are for
    3.11 and 3.12.

    Raises:
        ImportError: an unsupported Python, or no fairseq
    """
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        raise ImportError(
            f"fairseq_cgc runs on Python 3.11 and 3.12, for which {FAIRSEQ} has wheels, and this is Python "
            f"{sys.version.split()[0]}; create an environment with one of them"
        )
    if importlib.util.find_spec("fairseq") is None:
        raise ImportError(f"fairseq_cgc is a plugin of fairseq, which is not installed; pip install {FAIRSEQ}")


def quiet_fairseq() -> None:
    """Import fairseq without its remarks that are of no use here, and leave logging as it was found.

    * On import it advises to install tensorboardX, for a speech task.
    * Its import sets the root logger to DEBUG, and torch and matplotlib tell of every step. In fairseq's own commands,
      which have imported it before they import us, logging is theirs.
    * It asks for pinned memory whether or not there is an accelerator, and torch warns.
    * One of its files has a mistake of which Python tells whenever it compiles it: at every start where bytecode cannot be written.
    """
    warnings.filterwarnings("ignore", category=SyntaxWarning, module=r".*fairseq.tasks.multires_hubert_pretraining")
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*'pin_memory' argument is set as true but no accelerator")
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    import fairseq  # noqa: F401

    root.setLevel(level)
    root.handlers[:] = handlers


def explain_user_errors() -> None:
    """Let fairseq's commands end with one- or two-line errors instead of a traceback.

    fairseq's commands let exceptions through to the interpreter, so that a wrong option would be
    explained under thirty lines of traceback. What a user can mend, the system says by an OSError with a number, and
    fairseq by a FileNotFoundError (a split that is not there), by an Exception of no kind of its own (a folder without
    data, a sentence that is too long), or where it looks at options, by ``OPTIONS_REFUSED_IN``. Only in
    fairseq's own commands: an importing program keeps its ``sys.excepthook``.
    """
    if "fairseq_cli" not in sys.modules:
        return
    previous = sys.excepthook

    def hook(kind, error, traceback):
        from .safe_loading import explained

        if not isinstance(error, UserError):
            error = explained(error) or error
        if isinstance(error, pickle.UnpicklingError):  # of torch's loader, whose words advise to turn it off
            error = UserError(
                "a file was refused: it holds more than data, or is damaged; get it again, from a source you trust"
            )
        at = [(f.f_globals.get("__name__", ""), f.f_code.co_name) for f, _ in walk_tb(traceback)] or [("", "")]
        refusal = type(error) in (Exception, OPTIONS_REFUSED_IN.get(at[-1]))
        check = type(error) is AssertionError and at[-1][0].startswith("fairseq_cli.")  # of a command's options
        of_fairseq = (refusal or check) and str(error) and error.__context__ is None
        if of_fairseq or isinstance(error, FileNotFoundError) or isinstance(error, OSError) and error.errno:
            error = UserError(error)
        if isinstance(error, UserError):
            sys.stdout.flush()
            print(f"error: {error}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    sys.excepthook = hook


def let_tasks_be_copied() -> None:
    """A task's state cannot be copied or pickled: while it is being made it has no ``_state`` yet, and looks for it in
    itself without end. Python's registry of such cases says to make an empty one first, and then to fill it."""
    from fairseq.tasks.fairseq_task import StatefulContainer

    copyreg.pickle(StatefulContainer, lambda state: (type(state), (), vars(state)))


def trainer_options(args):
    """The options of the training that a model is built for.

    fairseq's command line puts them into the model's namespace. With Hydra the model's are one part of a configuration,
    which knows what it is a part of.
    """
    from omegaconf import OmegaConf

    config = args._get_parent() if OmegaConf.is_config(args) else None
    if config is None:
        return args
    parts = (dict(config.get(part) or {}) for part in ("common", "dataset", "distributed_training", "task"))
    names = {
        part: (config.get(part) or {}).get("_name") for part in ("task", "criterion", "optimizer", "tokenizer", "bpe")
    }
    return argparse.Namespace(**{name: value for part in parts for name, value in part.items()} | names)


def untyped(cfg):
    """fairseq's options without its types of choices, of which pickle finds no definition."""
    from omegaconf import OmegaConf

    if not OmegaConf.is_config(cfg):
        return cfg
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True), flags={"allow_objects": True})


def refuse_training(mode: bool = True) -> None:
    """In the place of the ``train`` of a model made ready for translation: fairseq's refuses too, but is a function
    inside a function, which cannot be pickled."""
    if mode:
        raise RuntimeError("the models of a hub interface have been prepared for translation and cannot be trained")
