"""scripts/check_environment.py and environment.sh, on environments that are not as they should be."""

import shutil
import subprocess
import sys
import time
from importlib import metadata

import pytest
from conftest import ROOT, run

CHECK = ROOT / "scripts" / "check_environment.py"


def fake_distribution(folder, name, package):
    """What pip would leave of a distribution that provides a package."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text("")
    info = folder / f"{name.replace('-', '_')}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "RECORD").write_text(f"{package}/__init__.py,,\n")
    (info / "top_level.txt").write_text(f"{package}\n")


@pytest.mark.parametrize("name", ["fairseq", "fairseq-fixed", "fairseq-of-mine"])
def test_another_distribution_of_fairseq_is_not_overwritten(tmp_path, name):
    fake_distribution(tmp_path, name, "fairseq")
    done = run(sys.executable, CHECK, "before", env={"PYTHONPATH": str(tmp_path)}, check=False)
    assert done.returncode == 1
    assert f"holds {name} 0.1" in done.stderr and f"pip uninstall {name}" in done.stderr


@pytest.mark.parametrize("step", ["before", "after"])
def test_another_package_of_our_name_is_named(tmp_path, step):
    fake_distribution(tmp_path, "another", "fairseq_cgc")
    done = run(sys.executable, CHECK, step, env={"PYTHONPATH": str(tmp_path)}, check=False)
    assert done.returncode == 1
    assert f"another package named fairseq_cgc is in the way, {tmp_path / 'fairseq_cgc'}" in done.stderr


def test_this_environment_passes():
    for step in ("before", "after"):
        run(sys.executable, CHECK, step, env={"PYTHONPATH": str(ROOT)})


def test_an_unsupported_python_is_named(tmp_path):
    code = f"""
import runpy, sys
sys.version_info = (3, 13, 0, "final", 0)
sys.argv = [{str(CHECK)!r}, "before"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    done = run(sys.executable, "-c", code, check=False)
    assert done.returncode == 1 and "Python 3.11 or 3.12 is needed" in done.stderr


def test_importing_on_an_unsupported_python_or_without_fairseq_says_so(tmp_path):
    setup = "import sys; sys.version_info = (3, 10, 2, 'final', 0)"
    missing = "import sys; sys.modules['fairseq'] = None; sys.meta_path[:0] = []"
    missing += "\nimport importlib.util as u; find = u.find_spec"
    missing += "\nu.find_spec = lambda name, *rest: None if name == 'fairseq' else find(name, *rest)"
    for before, words in ((setup, "runs on Python 3.11 and 3.12"), (missing, "pip install ve-fairseq==0.12.3")):
        done = run(sys.executable, "-c", f"{before}\nimport fairseq_cgc", env={"PYTHONPATH": str(ROOT)}, check=False)
        assert done.returncode == 1 and words in done.stderr.splitlines()[-1]


def test_an_environment_without_fairseq_is_named(tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    done = run(tmp_path / "env" / "bin" / "python", CHECK, "after", check=False, env={"PYTHONPATH": ""})
    assert done.returncode == 1 and "fairseq is missing from the environment" in done.stderr


def test_a_python_that_does_not_exist_is_named():
    done = run("bash", ROOT / "scripts" / "test.sh", "--python", "/nowhere/python", check=False)
    assert done.returncode == 1 and "error: --python /nowhere/python: no such interpreter" in done.stderr


@pytest.fixture
def without_a_supported_python(tmp_path):
    """What runs ``scripts/test.sh`` of a checkout where python3 is 3.13; and that checkout."""
    programs, checkout = tmp_path / "bin", tmp_path / "checkout"
    for folder in (programs, checkout):
        folder.mkdir()
    for name in ("dirname", "env", "mktemp", "cat", "cksum", "rm", "mkdir"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    script(programs / "python3", 'case "$2" in *platform*) echo 3.13.1;; *sys.exit*) exit 1;; esac')
    run("cp", "-r", ROOT / "scripts", ROOT / "constraints.txt", ROOT / "setup.py", checkout)
    environment = {"PATH": str(programs), "CGC_PYTHON": ""}
    return lambda: run("/bin/bash", checkout / "scripts" / "test.sh", env=environment, check=False), checkout


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_without_a_supported_python_the_versions_found_and_two_ways_out_are_named(without_a_supported_python):
    test, checkout = without_a_supported_python
    done = test()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Python 3.11 or 3.12 is needed" in done.stderr and "found python3: 3.13.1." in done.stderr
    assert "pip install uv" in done.stderr and "--python PATH" in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_environment_is_not_removed_where_no_other_can_be_made(without_a_supported_python):
    test, checkout = without_a_supported_python
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "file").write_text("")
    assert test().returncode == 1 and (checkout / ".venv" / "file").exists()


def test_without_a_supported_python_uv_makes_the_environment(without_a_supported_python):
    test, checkout = without_a_supported_python
    commands = checkout / "commands"
    script(
        checkout.with_name("bin") / "uv",
        f"""echo "uv $*" >>{commands}; mkdir -p "$4/bin"
printf '#!/bin/sh\\necho "python $*" >>{commands}\\ncase "$2" in *prefix*) echo {checkout};; esac' >"$4/bin/python"
/bin/chmod +x "$4/bin/python\"""",
    )
    done = test()
    assert "make" in done.stdout and "with uv's Python 3.12" in done.stdout
    said = commands.read_text().splitlines()
    assert said[1] == "python -m ensurepip"
    assert said[0] == f"uv venv --python 3.12 {checkout / '.venv'}"
    assert any(line.startswith("python -m pip install") and "[test]" in line for line in said)


@pytest.mark.skipif(shutil.which("flock") is None, reason="the scripts do without")
def test_two_commands_make_an_environment_one_after_the_other(tmp_path):
    """The interpreter stands for pip too; each of its calls begins and ends in a file."""
    (tmp_path / "scripts").mkdir()
    for name in ("environment.sh", "check_environment.py"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    for name in ("constraints.txt", "setup.py"):
        shutil.copy(ROOT / name, tmp_path)
    script(
        tmp_path / "python",
        f"""case "$*" in *pip*) echo begins; sleep 0.3; echo ends;; esac >>{tmp_path}/said
case "$2" in *prefix*) echo {tmp_path};; esac""",
    )
    set_up = (
        f"set -eu; . {tmp_path}/scripts/environment.sh; CGC_PYTHON={tmp_path}/python; set_up_environment test; sleep 1"
    )
    with subprocess.Popen(["bash", "-c", set_up], stdout=subprocess.PIPE, text=True):
        while not (tmp_path / "said").exists():
            time.sleep(0.01)
        second = run("bash", "-c", set_up).stdout
    assert "wait for another command" in second and "install fairseq-cgc" not in second, "the first has done it"
    assert (tmp_path / "said").read_text().split() == ["begins", "ends"]


def test_the_pins_leave_a_torch_alone_that_is_there():
    here = run(sys.executable, CHECK, "pins").stdout
    assert "ve-fairseq==0.12.3" in here and here.count("\ntorch==") == 1
    assert f"\ntorch=={metadata.version('torch')}\n" in here, "another package may ask pip for another one"


def test_an_environment_without_torch_gets_the_tested_one(tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    pins = run(tmp_path / "env" / "bin" / "python", CHECK, "pins", env={"PYTHONPATH": ""}).stdout
    assert "torch==2.13.0" in pins.splitlines()
