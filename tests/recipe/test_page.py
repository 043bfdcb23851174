"""The page of a run, of two, and of an experiment: what it tells, what it refuses, and how it shows in a browser."""

import json
import random
import re
import shutil
import sys

import chromium
import lxml.html
import pytest
import sacrebleu
from conftest import TINY_OPTIONS, command, refused
from test_table import change_json, make_run

from fairseq_cgc.recipe import page
from fairseq_cgc.recipe.files import MARK, foreign_files, read_json, read_lines, write_lines
from fairseq_cgc.recipe.scoring import TOKENISED_BLEU, compare, detokenised_scores, tokenised_bleu

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.slow
QUICK = ["--max-update", 16, "--batch-tokens", 400, "--average", 1, *TINY_OPTIONS, "--warmup-updates", 4, "--lr", 0.01]


@pytest.fixture(scope="module")
def runs(prepared, tmp_path_factory):
    """A folder of two runs that were trained, and translated by chance: most words are right."""
    folder = tmp_path_factory.mktemp("runs")
    command(
        "experiment", "--data", prepared, "--runs", folder, *QUICK, "--rows", "lightconv,cgc", "--seeds", 1, "--jobs", 2
    )
    for row, share in (("lightconv", 0.3), ("cgc", 0.15)):
        test, change = folder / f"{row}-seed1" / "test", random.Random(row)
        references = read_lines(test / "test.tok.en")
        words = [["wrong" if change.random() < share else word for word in line.split()] for line in references]
        hypotheses = [" ".join(line) for line in words]
        for name in ("hyp", "tok.hyp"):
            write_lines(test / f"test.{name}", hypotheses)
        score, signature = tokenised_bleu(hypotheses, references)
        scores = {TOKENISED_BLEU: {"score": score, "signature": signature}}
        scores |= detokenised_scores(hypotheses, [references], lowercase=True)
        change_json(test / "scores.json", lambda content: content.update(scores=scores))  # noqa: B023
    command("table", folder, "--experiment")
    return folder


@pytest.fixture(scope="module")
def pages(runs, tmp_path_factory):
    """Name to the file of a page of each kind, by the command."""
    cgc, lightconv, out = runs / "cgc-seed1", runs / "lightconv-seed1", tmp_path_factory.mktemp("pages")
    asked = {"run": [cgc], "ungated": [lightconv], "two": [lightconv, cgc], "experiment": [runs]}
    for name, folders in asked.items():
        done = command("report", *folders, "--out", out / f"{name}.html")
        assert (done.stdout, done.stderr) == (f"{out / name}.html\n", "")
    return {name: out / f"{name}.html" for name in asked}


def read(path):
    return lxml.html.fromstring(path.read_text(encoding="utf-8"))


def table(document, caption):
    """The rows of the table with that caption, as lists of cells, its header among them."""
    [found] = [table for table in document.iter("table") if caption in table.findtext("caption")]
    return [[" ".join(cell.text_content().split()) for cell in row] for row in found.iter("tr")]


def articles(document, title):
    """The sentences under a heading: dicts of what stands where."""
    [heading] = [heading for heading in document.iter("h3") if heading.text == title]
    found = []
    for element in heading.itersiblings():
        if element.tag != "article":
            break
        names = [name.text for name in element.iter("dt")]
        found.append({"title": element.findtext("h4"), **dict(zip(names, element.iter("dd")))})
    return found


# What it tells


def test_a_run_s_page_has_its_scores_with_signatures_and_intervals(pages, runs):
    recorded = read_json(runs / "cgc-seed1" / "test" / "scores.json")["scores"]
    _, *rows = table(read(pages["run"]), "Scores of the test set")
    assert list(recorded) == ["tokenised BLEU-4", "BLEU", "chrF"]
    assert [row[0] for row in rows] == ["tokenised BLEU-4", "sacreBLEU", "chrF"]
    for (_, figure, signature), score in zip(rows, recorded.values()):
        assert figure.startswith(f"{score['score']:.2f} ± ") and signature == score["signature"]
    folder = runs / "cgc-seed1" / "test"
    sides = [read_lines(folder / f"test.{name}") for name in ("tok.hyp", "tok.en")]
    interval = compare({"it": sides[0]}, [sides[1]], True, False)[TOKENISED_BLEU]["systems"]["it"]["half_width"]
    assert rows[0][1].endswith(f"± {interval:.2f}")


def test_it_tells_what_was_trained_on_what(pages, runs, prepared):
    facts = dict(table(read(pages["run"]), "The run")[1:])
    assert facts["system"] == "LightConv + CGC encoder (cgc)" and facts["updates"] == "16" and facts["seed"] == "1"
    assert facts["data"] == f"{prepared}, de–en, train 160, valid 16, test 16 pairs"
    assert facts["--lr"] == "0.01" and facts["beam"] == "6" and "torch" in facts["versions"]
    assert "fairseq_cli.train" in read(pages["run"]).find(".//pre").text


def test_scores_by_length_are_those_of_the_sentences_of_that_length(pages, runs):
    folder = runs / "cgc-seed1" / "test"
    sources, hypotheses, references = (read_lines(folder / f"test.{name}") for name in ("de", "tok.hyp", "tok.en"))
    _, *rows = table(read(pages["run"]), "by the words of the source")
    assert sum(int(row[1]) for row in rows) == len(sources) and len(rows) > 2
    for label, count, figure in rows:
        low, high = [int(number) for number in label.split("–")] * (2 if "–" not in label else 1)
        chosen = [number for number, line in enumerate(sources) if low <= len(line.split()) <= high]
        score, _ = tokenised_bleu([hypotheses[n] for n in chosen], [references[n] for n in chosen])
        assert len(chosen) == int(count) and figure.startswith(f"{score:.2f} ±")


def test_the_worst_and_the_best_sentences_are_those_of_chrf(pages, runs):
    folder = runs / "cgc-seed1" / "test"
    hypotheses, references = (read_lines(folder / f"test.{name}") for name in ("hyp", "en"))
    values = [sacrebleu.sentence_chrf(h.lower(), [r.lower()]).score for h, r in zip(hypotheses, references)]
    for title, wanted in (("Worst", sorted(values)), ("Best", sorted(values, reverse=True))):
        found = articles(read(pages["run"]), title)
        assert len(found) == page.SHOWN
        assert [sentence["title"].split("chrF ")[1] for sentence in found] == [f"{v:.1f}" for v in wanted[: page.SHOWN]]
        for sentence in found:
            number = int(re.search(r"Sentence (\d+)", sentence["title"])[1]) - 1
            assert sentence["translation"].text_content().strip() == hypotheses[number]
            assert sentence["reference"].text_content().strip() == references[number]


def test_the_gates_are_those_that_inspect_finds(pages, runs, tmp_path):
    run = runs / "cgc-seed1"
    command("inspect", run, "--input", run / "test" / "test.de", "--out", tmp_path)
    layers = json.loads((tmp_path / "gates.json").read_text())["layers"]
    _, *rows = table(read(pages["run"]), "The gate in each layer")
    assert [row[9] for row in rows] == [f"{layer['gate']['between_share']:.1%}" for layer in layers]
    assert "which has no gates" in read(pages["ungated"]).text_content()


def test_the_gates_of_another_model_than_the_translations_are_not_shown(runs, tmp_path):
    folder = shutil.copytree(runs / "cgc-seed1", tmp_path / "run")
    mark = folder / "model" / MARK
    mark.write_text(json.dumps({**read_json(mark), "sha256": {"checkpoint1.pt": "0"}}))
    shown = page.gates(page.read_translated(folder, "x"))
    assert "is not the model that made the translations" in shown["missing"]
    shutil.rmtree(folder / "model")
    shown = page.gates(page.read_translated(folder, "x"))
    assert "is not the model that made the translations" in shown["missing"], "and not those of the best checkpoint"


def test_of_two_runs_the_page_tells_what_differs_and_whether_it_matters(pages, runs):
    document = read(pages["two"])
    differs = {row[0]: row[3] for row in table(document, "The runs")[1:]}
    assert differs["system"] == "yes" and differs["seed"] == "" and differs["data"] == ""
    assert list(differs.values()) == sorted(differs.values(), reverse=True), "what differs stands first"
    folders = [runs / name / "test" for name in ("lightconv-seed1", "cgc-seed1")]
    systems = {name: read_lines(folder / "test.tok.hyp") for name, folder in zip("AB", folders)}
    found = compare(systems, [read_lines(folders[0] / "test.tok.en")], True, False)[TOKENISED_BLEU]["systems"]
    _, first, second, *_ = table(document, "Scores of the test set")
    assert first[:2] == [TOKENISED_BLEU, "A"] and first[3] == "" and second[3] == f"{found['B']['p']:.4f}"
    raw = [read_lines(folder / "test.hyp") for folder in folders]
    references = read_lines(folders[0] / "test.en")
    values = [[sacrebleu.sentence_chrf(h.lower(), [r.lower()]).score for h, r in zip(side, references)] for side in raw]
    gains = [two - one for one, two in zip(*values)]
    better, worse, same = sum(g > 0 for g in gains), sum(g < 0 for g in gains), sum(a == b for a, b in zip(*raw))
    words = " ".join(document.text_content().split())
    assert better and worse
    assert f"B is better in {better} sentences and worse in {worse}, of 16; {same} translations are the same." in words
    first = articles(document, "Where B gained most")[0]
    assert int(re.search(r"Sentence (\d+)", first["title"])[1]) - 1 == gains.index(max(gains))
    for side, lines in zip("AB", raw):
        assert first[f"translation {side}"].text_content().strip() == lines[gains.index(max(gains))]
    assert first["translation A"].findtext("mark") == "wrong" and first["reference"].find("mark") is None


def test_of_an_experiment_the_page_has_the_table(pages, runs):
    document = read(pages["experiment"])
    markdown = (runs / "table.md").read_text()
    lines = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in markdown.splitlines() if line[:1] == "|"]
    assert table(document, "The rows over their seeds") == [lines[0], *lines[2:]]
    assert len(document.findall(".//img")) == 2 and "Signatures" in document.text_content()


@pytest.mark.parametrize(
    "one, other, fold, words",
    [
        ("the red cat.", "the cat.", False, (["red"], [])),
        ("The cat, asleep", "the cat asleep", True, ([","], [])),
        ("The cat", "the cat", False, (["The"], ["the"])),
        ("a b a", "a a", False, (["b"], [])),
        ("", "a b", False, ([], ["a", "b"])),
        ("我有猫", "我有狗", False, (["猫"], ["狗"])),
    ],
)
def test_the_words_that_differ_are_marked(one, other, fold, words):
    sides = page.marked(one, other, fold)
    assert tuple([text for text, different in side if different] for side in sides) == words
    assert ["".join(text for text, _ in side) for side in sides] == [one, other]


def test_notes_become_html_and_stay_text():
    found = page.prose("**Not alike**: `a<b`\n\n- one & `c`\n- two")
    assert str(found).splitlines() == [
        "<p><strong>Not alike</strong>: <code>a&lt;b</code></p>",
        "<ul><li>one &amp; <code>c</code></li><li>two</li></ul>",
    ]


def test_a_sentence_is_text_and_never_markup(runs, tmp_path):
    run = shutil.copytree(runs / "cgc-seed1", tmp_path / "run")
    for name in ("de", "en", "hyp"):
        lines = read_lines(run / "test" / f"test.{name}")
        evil = f"<script>alert('{name}')</script> <img src=x onerror=alert(1)> & \"x\" \x00 \u2028 {{{{ 7 * 7 }}}}"
        (run / "test" / f"test.{name}").write_text("".join(f"{line} {evil}\n" for line in lines), encoding="utf-8")
    document = read(page.write_page(run))
    assert len(document.findall(".//script")) == 1 and all(image.get("alt") for image in document.iter("img"))
    assert "<script>alert('de')</script>" in document.text_content() and "{{ 7 * 7 }}" in document.text_content()
    assert foreign_files(run, "run") == [], "a page in the run folder would keep it from being replaced"


def test_without_matplotlib_the_page_has_its_tables_and_says_what_is_missing(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    document = read(page.write_page(runs / "cgc-seed1", out=tmp_path / "page.html"))
    assert not document.findall(".//img") and len(document.findall(".//table")) == 4
    assert "A plot is missing without matplotlib; pip install" in document.text_content()


@pytest.mark.parametrize("name", ["run", "ungated", "two", "experiment"])
def test_the_page_can_be_read_without_eyes_and_without_a_mouse(pages, name):
    document = read(pages[name])
    levels = [int(element.tag[1]) for element in document.iter("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1 and all(after <= before + 1 for before, after in zip(levels, levels[1:]))
    assert document.get("lang") == "en" and document.findtext(".//title") and document.find(".//main") is not None
    assert all(len(image.get("alt")) > 20 for image in document.iter("img"))
    assert all(table.findtext("caption") for table in document.iter("table"))
    assert all(cell.get("scope") in ("col", "row") for cell in document.iter("th"))
    assert all(part.get("tabindex") == "0" and part.get("aria-label") for part in document.find_class("scroll"))
    anchors = {link.get("href") for link in document.iter("a")}
    assert anchors <= {f"#{element.get('id')}" for element in document.iter("h2")}


# What it refuses


def test_what_cannot_be_shown_is_refused_with_a_line(tmp_path):
    cgc, other = make_run(tmp_path / "a", "cgc"), make_run(tmp_path / "b", "lightconv")
    for run in (cgc, other):
        for name in ("de", "en", "hyp"):
            shutil.copy(run / "test" / "test.tok.en", run / "test" / f"test.{name}")
    (tmp_path / "empty").mkdir()
    assert "empty has no run.json, nor has a folder in it" in refused("report", tmp_path / "empty")
    assert "nowhere does not exist" in refused("report", cgc, tmp_path / "nowhere")
    assert f"{tmp_path / 'a'} has no run.json" in refused("report", tmp_path / "a", cgc)
    assert "are one run" in refused("report", cgc, cgc)
    assert f"--out {tmp_path} is a folder" in refused("report", cgc, "--out", tmp_path)
    assert "cannot be written to" in refused("report", cgc, "--out", cgc / "run.json" / "x" / "page.html")
    change_json(other / "run.json", lambda record: record["data"].update(sha256={"dict.de.txt": "def"}))
    assert "trained on different data" in refused("report", cgc, other)
    (cgc / "test" / "test.hyp").write_text("one line\n")
    assert "test.hyp has 1 lines and the test set 30: generate again" in refused("report", cgc)
    (other / "test" / "statistics.json").write_text('{"test_set": "x", "sentences": [[1, 1, 1, 0, 0, 0, 1, 0, 0, 0]]}')
    assert "is a run's record, without the corpus's sentences" in refused("report", other)
    shutil.rmtree(cgc / "test")
    assert "has no translations to show: not translated yet: fairseq-cgc generate" in refused("report", cgc)
    assert not list(tmp_path.rglob("*.html"))


# How it shows


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if chromium.PROGRAM is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    found = chromium.Chromium(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["run", "two", "experiment"])
def test_it_opens_from_disk_without_an_error_or_a_request(browser, pages, tmp_path, name, width, scheme):
    browser.open(pages[name], width, scheme=scheme)
    assert not browser.told("Runtime.exceptionThrown") + browser.told("Runtime.consoleAPICalled")
    assert not browser.told("Log.entryAdded")
    urls = [request["request"]["url"] for request in browser.told("Network.requestWillBeSent")]
    assert urls[0] == pages[name].as_uri() and all(url.startswith("data:") for url in urls[1:])
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth)")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
    colour = "getComputedStyle(document.body).backgroundColor"
    assert browser.evaluate(colour) == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}[scheme]
    browser.screenshot(tmp_path / f"{name}.png")
    assert (tmp_path / f"{name}.png").stat().st_size > 20_000


def test_the_table_sorts_by_keyboard(browser, pages):
    browser.open(pages["experiment"])
    column = "[...document.querySelectorAll('tbody tr')].map(row => row.cells[{}].textContent)"
    heads = browser.evaluate("[...document.querySelectorAll('thead th')].map(head => head.textContent)")
    for name in (TOKENISED_BLEU, "validation loss", "parameters"):
        place = heads.index(name)
        for order, key in (("ascending", 1), ("descending", -1)):
            browser.evaluate(f"document.querySelectorAll('thead button')[{place}].focus()")
            browser.press("Enter", 13, "\r")
            cells = browser.evaluate(column.format(place))
            assert cells == sorted(cells, key=lambda cell: key * float(re.match(r"[\d.,]+", cell)[0].replace(",", "")))
            assert browser.evaluate(f"document.querySelectorAll('thead th')[{place}].ariaSort") == order
    assert browser.evaluate("document.querySelectorAll('thead th[aria-sort]').length") == 1
