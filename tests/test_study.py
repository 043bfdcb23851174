"""What the study's own scripts make."""

import runpy
import sys

from conftest import ROOT, run

from fairseq_cgc.recipe.files import read_lines, write_lines

SCRIPT = ROOT / "examples" / "study" / "split_libreoffice.py"


def test_the_parts_of_a_split_share_no_sentence_and_lose_only_pairs_that_do():
    split = runpy.run_path(str(SCRIPT))["split"]
    pairs = [(f"de{number // 2}", f"en{number % 1500}") for number in range(6000)]
    parts = split([*pairs, *pairs[:7]])
    assert [len(parts[name]) for name in ("test", "valid")] == [1000, 1000] and parts["test"] == pairs[:1000]
    sides = {name: {side for pair in part for side in pair} for name, part in parts.items()}
    assert not (sides["test"] & sides["valid"] or sides["train"] & (sides["test"] | sides["valid"]))
    held = sides["test"] | sides["valid"]
    assert parts["train"] == [pair for pair in pairs if held.isdisjoint(pair)]


def test_a_line_without_a_tab_is_named_and_nothing_is_written(tmp_path):
    write_lines(tmp_path / "pairs.tsv", ["Haus\thouse", "Hund"])
    words = sys.executable, SCRIPT, tmp_path / "pairs.tsv", tmp_path / "out"
    done = run(*words, check=False, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert done.stderr == f"error: {tmp_path}/pairs.tsv, line 2: expected two paragraphs separated by a tab\n"
    write_lines(tmp_path / "pairs.tsv", ["Haus\thouse"])
    run(*words, env={"PYTHONPATH": str(ROOT)})
    assert read_lines(tmp_path / "out" / "test.de") == ["Haus"] and read_lines(tmp_path / "out" / "test.en") == [
        "house"
    ]
