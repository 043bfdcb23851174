"""Measure the gated convolution: ``python -m benchmarks {operators,paths,bandwidth,growth,training,generation,report}``.

Each command prints a table and, with --out, writes what it measured as JSON; ``growth`` also plots.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib import metadata
from pathlib import Path

import torch

from fairseq_cgc.errors import UserError, check_at_least
from fairseq_cgc.ops.context_gate import choose_gate, context_gate
from fairseq_cgc.ops.context_gated_lightconv import context_gated_lightconv
from fairseq_cgc.ops.lightconv import choose, lightconv
from fairseq_cgc.ops.padding import head_means
from fairseq_cgc.recipe.files import atomic_write, check_output, read_json
from fairseq_cgc.recipe.report import WITHOUT_PLOTS, has_matplotlib, new_figure, render_table

from . import contenders as c
from .measure import compare, peak_memory, quartiles

RESULTS = Path(__file__).with_name("results")
OPERATOR_LENGTHS = [10, 25, 60, 250, 1000]
GROWTH_LENGTHS = [250, 500, 1000, 2000, 4000]
KERNELS = [3, 7, 15, 31]


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, function, text, repeats):
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(function=function)
        sub.add_argument(
            "--repeats", type=int, default=repeats, help="timed runs of each contender (default: %(default)s)"
        )
        sub.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's choice)")
        sub.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
        sub.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
        sub.add_argument("--seed", type=int, default=1)
        sub.add_argument("--out", metavar="FILE.json", help="write the measurements here")
        sub.add_argument(
            "--busy",
            action="store_true",
            help="beside one process that keeps a core busy, as on a shared machine: started and ended here",
        )
        return sub

    sub = command("operators", operators, "one layer's convolution, forward and backward, gate included", 15)
    sub.add_argument("--tokens", type=int, default=4000, help="tokens per batch (default: %(default)s)")
    sub.add_argument("--lengths", type=int, nargs="+", default=OPERATOR_LENGTHS, metavar="T")
    sub.add_argument("--kernels", type=int, nargs="+", default=KERNELS, metavar="K")
    sub.add_argument(
        "--weight-dropout", type=float, default=0.1, help="DropConnect (default: the recipe's %(default)s)"
    )

    sub = command(
        "paths", paths, "every implementation of gate and convolution, where it is chosen and what it saves", 7
    )
    sub.add_argument("--tokens", type=int, default=4000, help="tokens per batch (default: %(default)s)")
    sub.add_argument("--lengths", type=int, nargs="+", default=OPERATOR_LENGTHS, metavar="T")
    sub.add_argument("--kernels", type=int, nargs="+", default=KERNELS, metavar="K")

    sub = command("bandwidth", bandwidth, "the convolution's forward against a copy of its input", 15)
    sub.add_argument("--tokens", type=int, default=16000, help="tokens per batch (default: %(default)s)")
    sub.add_argument("--lengths", type=int, nargs="+", default=[25, 60, 250], metavar="T")
    sub.add_argument("--kernels", type=int, nargs="+", default=KERNELS, metavar="K")

    sub = command("growth", growth, "time and memory of one layer's convolution against sentence length", 7)
    sub.add_argument("--sentences", type=int, default=2, help="sentences per batch (default: %(default)s)")
    sub.add_argument("--lengths", type=int, nargs="+", default=GROWTH_LENGTHS, metavar="T")
    sub.add_argument("--kernel", type=int, default=31, metavar="K")
    sub.add_argument("--limit", type=float, default=6.0, help="leave out a contender that takes more seconds per run")
    sub.add_argument(
        "--weight-dropout", type=float, default=0.1, help="DropConnect (default: the recipe's %(default)s)"
    )
    sub.add_argument("--plot", metavar="FILE.png", help="time and memory against length")

    sub = command("training", training, "training steps of the paper's models on batches of IWSLT'14's lengths", 3)
    sub.add_argument(
        "--max-tokens", type=int, default=4000, help="tokens per batch (default: the recipe's %(default)s)"
    )
    sub.add_argument("--batches", type=int, default=12, help="number of batches (default: %(default)s)")
    sub.add_argument("--models", nargs="+", choices=c.MODELS, default=["LightConv", "dynamic encoder", "CGC"])

    sub = command("generation", generation, "beam search of the paper's decoder, ours and fairseq's, same weights", 3)
    sub.add_argument("--beam", type=int, default=6, help="(default: the paper's %(default)s)")
    sub.add_argument("--max-tokens", type=int, default=1000, help="source tokens per batch (default: %(default)s)")
    sub.add_argument("--batches", type=int, default=4, help="number of batches (default: %(default)s)")

    sub = commands.add_parser("report", help="the tables of all measurements of a folder, as Markdown")
    sub.set_defaults(function=None)
    sub.add_argument(
        "folder", nargs="?", default=RESULTS, type=Path, help="folder of JSON files (default: benchmarks/results)"
    )

    args = parser.parse_args(arguments)
    try:
        if args.command == "report":
            return print("\n".join(report(args.folder)), end="")
        numbers = ("repeats", "threads", "tokens", "sentences", "kernel", "max_tokens", "batches", "beam")
        check_at_least(1, **{name: getattr(args, name, None) for name in numbers})
        for name in ("lengths", "kernels"):
            for value in getattr(args, name, []):
                check_at_least(1, **{name: value})
        for option, sizes in (("--kernels", getattr(args, "kernels", [])), ("--kernel", [getattr(args, "kernel", 1)])):
            for size in sizes:
                if size % 2 == 0:
                    raise UserError(f"{option} is {size}; it must be odd, as an encoder's kernels are")
        if args.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no GPU; leave the option out to measure on the CPU")
        check_outputs(args.out, getattr(args, "plot", None))
        if args.threads:
            torch.set_num_threads(args.threads)
        torch.manual_seed(args.seed)
        with busy() if args.busy else nullcontext():
            result = args.function(args)
        if args.busy:
            result["title"] += "; one core kept busy by another process"
        lines = table(result["rows"])
        print(f"\n{result['title']}\n\n" + "\n".join(lines))
        if args.out:
            record = {"command": command_line(arguments), **surroundings(args), **result}
            with atomic_write(Path(args.out)) as path:
                path.write_text(json.dumps(record, indent=1) + "\n")
    except UserError as error:
        sys.exit(f"error: {error}")


def check_outputs(out, plot):
    """Raises UserError, before anything is measured, for a file that could not be written, or is not for us to replace."""
    if out:
        check_output(Path(out), "--out", part="rows")
    if plot:
        check_output(Path(plot), "--plot", [out] if out else [])
        if Path(plot).is_file() and not Path(plot).read_bytes().startswith(b"\x89PNG"):
            raise UserError(f"--plot {plot} is there and is no plot; choose another name")
    if plot and not has_matplotlib():
        raise UserError(f"no {plot} {WITHOUT_PLOTS}")


def report(folder):
    """The lines of a Markdown page with every measurement's table, and what it was made with."""
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"there are no measurements, *.json, in {folder}; make some with --out {folder}/NAME.json")
    lines = ["# What was measured", "", "Made by `python -m benchmarks report`.", ""]
    for file in files:
        record = read_json(file)
        try:
            versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
            device = f"{record['device']}, {record['threads']} of {record['cores']} cores"
            lines += [f"## {file.stem}", "", record["title"] + ".", "", f"`{record['command']}`", ""]
            lines += [f"{device}; Python {record['python']}, {versions}.", ""]
            lines += [*table(record["rows"]), ""]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file} is not as python -m benchmarks writes it ({error!r}); make it again") from None
        if file.with_suffix(".png").exists():
            lines += [f"![{file.stem}]({file.stem}.png)", ""]
    return lines


def command_line(arguments):
    return "python -m benchmarks " + shlex.join(sys.argv[1:] if arguments is None else arguments)


def surroundings(args):
    """Device, threads and versions: what a figure means nothing without."""
    versions = {name: metadata.version(name) for name in ("torch", "ve-fairseq")}
    try:
        versions["triton"] = metadata.version("triton")
    except metadata.PackageNotFoundError:
        pass
    name = torch.cuda.get_device_name() if args.device == "cuda" else cpu_name()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def cpu_name():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def operators(args):
    rows = []
    for T in args.lengths:
        B = max(1, args.tokens // T)
        for K in args.kernels:
            functions = layer_runs(T, B, K, args)
            results = compare(functions, args.repeats, args.device, f"T {T}, K {K}")
            row = {"T x B": f"{T} x {B}", "K": K, "LightConv, ms": round(results["LightConv"]["median"], 2)}
            for name in list(functions)[1:]:
                row[name] = ratio(results[name])
            rows.append({**row, "measured": results})
    title = (
        f"One convolution of 512 channels and 4 heads, forward and backward, {args.dtype}, DropConnect "
        f"{args.weight_dropout}: time as a ratio to fairseq's LightConv, median [quartiles] of {args.repeats} repeats"
    )
    return {"title": title, "rows": rows}


@contextmanager
def busy():
    """One process that computes without end, for as long as this context lasts."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def paths(args):
    """Each pair of implementations as the fused layer and composed; the simplest ones, composed, are the measure."""
    step = 0.0
    if args.device == "cpu" or args.dtype == "float32":  # what a layer's time is a share of
        [sample] = c.batches(args.tokens, 1, args.seed)
        model = training_step(c.model("CGC", c.Task()), args)
        step = compare({"step": partial(model, sample)}, 3, args.device, "training step")["step"]["median"]
    convolutions = ["triton", "bands"] if args.device == "cuda" else ["depthwise", "bands"]
    gates = ["triton", "torch"] if args.device == "cuda" else ["torch"]
    rows, simplest = [], "composed, bands and torch"
    for T in args.lengths:
        x = torch.randn(T, max(1, args.tokens // T), 512, device=args.device, dtype=getattr(torch, args.dtype))
        grad = torch.randn_like(x)
        x.requires_grad_()
        for K in args.kernels:
            conv = c.layers(K)["CGC"].to(args.device)
            ways = {simplest: composed(conv, "torch", "bands")}
            for gate in gates:
                for convolution in convolutions:
                    if convolution != "depthwise" or T >= 2 * K:  # below, it may take seconds
                        ways[f"fused, {convolution} and {gate}"] = fused(conv, gate, convolution)
                        ways[f"composed, {convolution} and {gate}"] = composed(conv, gate, convolution)
            own = list(conv.parameters())
            functions = {name: c.forward_and_backward(way, x, grad, own) for name, way in ways.items()}
            results = compare(functions, args.repeats, args.device, f"T {T}, K {K}")
            parameters = *conv.gate.tensors(), conv.weight.squeeze(1)
            chosen = f"fused, {choose(x, K, K // 2)} and "
            chosen += choose_gate(head_means(x.detach(), 4), parameters, conv.gate.options)
            base = results[simplest]
            row = {"T x B": f"{T} x {x.size(1)}", "K": K, "chosen": chosen}
            row |= {f"{simplest}, ms": round(base["median"], 2)}
            row |= {name: ratio(result) for name, result in results.items() if result is not base}
            if step:
                saved = 7 * (base["median"] - results[chosen]["median"])
                row["7 layers save, share of a step"] = f"{100 * saved / step:.1f} %"
            rows.append({**row, "measured": results})
    columns = dict.fromkeys(name for row in rows for name in row)
    rows = [{name: row.get(name, "") for name in columns} for row in rows]
    title = (
        f"One layer of 512 channels and 4 heads, forward and backward, {args.dtype}, DropConnect 0.1, by its "
        f"implementations: time as a ratio to the simplest ones composed, lightconv(x, context_gate(x)), median [quartiles] "
        f"of {args.repeats} repeats" + (f"; a training step of the paper's model takes {step:.0f} ms" if step else "")
    )
    return {"title": title, "rows": rows}


def fused(conv, gate, convolution):
    """From x to the fused layer's output, by these implementations."""

    def call(x):
        own = *conv.gate.tensors(), conv.weight.squeeze(1), conv.gate.options
        choices = {"padding_l": conv.padding_l, "dropout": 0.1, "gate": gate, "convolution": convolution}
        return context_gated_lightconv(x, None, *own, **choices)

    return call


def composed(conv, gate, convolution):
    """From x to the same output, by these implementations one after another."""

    def call(x):
        own = *conv.gate.tensors(), conv.weight.squeeze(1), conv.gate.options
        kernels = context_gate(head_means(x, conv.num_heads), None, *own, implementation=gate)
        return lightconv(x, kernels, conv.padding_l, 0.1, implementation=convolution)

    return call


def layer_runs(T, B, K, args):
    dtype = getattr(torch, args.dtype)
    x = torch.randn(T, B, 512, device=args.device, dtype=dtype, requires_grad=True)
    grad = torch.randn_like(x)
    modules = {name: m.to(args.device, dtype) for name, m in c.layers(K, weight_dropout=args.weight_dropout).items()}
    return {name: c.forward_and_backward(m, x, grad, m.parameters()) for name, m in modules.items()}


def bandwidth(args):
    rows = []
    for T in args.lengths:
        x = torch.randn(T, max(1, args.tokens // T), 512, device=args.device, dtype=getattr(torch, args.dtype))
        y = torch.empty_like(x)
        functions = {"copy": partial(y.copy_, x)}
        for K in args.kernels:
            kernel = torch.randn(x.size(1), 4, K, device=args.device)
            functions[f"K {K}"] = partial(lightconv, x, kernel, K // 2)
        with torch.no_grad():
            results = compare(functions, args.repeats, args.device, f"T {T}")
        copied = 2 * x.numel() * x.element_size() / results["copy"]["median"] / 1e6  # read and written
        row = {"T x B": f"{T} x {x.size(1)}", "copy, GB/s": round(copied, 1)}
        for name in list(functions)[1:]:
            row[name] = f"{1 / results[name]['ratio']:.2f}"
        rows.append({**row, "measured": results})
    title = (
        f"Forward of one convolution of 512 channels, one kernel a sentence and head, {args.dtype}: share of a copy's "
        f"bandwidth, median of {args.repeats} repeats"
    )
    return {"title": title, "rows": rows}


def growth(args):
    rows, left_out = [], set()
    for T in sorted(args.lengths):
        functions = layer_runs(T, args.sentences, args.kernel, args)
        functions = {name: function for name, function in functions.items() if name not in left_out}
        results = compare(functions, args.repeats, args.device, f"T {T}", args.limit)
        left_out |= functions.keys() - results.keys()
        for name, result in results.items():
            result["peak_bytes"] = peak_memory(functions[name], args.device)
            rows.append(
                {
                    "T": T,
                    "layer": name,
                    "ms": round(result["median"], 2),
                    "us a token": round(1e3 * result["median"] / (T * args.sentences), 3),
                    "MB": round(result["peak_bytes"] / 1e6, 1),
                    "KB a token": round(result["peak_bytes"] / 1e3 / (T * args.sentences), 2),
                    "measured": result,
                }
            )
    if args.plot:
        plot_growth(rows, args)
    title = (
        f"One convolution of 512 channels, kernel {args.kernel}, forward and backward, {args.sentences} sentences, "
        f"{args.dtype}: median of {args.repeats} repeats, and the most memory it allocates"
    )
    return {"title": title, "rows": rows}


def plot_growth(rows, args):
    figure, axes = new_figure(10, 4, columns=2)
    for axis, column, label in zip(axes, ("ms", "MB"), ("time, ms", "peak memory, MB")):
        for name in dict.fromkeys(row["layer"] for row in rows):
            own = [row for row in rows if row["layer"] == name]
            axis.plot([row["T"] for row in own], [row[column] for row in own], marker="o", label=name)
        axis.set(xscale="log", yscale="log", xlabel="tokens a sentence", ylabel=label)
        axis.set_xticks(lengths := sorted(args.lengths), [f"{length:,}" for length in lengths])
        axis.minorticks_off()
        axis.grid(True, alpha=0.2)
    axes[0].legend()
    figure.suptitle(f"Forward and backward of one convolution: kernel {args.kernel}, {args.sentences} sentences")
    with atomic_write(Path(args.plot)) as path:
        figure.savefig(path, format="png", dpi=120)  # the axes' numbers are mathematics, which save_figure leaves out


def training(args):
    task = c.Task()
    samples = c.batches(args.max_tokens, args.batches, args.seed)
    steps = {}
    for name in args.models:
        steps[name] = training_step(c.model(name, task), args)
    measured = {name: {"ms": [], "tokens": []} for name in steps}
    ratios = {name: [] for name in steps}
    for number, sample in enumerate(samples):
        functions = {name: partial(step, sample) for name, step in steps.items()}
        results = compare(functions, args.repeats, args.device, f"batch {number + 1}/{len(samples)}")
        for name, result in results.items():
            measured[name]["ms"].append(result["median"])
            measured[name]["tokens"].append(sample["ntokens"])
            ratios[name] += [base / own for base, own in zip(results[args.models[0]]["ms"], result["ms"])]
    longest = max(samples, key=lambda sample: sample["net_input"]["src_tokens"].numel())
    rows = []
    for name, step in steps.items():
        tokens, ms = sum(measured[name]["tokens"]), sum(measured[name]["ms"])
        low, middle, high = quartiles(ratios[name])
        measured[name]["peak_bytes"] = peak_memory(partial(step, longest), args.device)
        rows.append(
            {
                "model": name,
                "target tokens/s": round(1e3 * tokens / ms, 1),
                f"to {args.models[0]}": f"{middle:.3f} [{low:.3f}, {high:.3f}]",
                "peak MB": round(measured[name]["peak_bytes"] / 1e6),
                "measured": {**measured[name], "speed_ratios": ratios[name]},
            }
        )
    title = (
        f"Training steps (forward, backward, Adam) of the paper's models on {len(samples)} batches of at most "
        f"{args.max_tokens} tokens with IWSLT'14's lengths, {args.dtype}: speed as a ratio, median [quartiles] over batches and repeats"
    )
    return {"title": title, "rows": rows}


def training_step(model, args):
    from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss

    model = model.to(args.device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-7, betas=(0.9, 0.98), weight_decay=1e-4)
    dtype = getattr(torch, args.dtype)

    def step(sample):
        inputs = {name: value.to(args.device) for name, value in sample["net_input"].items()}
        with torch.autocast(args.device, dtype=dtype, enabled=args.dtype != "float32"):
            output = model(**inputs)
        logprobs = model.get_normalized_probs(output, log_probs=True).flatten(0, 1)
        target = sample["target"].to(args.device).flatten()
        loss, _ = label_smoothed_nll_loss(logprobs, target.unsqueeze(1), 0.1, ignore_index=1)
        (loss / sample["ntokens"]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def generation(args):
    from fairseq.sequence_generator import SequenceGenerator

    task = c.Task()
    theirs = c.model("LightConv", task)
    # Without a gate, our model is LightConv.
    ours = c.model("CGC", task, cgc_gate="none")
    ours.load_state_dict(theirs.state_dict())
    gated = c.model("CGC", task, cgc_decoder="source")
    samples = c.batches(args.max_tokens, args.batches, args.seed)
    generators = {}
    for name, model in (("fairseq's", theirs), ("ours", ours), ("ours, gated by the source", gated)):
        model.to(args.device, getattr(torch, args.dtype)).eval().make_generation_fast_()
        # Untrained models do not end their sentences: each is as long as the batch's longest source.
        generators[name] = SequenceGenerator(
            [model], task.target_dictionary, beam_size=args.beam, max_len_a=1, max_len_b=0
        )
    rows, different = [], 0
    times, ratios = ({name: [] for name in generators} for _ in range(2))
    for number, sample in enumerate(samples):
        inputs = {"net_input": {name: value.to(args.device) for name, value in sample["net_input"].items()}}
        functions = {name: partial(generator.generate, [], inputs) for name, generator in generators.items()}
        different += not_the_same(functions["fairseq's"](), functions["ours"]())
        results = compare(functions, args.repeats, args.device, f"batch {number + 1}/{len(samples)}")
        for name, result in results.items():
            times[name].append(result["median"])
            ratios[name] += [base / own for base, own in zip(results["fairseq's"]["ms"], result["ms"])]
    sentences = sum(len(sample["target"]) for sample in samples)
    for name in generators:
        low, middle, high = quartiles(ratios[name])
        row = {"decoder": name, "sentences/s": round(1e3 * sentences / sum(times[name]), 2)}
        row["to fairseq's"] = f"{middle:.3f} [{low:.3f}, {high:.3f}]"
        rows.append({**row, "measured": {"ms": times[name], "speed_ratios": ratios[name]}})
    title = (
        f"Beam {args.beam} on {sentences} sentences with IWSLT'14's lengths, the paper's size, fairseq's and ours with "
        f"the same weights, {args.dtype}: speed as a ratio, median [quartiles]; {different} sentences came out different"
    )
    return {"title": title, "rows": rows}


def not_the_same(theirs, ours):
    """How many sentences' best hypotheses differ in a token, or in a score by more than 1e-5."""
    different = 0
    for one, other in zip(theirs, ours):
        same = torch.equal(one[0]["tokens"], other[0]["tokens"])
        different += not same or abs(one[0]["score"] - other[0]["score"]) > 1e-5
    return different


def ratio(result):
    return f"{result['ratio']:.2f} [{result['ratio_low']:.2f}, {result['ratio_high']:.2f}]"


def table(rows):
    """Rows to the lines of a Markdown table, without what was measured in full."""
    columns = [name for name in rows[0] if name != "measured"]
    return render_table(columns, [[str(row[column]) for column in columns] for row in rows], "r").splitlines()


if __name__ == "__main__":
    main()
