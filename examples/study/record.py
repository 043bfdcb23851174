"""Copy what the tables need of finished runs: a few small files each, without models, the corpus or this machine's paths.

    python examples/study/record.py runs/study/multi30k examples/study/multi30k

``fairseq-cgc table --experiment examples/study/multi30k`` then makes the experiment's table of the copies. Runs that
are not finished are left out. What the trained encoders' convolutions and gates do with the test set's sentences is kept
too, and printed.
"""

import argparse
import copy
import json
import shutil
from collections import defaultdict
from pathlib import Path
from statistics import mean

import torch

from fairseq_cgc.errors import UserError
from fairseq_cgc.recipe.evaluation import SCORES
from fairseq_cgc.recipe.experiment import LOSS, read_experiment
from fairseq_cgc.recipe.files import (
    atomic_folder,
    read_json,
    read_lines,
    run_command,
    writable_folder,
    write_json,
    write_lines,
)
from fairseq_cgc.recipe.inspection import gates_of, source_batch, summarise
from fairseq_cgc.recipe.models import load_hub
from fairseq_cgc.recipe.report import render_table
from fairseq_cgc.recipe.rows import CGC, LEARNED, SHUFFLED
from fairseq_cgc.recipe.run_folder import MODEL_FOLDER, RECORD, RUN, SHUFFLED_TEST
from fairseq_cgc.recipe.table import STATISTICS_FILE

GATED = CGC, LEARNED, "cgc-summary"  # the rows whose gates are learned
LAYERS = "layers.json"
GATE_FIGURES = {"kernel_sum?": float, "gate_mean?": float, "between_share?": float}
LAYERS_SHAPE = [{"kernel_size": int, "branch": float, **GATE_FIGURES}]


def layers_of(run):
    """What the encoder of a run's averaged model does with its test set: a dict of figures a layer, none of a Transformer's.

    ``branch`` is how large what the convolution's branch adds is, beside what it is added to: the ratio of their root mean
    squares over the sentences' tokens and channels.
    """
    record = read_json(run / RUN)
    sentences = read_lines(Path(record["data"]["path"], "raw", f"test.{record['data']['source_lang']}"))
    hub = load_hub(run / MODEL_FOLDER)
    convolutions = [layer.conv for layer in hub.models[0].encoder.layers if hasattr(layer, "conv")]
    if not convolutions:
        return []
    found = [
        {"kernel_size": conv.kernel_size, "branch": branch}
        for conv, branch in zip(convolutions, branches(hub, sentences))
    ]
    if record["row"] in GATED:
        gates, lengths = gates_of(hub, sentences)
        for figures, layer in zip(found, (summarise(gate, lengths) for gate in gates)):
            figures["kernel_sum"] = sum(map(sum, layer["kernel_mean"])) / layer["heads"]
            figures |= {"gate_mean": layer["gate"]["mean"], "between_share": layer["gate"]["between_share"]}
    return found


def branches(hub, sentences, batch=64):
    """``branch`` of each encoder layer."""
    encoder, squares = copy.deepcopy(hub.models[0].encoder), defaultdict(float)  # the copy keeps the hooks

    def add(key, x):
        squares[key] += float(x[real.t()].square().sum())

    for number, layer in enumerate(encoder.layers):
        layer.register_forward_pre_hook(lambda _, inputs, key=("input", number): add(key, inputs[0]))
        layer.linear2.register_forward_hook(lambda _, inputs, y, key=("branch", number): add(key, y))
    tokens = sorted(map(hub.encode, sentences), key=len)
    for start in range(0, len(tokens), batch):
        source, real = source_batch(hub, tokens[start : start + batch])
        with torch.no_grad():
            encoder(source, real.sum(1))
    return [(squares["branch", number] / squares["input", number]) ** 0.5 for number in range(len(encoder.layers))]


def layers_table(folder):
    """Markdown: the recorded figures of each row and layer, in the mean over seeds and from the least to the most."""
    rows = defaultdict(list)
    for file in sorted(folder.glob(f"*/{LAYERS}")):
        layers = read_json(file, LAYERS_SHAPE)
        row = rows[read_json(file.with_name(RUN), RECORD)["row"]]
        if not layers or row and [set(layer) for layer in layers] != [set(layer) for layer in row[0]]:
            raise UserError(
                f"{file} does not have the layers and figures of other runs of its row; record the run again"
            )
        row.append(layers)
    header, lines = ["row", "seeds", "layer", "K", "branch", "kernel sum", "gate", "variance between sentences"], []
    for row, runs in rows.items():
        for number, layers in enumerate(zip(*runs), 1):
            cells = [
                _range([layer[name] for layer in layers], form) if name in layers[0] else ""
                for name, form in FORMS.items()
            ]
            lines.append([f"`{row}`", len(runs), number, layers[0]["kernel_size"], *cells])
    return render_table(header, lines)


FORMS = {"branch": "{:.2f}", "kernel_sum": "{:.3f}", "gate_mean": "{:.3f}", "between_share": "{:.1%}"}


def _range(values, form):
    least, most = form.format(min(values)), form.format(max(values))
    return form.format(mean(values)) + (f" ({least} – {most})" if len(values) > 1 else "")


def record(run, evaluations, folder):
    """Copy a run to a folder: its record and learning curve, and of each evaluation scores and translations.

    Args:
        run: a ``table.Run``
        evaluations: dict of folder in the run's to ``table.Run``
    """
    with atomic_folder(folder, "record") as partial:
        content = read_json(run.folder / RUN)
        content.pop("command", None)
        content["data"]["path"] = Path(content["data"]["path"]).name
        write_json(partial / RUN, content)
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
        try:
            if layers := layers_of(run.folder):
                write_json(partial / LAYERS, layers)
        except UserError as error:  # the model or the data is gone
            print(f"{run.folder.name}: without its layers: {error}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, help="an experiment's folder of runs")
    parser.add_argument("out", type=Path, help="folder for the copies")
    args = parser.parse_args()
    runs = read_experiment(args.runs)
    writable_folder(args.out, option="OUT")
    shuffled = {run.folder: {SHUFFLED_TEST: run} for run in runs if run.row in SHUFFLED.values()}
    for run in runs:
        if run.unfinished:
            print(f"{run.folder.name}: {run.unfinished}")
        elif run.row not in SHUFFLED.values():
            record(run, {"test": run, **shuffled.get(run.folder, {})}, args.out / run.folder.name)
            print(f"{run.folder.name}: recorded")
    if list(args.out.glob(f"*/{LAYERS}")):
        print(layers_table(args.out))


if __name__ == "__main__":
    run_command(main)
