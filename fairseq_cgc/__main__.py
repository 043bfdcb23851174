"""``python -m fairseq_cgc COMMAND`` is ``fairseq-cgc COMMAND``; without one it prints the path to give to ``--user-dir``."""

import sys

from .recipe.command_line import main

if __name__ == "__main__":
    main(sys.argv[1:] or ["user-dir"])
