import re

import pytest

from fairseq_cgc.recipe.report import last_words, new_figure, render_table, save_figure, write_text_and_plots


def test_figures_are_aligned_right_and_texts_left():
    text = render_table(["name", "is", "score"], [["a", "one", "9.50"], ["long name", "two", "10.25"]], "ll")
    assert text.splitlines()[1:] == [
        "|:----------|:-----|--------:|",
        "| a         | one  |    9.50 |",
        "| long name | two  |   10.25 |",
    ]


def test_cells_stand_as_they_were_given():
    assert render_table([], [["007", "1,000", "1e5", "–"]], style="plain").split() == ["007", "1,000", "1e5", "–"]


def test_a_bar_in_a_cell_ends_no_cell():
    assert render_table(["a|b"], [["0|x"]]).splitlines()[2].count(" | ") == 0
    assert "0\\|x" in render_table(["a|b"], [["0|x"]]) and "0|x" in render_table(["a|b"], [["0|x"]], style="plain")


def test_a_name_that_is_no_utf_8_does_not_keep_a_text_from_being_written(tmp_path):
    write_text_and_plots(tmp_path, "table.md", "caf\udce9", {})
    assert (tmp_path / "table.md").read_text().startswith("caf\\udce9\n")


def test_letters_that_the_font_of_a_plot_lacks_are_told_in_a_line(tmp_path, capsys, recwarn):
    pytest.importorskip("matplotlib")
    figure, axes = new_figure(2, 2)
    axes.set_title("中文\U0010fffe")
    save_figure(figure, tmp_path / "plot.png", "plot.png")
    assert not recwarn.list
    [line] = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"plot\.png: letters that its font lacks are boxes: [0-9]+ \(Glyph .* missing from .*\)", line)
    small, axes = new_figure(0.2, 0.2)
    axes.set_title("a title that does not fit")
    with pytest.warns(UserWarning, match="constrained_layout not applied"):
        save_figure(small, tmp_path / "plot.png")


def test_a_table_may_have_no_rows():
    assert render_table(["name", "score"], []).splitlines()[0].split() == ["|", "name", "|", "score", "|"]


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "Traceback (most recent call last):\n  File x\nAssertionError: --sampling requires --nbest\n",
            "--sampling requires --nbest",
        ),
        ("a\nerror: run is another.\nChoose another folder\n", "run is another.\nChoose another folder"),
        (
            "usage: x\ntrain.py: error: unrecognized arguments: --dropuot 0.1\n",
            "train.py: error: unrecognized arguments: --dropuot 0.1",
        ),
        ("[rank0]: ValueError: no\nx.ChildFailedError: \n=====\n", "no"),
        ("KeyError\n", "KeyError"),
        ("", "it printed nothing"),
    ],
)
def test_a_failed_command_s_last_words_are_its_error_without_a_traceback(text, words):
    assert last_words(text.splitlines(keepends=True)) == words
