"""``fairseq-train`` as one of several processes that torchrun has started.

fairseq recognises torchrun by its environment variables, but divides by the number of GPUs there
(``_infer_torch_distributed_launch_init``), which is zero on a CPU. Told everything by options, it
does not look, and trains on CPUs over gloo as it does on GPUs over NCCL.
"""

import logging
import os
import sys

import torch


def distributed_options(environment, cuda):
    """fairseq's options for the process that torchrun's variables describe.

    The environment has ``RANK`` and ``LOCAL_RANK``; ``cuda`` tells whether there are GPUs. How many processes there are, our
    command says (``training.launcher``).
    """
    options = ["--distributed-init-method", "env://", "--distributed-no-spawn"]
    options += ["--distributed-rank", environment["RANK"], "--device-id", environment["LOCAL_RANK"]]
    # torch's own DistributedDataParallel, fairseq's default, stops at a parameter that has no part in the loss, as fairseq's
    # dynamic convolutions have one each, and is given a device number, which a CPU has not.
    options += ["--ddp-backend", "legacy_ddp"]
    return options if cuda else [*options, "--cpu", "--distributed-backend", "gloo"]


if __name__ == "__main__":
    # Importing fairseq before its command leaves the root logger with another format than the command's.
    logging.getLogger().handlers.clear()
    from fairseq_cli.train import cli_main

    from ..compat import explain_user_errors

    explain_user_errors()
    sys.argv[1:1] = distributed_options(
        os.environ, torch.cuda.is_available()
    )  # before what was asked for, which counts
    cli_main()
