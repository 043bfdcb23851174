"""``fairseq-train`` as one of several processes that torchrun has started.

fairseq recognises torchrun by its environment variables, but divides by the number of GPUs there
(``_infer_torch_distributed_launch_init``), which is zero on a CPU. Told everything by options, it
does not look, and trains on CPUs over gloo as it does on GPUs over NCCL.
"""

import logging
import os
import sys

import torch

from .processes import end_with_parent

# torch's DistributedDataParallel, fairseq's default, stops at a parameter that has no part in the loss, as fairseq's dynamic
# convolutions have one each.
LEGACY = ["--ddp-backend", "legacy_ddp"]


def distributed_options(environment, cuda):
    """fairseq's options for the process that torchrun's variables describe.

    The environment has ``RANK`` and ``LOCAL_RANK``; ``cuda`` tells whether there are GPUs. How many processes there are, our
    command says (``training.launcher``).
    """
    options = ["--distributed-init-method", "env://", "--distributed-no-spawn"]
    options += ["--distributed-rank", environment["RANK"], "--device-id", environment["LOCAL_RANK"]]
    if not cuda:  # which has no device number, as torch's own DistributedDataParallel is given
        options += ["--cpu", "--distributed-backend", "gloo", *LEGACY]
    return options


if __name__ == "__main__":
    end_with_parent(os.getppid())  # torchrun, which passes on neither the run's lock nor its own end if it is killed
    # Importing fairseq before its command leaves the root logger with another format than the command's.
    logging.getLogger().handlers.clear()
    from fairseq_cli.train import cli_main

    from ..compat import explain_user_errors

    explain_user_errors()
    # What was asked for counts more than what stands before it, and less than what stands behind.
    sys.argv = [sys.argv[0], *LEGACY, *sys.argv[1:], *distributed_options(os.environ, torch.cuda.is_available())]
    cli_main()
