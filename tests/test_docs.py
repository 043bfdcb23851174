"""The Markdown files: their tables, links and commands are those of the code."""

import re
import runpy
import shlex

import pytest
from conftest import ROOT
from fairseq import options

from fairseq_cgc.recipe.command_line import parse
from fairseq_cgc.recipe.rows import ROWS
from fairseq_cgc.safe_loading import HARMLESS

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md")]
SCRIPTS = {
    "scripts/quickstart.sh": "quickstart",
    "scripts/translate.sh": "translate",
    "examples/iwslt14/prepare.sh": "prepare-iwslt14",
    "examples/iwslt14/train.sh": "train",
    "examples/iwslt14/generate.sh": "generate",
    "examples/ablations/run.sh": "experiment",
}
PARSERS = {
    "fairseq-train": options.get_training_parser,
    "fairseq-generate": options.get_generation_parser,
    "fairseq-interactive": lambda: options.get_generation_parser(interactive=True),
}


def commands(page):
    """Each command of a page's shell blocks that is ours or fairseq's, as words."""
    for block in re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            for command in re.split(r" && |; | > | < ", line.partition(" #")[0]):
                if re.match(r"\s*(bash (scripts|examples)/|\S*fairseq-)", command) and "--help" not in command:
                    yield shlex.split(command.replace("$row", "cgc").replace("$seed", "1"))


def test_the_tables_of_the_options_page_follow_from_the_code():
    script = runpy.run_path(str(ROOT / "docs" / "options.py"))
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert script["filled"](page) == page, "run: python docs/options.py"
    assert "| `--cgc-pool` | `average` | `average`, `max` |" in page and "| `lightconv_gct` |" in page


def test_every_row_is_listed_on_a_page_of_rows():
    pages = [(ROOT / "examples" / name / "README.md").read_text(encoding="utf-8") for name in ("iwslt14", "ablations")]
    assert [row for row in ROWS if not any(f"`{row}`" in page for page in pages)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (path.parent / link).exists(), link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_have_the_options_they_are_shown_with(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(path.read_text(encoding="utf-8")):
        if words[0] == "bash" and words[1] in SCRIPTS:
            words = ["fairseq-cgc", SCRIPTS[words[1]], *words[2:]]
        if words[0].rpartition("/")[2] == "fairseq-cgc":
            parse([word for word in words[1:] if not word.startswith("$")])  # a variable holds options
        elif words[0] in PARSERS:
            assert "--user-dir" in words
            options.parse_args_and_arch(PARSERS[words[0]](), input_args=words[1:])


def test_the_user_folder_of_the_page_allows_a_name(monkeypatch):
    page = (ROOT / "docs" / "fairseq.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(# my_plugin.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.setitem(HARMLESS, "task", set(HARMLESS["task"]))
    exec(code, {})
    assert HARMLESS["task"] == {"translation", "translation_multi_simple_epoch"}


def test_the_readme_has_the_commands_that_are_tested_here():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = [words[:2] for words in commands(readme)]
    assert ["bash", "scripts/quickstart.sh"] in found and ["fairseq-cgc", "prepare"] in found
    assert len(readme.splitlines()) <= 150
