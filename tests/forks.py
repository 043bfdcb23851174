"""Commands of fairseq's and ours in processes of their own, without the seconds that torch and fairseq take to import."""

import faulthandler
import functools
import gc
import importlib
import logging
import os
import runpy
import signal
import subprocess
import sys
import threading
import warnings

import torch
from tqdm import tqdm

from fairseq_cgc import compat

MODULES = {"fairseq_cgc", "fairseq_cli", "torch"}  # a fork runs what is in these packages
FORKS = not torch.cuda.is_available()  # which a fork would leave broken
IMPORTED_LATE = (
    "torch._dynamo hydra.compose hydra.core.override_parser.overrides_parser sacremoses sacrebleu subword_nmt "
    "matplotlib.figure matplotlib.backends.backend_agg matplotlib.backends.backend_svg jinja2 antlr4"
)
_kept = []


@functools.cache
def _import_late():
    """Import once what each fork would import anew."""
    for name in IMPORTED_LATE.split():
        importlib.import_module(name)


class Fork(subprocess.Popen):
    """``subprocess.Popen``, which runs ``python -m MODULE`` or ``python SCRIPT`` in a fork of this process, whatever is
    imported in it.

    It has a process's standard streams, environment, working directory, signals and exit status, and starts what it
    starts in the same way. Where there is a GPU, it is ``subprocess.Popen`` alone.
    """

    def __init__(self, args, *, preexec_fn=None, pass_fds=(), env=None, **options):
        words = [str(word) for word in args if word != "-u"]
        script = words[0] == sys.executable and words[1].endswith(".py")
        if FORKS and (script or words[:2] == [sys.executable, "-m"] and words[2].partition(".")[0] in MODULES):
            _import_late()
            prepare, (name, *arguments) = preexec_fn or (lambda: None), words[1 if script else 2 :]
            run = runpy.run_path if script else functools.partial(runpy.run_module, alter_sys=True)

            def preexec_fn():  # in the fork, when streams and working directory are in place; it never returns
                prepare()
                _run_as_main(run, name, arguments, os.environ.copy() if env is None else env, pass_fds)

        super().__init__(args, preexec_fn=preexec_fn, pass_fds=pass_fds, env=env, **options)


def _run_as_main(run, name, arguments, env, pass_fds):
    """Do what a new interpreter would do, and end this process with its exit status."""
    status = 1
    try:
        _forget_the_parent(env, pass_fds)
        sys.argv = [name, *arguments]
        if name == "fairseq_cli.generate":  # which imports fairseq first, and so logs to standard error
            logging.basicConfig(level=logging.INFO)
        if name.startswith("fairseq_cli.") and "--user-dir" in arguments:  # whose import, long done, does this
            importlib.import_module("fairseq_cli")
            compat.explain_user_errors()
        run(name, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                pass
        os._exit(status)


def _forget_the_parent(env, pass_fds):
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in map(int, os.listdir("/proc/self/fd")):  # replaced, for whatever object may close them yet
        if descriptor > 2 and descriptor not in (null, *pass_fds):
            try:
                os.dup2(null, descriptor)
            except OSError:  # that of the listing
                pass
    _kept.append((sys.stdin, sys.stdout, sys.stderr))  # at their end they would write what they have buffered
    sys.stdin, sys.stdout, sys.stderr = (
        open(n, "rw"[n > 0], encoding="utf-8", errors="surrogateescape", buffering=1 if n == 2 else -1, closefd=False)
        for n in range(3)
    )
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    faulthandler.disable()
    gc.freeze()
    gc.enable()
    sys.excepthook = sys.__excepthook__
    warnings.simplefilter("ignore")  # pytest takes them
    logging.disable(logging.NOTSET)
    logging.getLogger().handlers.clear()
    tqdm.set_lock(threading.RLock())  # another thread may have held it
    subprocess.Popen = Fork
