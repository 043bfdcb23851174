"""Child processes and workers, which end with the process that started them, however it ends."""

import ctypes
import os
import signal
import subprocess
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from math import ceil

from ..compat import USER_DIR
from ..errors import UserError

# glibc gives a large tensor pages of its own and hands them back when it is freed: getting and clearing them anew is
# a sixth of a small model's training step on a CPU (docs/speed.md). Other allocators do not read this.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
_prctl = ctypes.CDLL(None).prctl  # looked up here: not in a fork of a process that has threads


def end_with_parent(parent):
    """Have the system end this process when ``parent``, the id of its parent process, is gone."""
    _prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def child(command, environment=os.environ, **options):
    """``subprocess.Popen`` of a process that ends with us, whether we fail, are stopped or are killed.

    ``LOGLEVEL``, by which fairseq's commands may keep the figures to themselves that we read, is not passed on. Nor is anything
    imported from the current folder, which may be a checkout of another fairseq, unless we lie there.
    """
    parent, environment = os.getpid(), {**KEEP_FREED_MEMORY, **environment}
    environment.pop("LOGLEVEL", None)
    if not os.path.samefile(".", os.path.dirname(USER_DIR)):
        environment["PYTHONSAFEPATH"] = "1"
    process = subprocess.Popen(command, env=environment, preexec_fn=lambda: end_with_parent(parent), **options)
    try:
        yield process
        process.wait()
    except BaseException:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    finally:
        if process.stdout:
            process.stdout.close()


def parallel_map(function, items, workers=None, chunk=1):
    """Yield ``function(item)`` of each of a list's items, in order, from processes that end with this one.

    There are as many as ``workers``, or else as can be used, and no more than cores or items; each takes a ``chunk`` of
    items at a time. Raises UserError if one was killed.
    """
    cores = len(os.sched_getaffinity(0))
    count = min(workers or cores, cores, ceil(len(items) / chunk))
    if len(items) <= chunk:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(count, initializer=_start_worker, initargs=(os.getpid(),)) as pool:
        try:
            yield from pool.map(function, items, chunksize=chunk)
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, as happens when memory runs out; run the same command again to resume, "
                "with fewer --workers if necessary"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(parent):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(parent)
