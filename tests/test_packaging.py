"""What a release holds."""

import re
import shutil
import sys
import tarfile

from conftest import ROOT, run

import fairseq_cgc


def test_the_sdist_holds_the_package_and_no_tests_or_results(tmp_path):
    ignored = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "runs", "data", "gates")
    shutil.copytree(ROOT, tmp_path / "source", ignore=ignored)
    build = f"import setuptools.build_meta as build; build.build_sdist({str(tmp_path)!r})"
    run(sys.executable, "-c", build, cwd=tmp_path / "source")
    [archive] = tmp_path.glob("*.tar.gz")
    assert archive.name == f"fairseq_cgc-{fairseq_cgc.__version__}.tar.gz"
    names = {name.partition("/")[2] for name in tarfile.open(archive).getnames()}
    assert {"fairseq_cgc/recipe/rows.toml", "constraints.txt", "LICENSE", "CHANGELOG.md"} <= names
    assert {name.partition("/")[0] for name in names if "/" in name} == {"fairseq_cgc", "fairseq_cgc.egg-info"}


def test_the_changelog_begins_with_this_version():
    [first, *_] = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first == fairseq_cgc.__version__
