"""Copy what the tables need of finished runs: a few small files each, without checkpoints, models or this machine's paths.

    python examples/study/record.py runs/study/multi30k examples/study/multi30k

``fairseq-cgc table --experiment examples/study/multi30k`` then makes the experiment's table of the copies. Runs that
are not finished are left out.
"""

import argparse
import json
import shutil
from pathlib import Path

from fairseq_cgc.errors import CorpusError
from fairseq_cgc.recipe.evaluation import SCORES
from fairseq_cgc.recipe.experiment import LOSS, SHUFFLED_TEST
from fairseq_cgc.recipe.files import atomic_folder, read_lines, run_command, write_json, write_lines
from fairseq_cgc.recipe.table import read_run
from fairseq_cgc.recipe.training import RUN


def record(run, folder):
    """Copy one run (a ``table.Run``) to a folder."""
    target = run.data["target_lang"]
    with atomic_folder(folder, "record") as partial:
        kept = json.loads((run.folder / RUN).read_text(encoding="utf-8"))
        del kept["command"]
        kept["data"]["path"] = Path(kept["data"]["path"]).name
        write_json(partial / RUN, kept)
        epochs = [line for line in read_lines(run.folder / "log.jsonl") if '"event": "train_inner"' not in line]
        write_lines(partial / "log.jsonl", epochs)
        for test in ("test", SHUFFLED_TEST):
            if (run.folder / test / SCORES).exists():
                (partial / test).mkdir()
                for name in (SCORES, LOSS, "test.tok.hyp", f"test.tok.{target}"):
                    if (run.folder / test / name).exists():
                        shutil.copyfile(run.folder / test / name, partial / test / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, help="an experiment's folder of runs")
    parser.add_argument("out", type=Path, help="folder for the copies")
    args = parser.parse_args()
    folders = sorted(path.parent for path in args.runs.glob(f"*/{RUN}"))
    if not folders:
        raise CorpusError(f"{args.runs} holds no runs (*/{RUN})")
    for folder in folders:
        run = read_run(folder)
        if run.unfinished:
            print(f"{folder.name}: {run.unfinished}")
        else:
            record(run, args.out / folder.name)
            print(f"{folder.name}: recorded")


if __name__ == "__main__":
    run_command(main)
