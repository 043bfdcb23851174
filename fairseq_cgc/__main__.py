"""``python -m fairseq_cgc COMMAND`` is ``fairseq-cgc COMMAND``; without one it prints the path to give to ``--user-dir``."""

import sys

from .recipe.interrupts import ending_at_once


def main(argv=None):
    """``fairseq-cgc``; ``argv`` as in ``sys.argv[1:]``."""
    with ending_at_once():
        from .recipe import command_line
    command_line.main(argv)


if __name__ == "__main__":
    main(sys.argv[1:] or ["user-dir"])
