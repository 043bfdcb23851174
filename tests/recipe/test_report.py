from fairseq_cgc.recipe.report import render_table


def test_figures_are_aligned_right_and_texts_left():
    text = render_table(["name", "is", "score"], [["a", "one", "9.50"], ["long name", "two", "10.25"]], "ll")
    assert text.splitlines()[1:] == [
        "|:----------|:-----|--------:|",
        "| a         | one  |    9.50 |",
        "| long name | two  |   10.25 |",
    ]


def test_cells_stand_as_they_were_given():
    assert render_table([], [["007", "1,000", "1e5", "–"]], style="plain").split() == ["007", "1,000", "1e5", "–"]


def test_a_table_may_have_no_rows():
    assert render_table(["name", "score"], []).splitlines()[0].split() == ["|", "name", "|", "score", "|"]
