import importlib
import logging
import sys
import warnings

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


def test_python_s_warning_of_fairseq_s_code_is_not_shown_and_one_of_the_user_s_is():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        compat.quiet_fairseq()
        for file in ("/env/fairseq/tasks/multires_hubert_pretraining.py", "/home/user/task.py"):
            warnings.warn_explicit('"is not" with a literal', SyntaxWarning, file, 154)
    assert [warning.filename for warning in shown] == ["/home/user/task.py"]


@pytest.mark.parametrize(
    "code, traceback",
    [
        ("open('missing')", False),
        ("raise FileNotFoundError('Dataset not found: dev')", False),
        ("raise Exception('Could not infer language pair')", False),
        ("raise Exception", True),
        ("raise OSError('could not get source code')", True),
        ("open('/dev/null').write('x')", True),  # somebody's programming
        ("try:\n    {}['weights']\nexcept KeyError:\n    raise Exception('cannot do it')", True),
        ("raise ValueError('x')", True),
        ("def load_checkpoint():\n    raise ValueError('nowhere.pt does not exist')\nload_checkpoint()", False),
        ("def load_checkpoint():\n    raise KeyError('x')\nload_checkpoint()", True),
        ("raise AssertionError('--sampling requires --nbest')", False),  # as if it stood in fairseq_cli
        ("assert False", True),
    ],
)
def test_what_a_user_can_mend_takes_a_line_and_the_rest_keeps_its_traceback(monkeypatch, capsys, code, traceback):
    monkeypatch.setitem(sys.modules, "fairseq_cli", sys)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    compat.explain_user_errors()
    try:
        where = {"--sampling": "fairseq_cli.generate", "load_checkpoint": "fairseq.checkpoint_utils"}
        exec(code, {"__name__": next((name for option, name in where.items() if option in code), __name__)})
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
    words = capsys.readouterr().err
    assert ("Traceback" in words) == traceback and (traceback or words.startswith("error: ") and words.count("\n") == 1)
