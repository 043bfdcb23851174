import importlib
import logging
import sys

import pytest

from fairseq_cgc import compat


@pytest.mark.parametrize("imported_before", [False, True])
def test_fairseq_s_import_leaves_logging_as_it_was_found(tmp_path, monkeypatch, imported_before):
    """A fairseq that was imported before us, as in its own commands, has set logging as it wants it."""
    (tmp_path / "fairseq.py").write_text(
        "import logging\nlogging.root.setLevel('DEBUG')\nlogging.root.addHandler(logging.NullHandler())"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fairseq")
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.ERROR)
    if imported_before:
        importlib.import_module("fairseq")
    compat.quiet_fairseq()
    found = logging.root.level, len(logging.root.handlers)
    assert found == ((logging.DEBUG, 1) if imported_before else (logging.ERROR, 0))
