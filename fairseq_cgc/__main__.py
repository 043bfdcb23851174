"""``python -m fairseq_cgc`` prints the path to give to ``--user-dir``."""

from .compat import USER_DIR

print(USER_DIR)
