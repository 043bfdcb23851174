"""Is this a Python environment that the project can go into, and is it in there?

    python scripts/check_environment.py before    before pip install: nothing must be in the way
    python scripts/check_environment.py after     after it: what ``import fairseq_cgc`` finds is this checkout
    python scripts/check_environment.py pins      the constraints; of a torch that is there already its own version

Uses the standard library alone, since nothing else need be installed yet. Exit status 1 with a line
or two that say what is wrong.
"""

import sys
from importlib import metadata, util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAIRSEQ = "ve-fairseq"
KEPT_IF_INSTALLED = ("torch", "torchaudio", "triton")


def installed(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_python():
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        sys.exit(
            f"error: {sys.executable} is Python {sys.version.split()[0]}; Python 3.11 or 3.12 is needed, for which "
            f"{FAIRSEQ} has wheels. Install one of them, or name it with --python."
        )


def check_other_fairseq():
    providers = set(metadata.packages_distributions().get("fairseq", []))
    providers |= {name for name in ("fairseq", "fairseq-fixed") if installed(name)}
    for name in sorted(providers - {FAIRSEQ, FAIRSEQ.replace("-", "_")}):
        sys.exit(
            f"error: the environment of {sys.executable} holds {name} {installed(name)}, which installs the package "
            f"'fairseq' too; pip would overwrite its files with those of {FAIRSEQ}.\n"
            f"Use another environment, or first: {sys.executable} -m pip uninstall {name}"
        )


def check_fairseq_cgc():
    """No other package of our name on the path; before the installation it may be absent."""
    spec = util.find_spec("fairseq_cgc")
    found = Path(spec.submodule_search_locations[0]).resolve() if spec and spec.submodule_search_locations else None
    if spec and found is None:
        found = Path(spec.origin).resolve()
    if found is not None and found != ROOT / "fairseq_cgc":
        sys.exit(
            f"error: another package named fairseq_cgc is in the way, {found}; this one is {ROOT / 'fairseq_cgc'}.\n"
            f"Take it off PYTHONPATH, or: {sys.executable} -m pip uninstall fairseq-cgc"
        )
    return found


def check_installed():
    if installed(FAIRSEQ) is None or util.find_spec("fairseq") is None:
        sys.exit(f"error: fairseq is missing from the environment of {sys.executable}; pip install {FAIRSEQ}==0.12.3")
    if check_fairseq_cgc() is None:
        sys.exit(f"error: fairseq-cgc is missing from the environment of {sys.executable}; pip install -e {ROOT}")


def print_pins():
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name = line.partition("==")[0]
        if not (name in KEPT_IF_INSTALLED and installed("torch")):
            print(line)
    for name in filter(installed, KEPT_IF_INSTALLED if installed("torch") else ()):
        print(f"{name}=={installed(name)}")


if __name__ == "__main__":
    step = sys.argv[1] if len(sys.argv) == 2 else None
    if step == "before":
        check_python()
        check_other_fairseq()
        check_fairseq_cgc()
    elif step == "after":
        check_installed()
    elif step == "pins":
        print_pins()
    else:
        sys.exit(__doc__)
