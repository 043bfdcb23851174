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
    if not cuda:
        # torch's own DistributedDataParallel, fairseq's default, is given a device number, which a CPU has not.
        options += ["--cpu", "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp"]
    return options


if __name__ == "__main__":
    # Importing fairseq before its command leaves the root logger with another format than the command's.
    logging.getLogger().handlers.clear()
    from fairseq_cli.train import cli_main

    from ..compat import explain_user_errors

    explain_user_errors()
    sys.argv += distributed_options(os.environ, torch.cuda.is_available())
    cli_main()
