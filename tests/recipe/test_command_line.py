"""The command line as a whole; what its commands do is in the tests of their modules."""

import re
import shutil
import signal
import sys

import pytest
from conftest import LIGHTLY, ROOT, run

import fairseq_cgc
from fairseq_cgc.recipe.command_line import COMMANDS, parse


@pytest.fixture(scope="module")
def nothing_installed(tmp_path_factory):
    """The environment of a process to which torch and fairseq are missing."""
    folder = tmp_path_factory.mktemp("missing")
    for name in ("torch", "fairseq", "numpy", "sacrebleu"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of a wheel that was built and installed alone."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "fairseq_cgc", source / "fairseq_cgc", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", wheels, source)
    run(*pip, "install", "--no-deps", "--no-index", "--target", wheels / "site", *wheels.glob("*.whl"))
    return wheels / "site"


def command(*options, **keywords):
    """Run ``fairseq-cgc``, by an interpreter that has imported nothing."""
    return run(sys.executable, "-m", "fairseq_cgc", *options, **keywords)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_imports_nothing_slow(nothing_installed, name):
    assert f"usage: fairseq-cgc {name}" in command(name, "--help", env=nothing_installed).stdout


def test_help_names_every_command(nothing_installed):
    text = command("--help", env=nothing_installed).stdout
    assert all(f"\n  {name} " in text for name in COMMANDS)


def test_without_a_command_it_prints_the_folder_for_user_dir(nothing_installed):
    for words in ([], ["user-dir"]):
        done = command(*words, env=nothing_installed)
        assert done.stdout == f"{ROOT / 'fairseq_cgc'}\n"


def test_a_full_disk_ends_it_with_a_line(nothing_installed):
    done = run(
        "bash", "-c", f"{sys.executable} -m fairseq_cgc user-dir > /dev/full", check=False, env=nothing_installed
    )
    assert done.returncode == 1 and re.fullmatch("error: No space left on device;.*\n", done.stderr)


def test_a_wheel_has_every_command_and_the_rows(installed, nothing_installed, tmp_path):
    script = installed / "bin" / "fairseq-cgc"
    env = {"PYTHONPATH": nothing_installed["PYTHONPATH"].replace(str(ROOT), str(installed))}
    for name in COMMANDS:
        assert f"usage: fairseq-cgc {name}" in run(sys.executable, script, name, "--help", env=env).stdout
    assert "cgc-rdrop" in run(sys.executable, script, "train", "--help", env=env).stdout
    assert run(sys.executable, script, "user-dir", env=env).stdout == f"{installed / 'fairseq_cgc'}\n"


def test_a_command_of_a_wheel_runs_anywhere(installed, tmp_path):
    for name in ("hyp", "ref"):
        (tmp_path / name).write_text("one two three four five\n")
    env = {"PYTHONPATH": str(installed)}
    done = run(sys.executable, installed / "bin" / "fairseq-cgc", "score", "hyp", "--ref", "ref", cwd=tmp_path, env=env)
    assert done.stdout.count("hyp               100.00") == 3


@pytest.mark.parametrize(
    "argv, orig_argv, expected",
    [
        (["-m", "train"], ["python", "-X", "utf8", "-m", "fairseq_cgc", "train"], True),
        (["/env/bin/fairseq-cgc", "train"], ["python", "/env/bin/fairseq-cgc", "train"], True),
        (["-m"], ["python", "-m", "fairseq_cgc.recipe.distributed"], False),
        (["-m"], ["python", "-m", "fairseq_cli.train", "--user-dir", "fairseq_cgc"], False),
        (["/env/bin/fairseq-train", "--user-dir", "fairseq_cgc"], ["python"], False),
        (["-c"], ["python", "-c", "import fairseq_cgc"], False),
        ([], [], False),
    ],
)
def test_every_other_program_has_the_plugin_registered_by_the_import(monkeypatch, argv, orig_argv, expected):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert fairseq_cgc._is_the_command_line() is expected


def test_options_that_a_command_does_not_know_are_fairseq_s_where_it_has_one():
    args = parse(["train", "cgc", "--dropout", "0.2", "--seed", "3", "--adam-betas", "(0.9, 0.98)"])
    assert (args.row, args.seed) == ("cgc", 3)
    assert args.fairseq == ["--dropout", "0.2", "--adam-betas", "(0.9, 0.98)"]
    assert parse(["generate", "run", "--", "--lenpen", "0.6"]).fairseq == ["--lenpen", "0.6"]
    assert parse(["train", "cgc", "--seed", "3", "--", "--dropout", "0.2"]).fairseq == ["--dropout", "0.2"]
    with pytest.raises(SystemExit):
        parse(["score", "hyp", "--ref", "ref", "--dropout", "0.2"])


@pytest.mark.parametrize("words", [["train", "cgc", "more", "--dropout", "0.2"], ["generate", "run", "more"]])
def test_a_word_that_is_no_option_s_is_named(words, capsys):
    with pytest.raises(SystemExit):
        parse(words)
    assert capsys.readouterr().err.endswith("error: unrecognized argument: more\n")


def test_the_version_and_without_a_command_the_help(capsys):
    for words, said in ((["--version"], f"fairseq-cgc {fairseq_cgc.__version__}\n"), ([], "usage: fairseq-cgc ")):
        with pytest.raises(SystemExit) as end:
            parse(words)
        assert end.value.code == 0 and capsys.readouterr().out.startswith(said)


def test_sentences_may_stand_before_and_behind_options():
    args = parse(["translate", "model", "Guten Tag.", "--beam", "4", "Bis morgen."])
    assert (str(args.model), args.sentences, args.beam) == ("model", ["Guten Tag.", "Bis morgen."], 4)
    assert parse(["translate", "--beam", "4", "model"]).sentences == []


def test_a_reader_that_closes_the_pipe_ends_a_command_quietly(tmp_path):
    for name in ("hyp", "ref"):
        (tmp_path / name).write_text("one two three four five\n")
    pipe = f"'{sys.executable}' -m fairseq_cgc score hyp --ref ref | true; echo ${{PIPESTATUS[0]}}"
    done = run("bash", "-c", pipe, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_the_shell_files_call_the_command_line(nothing_installed):
    for name, usage in (
        ("scripts/quickstart.sh", "quickstart"),
        ("scripts/translate.sh", "translate"),
        ("examples/iwslt14/prepare.sh", "prepare-iwslt14"),
        ("examples/iwslt14/train.sh", "train"),
        ("examples/iwslt14/generate.sh", "generate"),
        ("examples/ablations/run.sh", "experiment"),
    ):
        done = run("bash", ROOT / name, "--python", sys.executable, "--help", env=nothing_installed)
        assert f"usage: fairseq-cgc {usage}" in done.stdout and "--python PATH" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_modules_are_imported_ends_without_a_word(number):
    code = """
import os, signal, sys
from fairseq_cgc.recipe.interrupts import ending_at_once
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background may find ignored
handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
with ending_at_once():
    pass
assert handlers == [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
with ending_at_once():
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
    except BaseException:
        print("as numpy does")
"""
    done = run(sys.executable, "-c", LIGHTLY + code, int(number), cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-number, "", "")


def test_an_interrupt_that_is_ignored_stays_so():
    code = """
import os, signal
from fairseq_cgc.recipe.interrupts import ending_at_once
signal.signal(signal.SIGINT, signal.SIG_IGN)
with ending_at_once():
    os.kill(os.getpid(), signal.SIGINT)
print("here")
"""
    assert run(sys.executable, "-c", LIGHTLY + code, cwd=ROOT).stdout == "here\n"
