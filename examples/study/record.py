"""Copy what the tables need of finished runs: a few small files each, without models, the corpus or this machine's paths.

    python examples/study/record.py runs/study/multi30k examples/study/multi30k

``fairseq-cgc table --experiment examples/study/multi30k`` then makes the experiment's table of the copies. Runs that
are not finished are left out.
"""

import argparse
import json
import shutil
from pathlib import Path

from fairseq_cgc.recipe.evaluation import SCORES
from fairseq_cgc.recipe.experiment import LOSS, SHUFFLED_TEST, read_experiment
from fairseq_cgc.recipe.files import atomic_folder, read_json, read_lines, run_command, write_json, write_lines
from fairseq_cgc.recipe.rows import SHUFFLED
from fairseq_cgc.recipe.table import STATISTICS_FILE
from fairseq_cgc.recipe.training import RUN


def record(run, evaluations, folder):
    """Copy a run to a folder: its record and learning curve, and of each evaluation scores and translations.

    Args:
        run: a ``table.Run``
        evaluations: dict of folder in the run's to ``table.Run``
    """
    with atomic_folder(folder, "record") as partial:
        kept = read_json(run.folder / RUN)
        kept.pop("command", None)
        kept["data"]["path"] = Path(kept["data"]["path"]).name
        write_json(partial / RUN, kept)
        epochs = [line for line in read_lines(run.folder / "log.jsonl") if '"event": "train_inner"' not in line]
        write_lines(partial / "log.jsonl", epochs)
        for test, evaluation in evaluations.items():
            (partial / test).mkdir()
            for name in (SCORES, LOSS, "test.tok.hyp"):
                if (run.folder / test / name).exists():
                    shutil.copyfile(run.folder / test / name, partial / test / name)
            sentences = evaluation.statistics.astype(int).tolist()
            lines = ",\n".join(json.dumps(values) for values in sentences)
            text = f'{{"test_set": "{evaluation.test_set}", "sentences": [\n{lines}\n]}}\n'
            (partial / test / STATISTICS_FILE).write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, help="an experiment's folder of runs")
    parser.add_argument("out", type=Path, help="folder for the copies")
    args = parser.parse_args()
    runs = read_experiment(args.runs)
    shuffled = {run.folder: {SHUFFLED_TEST: run} for run in runs if run.row == SHUFFLED}
    for run in runs:
        if run.unfinished:
            print(f"{run.folder.name}: {run.unfinished}")
        elif run.row != SHUFFLED:
            record(run, {"test": run, **shuffled.get(run.folder, {})}, args.out / run.folder.name)
            print(f"{run.folder.name}: recorded")


if __name__ == "__main__":
    run_command(main)
