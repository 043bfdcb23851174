"""Look at a trained model's gates: plots, variances, classes of sentences, minimal pairs."""

import argparse
import logging
from pathlib import Path

CLASSES = ("file", "length", "question")


def parse(argv=None):
    parser = argparse.ArgumentParser(
        prog="scripts/inspect_gates.py",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Look at a trained model's gates for raw sentences. Writes gates.json and, as PNGs, the gated kernels "
        "beside the ungated ones (kernels.png), the gate over the taps for a few sentences (gates.png), and how much each "
        "layer's gate varies between sentences (variance.png). With --classes or --labels, the paper's analysis of classes "
        "(supplement A.1) with a permutation test (classes.png); with --pairs, a table of minimal pairs.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a model folder, or a checkpoint")
    parser.add_argument("--input", type=Path, nargs="+", metavar="FILE", help="raw sentences, one a line, plain or .gz")
    parser.add_argument("--out", type=Path, default=Path("gates"), metavar="DIR", help="folder for what is made")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="prepared folder, for a checkpoint without dictionaries"
    )
    parser.add_argument("--layers", metavar="N,...", help="layers to plot, from 1; default: all")
    parser.add_argument("--heads", metavar="N,...", help="heads to plot, from 1; default: all")
    parser.add_argument(
        "--show", metavar="N,...", help="sentences of gates.png, from 1; default: five spread over the file"
    )
    parser.add_argument(
        "--classes",
        choices=CLASSES,
        help="compare classes of sentences: the file they come from, fifths by length, questions and others",
    )
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="compare these classes: a label a line, one for each sentence"
    )
    parser.add_argument("--class-layer", metavar="N", help="whose kernels are compared; default: the last gated one")
    parser.add_argument("--permutations", type=int, default=1000, metavar="N", help="of the labels")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the permutations")
    parser.add_argument(
        "--pairs",
        type=Path,
        metavar="FILE",
        help="minimal pairs, a tab between: how much each layer's gate moves, and the encoder's output at the token "
        "farthest from the difference",
    )
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="sentences encoded together")
    return parser.parse_args(argv)


def main(args):
    from fairseq_cgc.errors import CorpusError, OptionError, check_at_least
    from fairseq_cgc.recipe import inspection
    from fairseq_cgc.recipe.files import read_lines, writable_folder, write_json
    from fairseq_cgc.recipe.table import write_text_and_plots

    check_at_least(1, batch=args.batch, permutations=args.permutations)
    if not args.input and not args.pairs:
        raise OptionError("give sentences with --input, minimal pairs with --pairs, or both")
    if (args.classes or args.labels) and not args.input:
        raise OptionError("--classes and --labels are about the sentences of --input; give them")
    if args.classes and args.labels:
        raise OptionError("--classes and --labels exclude each other; leave one of them out")
    sentences, files = [], []
    repeated = len({path.name for path in args.input or ()}) < len(args.input or ())
    for path in args.input or ():
        lines = read_lines(path)
        if not any(line.strip() for line in lines):
            raise CorpusError(f"{path} is empty; raw sentences, one a line, were wanted")
        sentences += lines
        files += [str(path) if repeated else path.name] * len(lines)
    pairs = inspection.read_pairs(read_lines(args.pairs), args.pairs) if args.pairs else []
    labels = read_lines(args.labels) if args.labels else None
    if labels is not None and len(labels) != len(sentences):
        raise CorpusError(
            f"{args.labels} has {len(labels)} lines and the input {len(sentences)}; a label for each sentence was wanted"
        )
    out = writable_folder(args.out, option="--out")
    hub = inspection.load_model(args.checkpoint, args.data)
    report = {
        "checkpoint": str(args.checkpoint),
        "input": [str(path) for path in args.input or ()],
        "versions": inspection.versions(),
    }
    texts, plots = [], {}
    if sentences:
        convolutions = [layer.conv for layer in hub.models[0].encoder.layers]  # for what can be refused at once
        chosen = numbers("--layers", args.layers, len(convolutions))
        heads = numbers("--heads", args.heads, convolutions[0].num_heads)
        few = min(5, len(sentences))
        spread = ",".join(str(1 + len(sentences) * part // few) for part in range(few))
        shown = numbers("--show", args.show or spread, len(sentences))
        numbers("--class-layer", args.class_layer, len(convolutions))
        layers, lengths = inspection.gates_of(hub, sentences, args.batch)
        chosen = [layers[number] for number in chosen]
        report["sentences"] = len(sentences)
        report["layers"] = [inspection.summarise(layer, lengths) for layer in layers]
        report["shown"] = [
            {"sentence": sentences[n], "tokens": lengths[n], "gates": [layer.gates[n].tolist() for layer in chosen]}
            for n in shown
        ]
        texts.append(inspection.layer_table(report["layers"]))
        plots |= {
            "kernels.png": lambda path: inspection.plot_kernels(chosen, heads, path),
            "gates.png": lambda path: inspection.plot_gates(chosen, heads, shown, sentences, path),
            "variance.png": lambda path: inspection.plot_variances(report["layers"], path),
        }
    if args.classes or labels:
        kind = args.classes or args.labels.name
        labels = labels or inspection.sentence_classes(args.classes, sentences, lengths, files)
        varying = [layer.number for layer in layers if layer.gates.std(0).max() > 1e-7]
        number = int(args.class_layer or (varying or [len(layers)])[-1])
        layer = layers[number - 1]
        # Where tokens have kernels of their own, these differ between sentences whatever the gate does.
        what, values = ("kernels", layer.kernels) if len(layer.ungated) == 1 else ("gates", layer.gates)
        found = inspection.compare_classes(values, labels, lengths, args.permutations, args.seed)
        report["classes"] = {"of": kind, "compared": what, "layer": number, "seed": args.seed, **found}
        title = f"{kind}, {what} of layer {number}"
        texts.append(inspection.class_table(found, title))
        plots["classes.png"] = lambda path: inspection.plot_classes(found, title, path)
    if pairs:
        report["pairs"] = [inspection.compare_pair(hub, *pair) for pair in pairs]
        texts.append(inspection.pair_table(report["pairs"]))
    write_json(out / "gates.json", report)
    print(write_text_and_plots(out, "gates.md", "\n\n".join(texts) + "\n", plots), end="")


def numbers(option, text, count):
    """Places, from 0, of a list of numbers from 1."""
    from fairseq_cgc.errors import OptionError

    if text is None:
        return list(range(count))
    try:
        found = [int(number) - 1 for number in text.split(",")]
    except ValueError:
        found = [-1]
    if any(not 0 <= number < count for number in found):
        raise OptionError(f"{option} is {text}; numbers from 1 to {count}, with commas between, were wanted")
    return found


if __name__ == "__main__":
    arguments = parse()  # before the imports, which take seconds and need the environment
    from fairseq_cgc.recipe.files import run_command

    logging.disable(logging.INFO)
    run_command(lambda: main(arguments))
