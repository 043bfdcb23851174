import importlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forks import Fork

import fairseq_cgc
from benchmarks import contenders
from fairseq_cgc.errors import UserError
from fairseq_cgc.recipe.command_line import parse
from fairseq_cgc.recipe.preparation import SPLITS, Settings, prepare

if not torch.cuda.is_available():  # before anything imports Triton, whose own functions are interpreted or not for good
    os.environ["TRITON_INTERPRET"] = "1"
torch.set_num_threads(1)  # forks could not use the threads of the process they come from

ROOT = Path(__file__).resolve().parent.parent
USER_DIR = str(ROOT / "fairseq_cgc")
SLOW = {"ablated", "alone", "chain", "checkpoints", "finished", "trained", "installed"}  # fixtures: a training, a wheel


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW.intersection(item.fixturenames):
            item.add_marker("slow")
    items[:] = shared_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))


def shared_first(items, workers):
    """Order tests so that a worker begins with files whose tests share what a fixture made, and others take from it last.

    Each gets an equal part of the list, in order; one that is done takes half of what another has left, from its end.
    """
    files = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    parts, others = [[] for _ in range(workers)], []
    for tests in sorted(files.values(), key=len, reverse=True):
        definitions = [found for item in tests for found in item._fixtureinfo.name2fixturedefs.values()]
        shares = any(fixture.scope == "module" for found in definitions for fixture in found)
        (min(parts, key=len) if shares else others).extend(tests)
    for i, part in enumerate(parts):
        size = (len(items) - sum(map(len, parts[:i]))) // (workers - i)
        part.extend(others[: max(size - len(part), 0)])
        del others[: max(size - len(part), 0)]
    return [item for part in parts for item in part] + others


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(1)


DATA = {"path": "data", "source_lang": "de", "target_lang": "en", "sha256": {}, "pairs": {"train": 50, "test": 5}}


def write_record(folder, **record):
    """Write a run's ``run.json``; what is not given is that of a finished run of two updates."""
    wanted = {"row": "cgc", "seed": 1, "options": [], "data": DATA, "updates": 2, "done": 2}
    wanted |= {"versions": {"torch": "2.13.0"}, "command": ["fairseq-train"]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({**wanted, **record}))


class Task(contenders.Task):
    """A small one."""

    def __init__(self, source_size=40, target_size=30):
        super().__init__(source_size, target_size)


LIGHTWEIGHT = {"encoder_conv_type": "lightweight", "decoder_conv_type": "lightweight", "weight_softmax": True}
TINY = {
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_layers": 3,
    "encoder_kernel_size_list": [3, 7, 15],
    "decoder_embed_dim": 16,
    "decoder_ffn_embed_dim": 32,
    "decoder_layers": 2,
    "decoder_kernel_size_list": [3, 7],
}
TINY_OPTIONS = """
    --encoder-embed-dim 32 --encoder-ffn-embed-dim 64 --encoder-layers 2 --encoder-kernel-size-list [3,7]
    --decoder-embed-dim 32 --decoder-ffn-embed-dim 64 --decoder-layers 2 --decoder-kernel-size-list [3,7]
""".split()


def build_model(arch="lightconv_cgc", task=None, **options):
    """The model that fairseq would build for ``--arch`` and these options."""
    return contenders.build_model(arch, task or Task(), **options)


def tiny_model(arch="lightconv_cgc", task=None, **options):
    return build_model(arch, task, **{**TINY, **options})


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A preparation of 160 training pairs of a toy language."""
    folder = tmp_path_factory.mktemp("corpus")
    shuffle = random.Random(5)
    for split, count in zip(SPLITS, (160, 16, 16)):
        lines = [[shuffle.randrange(30) for _ in range(shuffle.randrange(3, 14))] for _ in range(count)]
        for language in ("de", "en"):
            text = "".join(" ".join(f"{language}{word}" for word in line) + "\n" for line in lines)
            (folder / f"{split}.{language}").write_text(text, encoding="utf-8")
    prepare({s: folder / s for s in SPLITS}, folder / "data", Settings(bpe_size=50), workers=1)
    return folder / "data"


def padded_batch(sentences, left):
    """n x C sentences to a T x B x C batch, garbage at the padding, and its B x T padding mask."""
    T, B = max(map(len, sentences)), len(sentences)
    x = torch.full((T, B, sentences[0].size(1)), 1e4, dtype=sentences[0].dtype)
    mask = torch.ones(B, T, dtype=torch.bool)
    for b, sentence in enumerate(sentences):
        place = slice(T - len(sentence), T) if left else slice(0, len(sentence))
        x[place, b] = sentence
        mask[b, place] = False
    return x, mask


def run(*command, cwd=None, check=True, env=None, stdin=None, start=subprocess.Popen):
    """Run a command; return its exit status, standard output and standard error."""
    process = start(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate(stdin)
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check and done.returncode:
        raise AssertionError(f"{command} exited with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


LIGHTLY = "import sys; sys.argv[0] = 'fairseq-cgc'\n"  # code that begins so imports the command line without torch


def command(name, *options, start=Fork, **keywords):
    """Run ``fairseq-cgc NAME``."""
    return run(sys.executable, "-m", "fairseq_cgc", name, *options, start=start, **keywords)


def refused(name, *options):
    """The words with which ``fairseq-cgc NAME`` refuses its options, in this process: two lines at most."""
    args = parse([name, *map(str, options)])
    with pytest.raises(UserError) as error:
        importlib.import_module(f"fairseq_cgc.recipe.{args.module}").main(args)
    assert str(error.value).count("\n") <= 1
    return str(error.value)


def fairseq(command, *options, start=Fork, **keywords):
    """Run ``fairseq-{command}``."""
    return run(sys.executable, "-m", f"fairseq_cli.{command}", *options, start=start, **keywords)


assert Path(fairseq_cgc.__file__).parent == Path(USER_DIR), "the tests run on another fairseq_cgc than this checkout's"
