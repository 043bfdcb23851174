"""Context-gated convolution for machine translation, as a fairseq plugin.

This module is what ``--user-dir`` imports: it registers the architectures ``lightconv_cgc*`` and ``lightconv_gct``
and the optimizer ``cgc_adam``.
"""

import sys
from pathlib import Path

__version__ = "0.2.0"


def _is_the_command_line():
    """Whether this is the first import of ``fairseq-cgc`` or ``python -m fairseq_cgc``.

    Their ``--help`` answers at once, without torch; they import ``plugin`` when a command starts. While Python looks for
    the module of ``-m``, ``sys.argv[0]`` is "-m".
    """
    if sys.argv[:1] == ["-m"] and "-m" in sys.orig_argv:
        return sys.orig_argv[sys.orig_argv.index("-m") + 1] == __name__
    return bool(sys.argv) and Path(sys.argv[0]).name == "fairseq-cgc"


if not _is_the_command_line():
    from .plugin import *
    from .plugin import __all__  # noqa: F401
