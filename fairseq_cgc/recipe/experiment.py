"""Which parts of the gate matter: rows trained over seeds on one corpus, and their table."""

import dataclasses
import os
import re
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from queue import Queue
from threading import Event

import torch
from tqdm import tqdm

from ..compat import EVERY_SENTENCE, NO_WORKERS, ONE_DEVICE, USER_DIR
from ..errors import MOST_SEED, CorpusError, OptionError, UserError, check_at_least, check_within, flag
from . import table
from .checkpoints import find_checkpoints
from .evaluation import RESULT, SCORES, split_hashes
from .fairseq_options import option_values
from .files import (
    LOCK,
    check_own_files,
    check_writable,
    is_locked,
    locked,
    read_json,
    usable_path,
    what_to_do,
    writable_folder,
    write_json,
)
from .preparation import read_preparation
from .processes import child
from .report import last_words, render_table
from .rows import CGC, CONTROL, LEARNED, PAPER, PAPER_AND_CONTROLS, ROWS, SHUFFLED, SMALL, small_options
from .run_folder import CHECKPOINTS, LAST, RECORD, RUN, SHUFFLED_TEST
from .scoring import TOKENISED_BLEU, sacrebleu_tokeniser
from .significance import detectable_difference
from .training import data_record, parse_figures, plan, prepared_folder, validation_options

COMMAND = [sys.executable, "-m", "fairseq_cgc"]
ALL = [row for row in ROWS if row != "transformer" and ROWS[row].criterion == PAPER["criterion"]]
SHUFFLE = ROWS[SHUFFLED[CGC]].evaluated_with
FAILED = "experiment: failed: "  # what the last line of a failed run's log begins with
LOSS = "loss.json"
# Options that change how many updates an epoch has.
BATCHING = {"--max-tokens", "--max-source-positions", "--max-target-positions"}


def run_all(args, rows, seeds):
    """Train and translate every row with every seed, in processes of their own, each with a log beside its run.

    Runs at the same time share the CPU's cores and, unless a run takes several, have a GPU each, as far as there are. Takes
    the options of ``fairseq-cgc experiment``, names of rows, and numbers. Returns a dict of those that failed (``row, seed``)
    to the reason; the others have been finished.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // args.jobs)
    stopped, free = Event(), Queue()
    for environment in islice(cycle(_devices(args)), args.jobs):
        free.put({"OMP_NUM_THREADS": str(threads), **os.environ, **environment})
    folders = {(row, seed): args.runs / f"{row}-seed{seed}" for seed in seeds for row in _trained(rows)}
    failed = {}

    def run(row, seed):
        name, folder, environment = _name(row, seed), folders[row, seed], free.get()
        execute = partial(_execute, stopped=stopped, environment=environment)
        log = folder.with_suffix(".log")
        try:
            with locked(log, f"the run {folder}"):  # another experiment's words would stand between ours
                try:
                    _run(args, row, seed, folder, execute)
                    score = read_json(folder / "test" / SCORES, RESULT)["scores"][TOKENISED_BLEU]["score"]
                    if SHUFFLED.get(row) in rows:
                        name = _name(SHUFFLED[row], seed)
                        _run_shuffled(args, folder, execute)
                except (UserError, OSError) as error:
                    if not stopped.is_set():
                        with suppress(OSError), open(log, "a", encoding="utf-8") as file:
                            print(f"\n{FAILED}{name}: " + _words(error).replace("\n", "; "), file=file)
                    raise
        except (UserError, OSError) as error:
            failed[name] = _words(error)
            return f"{name}: stopped" if stopped.is_set() else f"{name}: failed: {failed[name]}"
        finally:
            free.put(environment)
        return f"{_name(row, seed)}: BLEU-4 {score:.2f}"

    done = {task: updates_logged(folder) for task, folder in folders.items()}
    total = args.max_update * len(folders)
    with (
        ThreadPoolExecutor(args.jobs) as pool,
        tqdm(
            total=total, initial=sum(done.values()), unit=" updates", desc=f"{len(folders)} runs", disable=None
        ) as bar,
    ):
        try:
            waiting = {pool.submit(run, *task): task for task in folders}
            while waiting:
                ended, _ = wait(waiting, timeout=2, return_when=FIRST_COMPLETED)
                done |= {task: min(args.max_update, updates_logged(folders[task])) for task in waiting.values()}
                for future in ended:
                    tqdm.write(future.result(), file=sys.stderr)
                    done[waiting.pop(future)] = args.max_update
                bar.update(sum(done.values()) - bar.n)
                if waiting and bar.n == total:
                    bar.set_description("translating")
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    return failed


def _words(error):
    return str(error) if isinstance(error, UserError) else what_to_do(error)


def _devices(args):
    """Of each GPU the environment in which a process sees it alone; one that says nothing where a run takes several, or none."""
    count = torch.cuda.device_count()
    if count < 2 or option_values(args.fairseq).get("--gpus", "1") != "1":
        return [{}]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return [{"CUDA_VISIBLE_DEVICES": name} for name in visible.split(",")[:count]]


def _trained(rows):
    """The rows that have to be trained for some rows."""
    needed = [row for row, shuffled in SHUFFLED.items() if shuffled in rows and row not in rows]
    return needed + [row for row in rows if row not in SHUFFLED.values()]


def _name(row, seed):
    return f"{row}, seed {seed}"


def failures(folder, runs):
    """What has failed in a folder of runs, as ``run_all`` returns it, by the last lines of their logs.

    Of the runs that ``read_experiment`` returns those that are finished have not, nor those that were trained on since.
    """
    found, done = {}, {_name(run.row, run.seed) for run in runs if run.unfinished is None}
    for log in filter(Path.is_file, sorted(folder.glob("*-seed*.log"))):
        words, progress = log.read_text(encoding="utf-8", errors="replace"), log.with_suffix("") / "log.jsonl"
        last = words.rstrip("\n").rpartition("\n")[2]
        if not last.startswith(FAILED) or progress.exists() and progress.stat().st_mtime > log.stat().st_mtime:
            continue
        name, _, reason = last.removeprefix(FAILED).partition(": ")
        if name not in done:
            found[name] = reason
    return found


def updates_logged(folder):
    """How many updates a run's ``log.jsonl`` tells of, by its last lines."""
    log = folder / "log.jsonl"
    if not log.exists():
        return 0
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        found = re.findall(rb'num_updates": (\d+)', file.read())
    return int(found[-1]) if found else 0


def _execute(command, log, stopped, environment=os.environ):
    """Run a command to its end, or until an event is set; its words go to the end of a file.

    Raises UserError if it failed, with its last words, or was stopped.
    """
    with open(log, "a", encoding="utf-8") as file:
        start = file.tell()
        with child(command, stdout=file, stderr=subprocess.STDOUT, environment=environment) as process:
            while process.poll() is None:
                if stopped.wait(0.1):
                    raise UserError("stopped")
    if process.returncode:
        with open(log, encoding="utf-8", errors="replace") as file:
            file.seek(start)
            words = last_words(file).replace("\n", "; ")
        raise UserError(f"{words} (exit status {process.returncode}; {log})")


def _run(args, row, seed, folder, execute):
    """What is left to do of a run."""
    execute([*COMMAND, *_training(args, row, seed)], folder.with_suffix(".log"))
    _translate(args, folder, "test", [], execute)


def _training(args, row, seed):
    """The words of ``fairseq-cgc``'s that train a run."""
    train = ["train", row, "--seed", seed, f"--data={args.data}", f"--runs={args.runs}"]
    train += ["--batch-tokens", args.batch_tokens, "--max-update", args.max_update, "--keep", args.average]
    return [*map(str, train), *(small_options(row) if args.small else []), *args.fairseq]


def _check_training(args, row, seed):
    """Raises UserError for a training that ``fairseq-cgc train`` would refuse, or that is not the experiment's."""
    from .command_line import parse  # which imports nothing of a command's before it starts

    asked = parse(_training(args, row, seed))
    for name, wanted, instead in (
        ("seed", seed, "give --seeds"),
        ("keep", args.average, "give --average"),
        ("nodes", 1, "leave it out"),
        ("node_rank", 0, "leave it out"),
    ):
        if getattr(asked, name) != wanted:
            raise OptionError(f"{flag(name)} is decided by the experiment; {instead}")
    plan(asked)


def _run_shuffled(args, folder, execute):
    """What is left to do with shuffled contexts of a run that is finished."""
    pairs = read_json(folder / RUN, RECORD)["data"]["pairs"]["test"]
    _translate(args, folder, SHUFFLED_TEST, ["--model-overrides", SHUFFLE, *company(pairs)], execute)
    _validate_shuffled(prepared_folder(args.data), folder, execute)


def _translate(args, folder, test, options, execute):
    """Translate and score, unless that has been done with these checkpoints and options."""
    names = [path.name for path in find_checkpoints(folder / CHECKPOINTS, args.by, args.average)]
    scores = folder / test / SCORES
    made = read_json(scores, RESULT)["generation"] if scores.exists() else {}
    text = split_hashes(read_json(folder / RUN, RECORD)["data"]["sha256"], "test")
    wanted = {"checkpoints": names, "beam": PAPER["beam"], "options": options, "text": text}
    if any(made.get(name) != value for name, value in wanted.items()):
        run = usable_path(folder, "--runs")  # absolute: no name that begins as an option does
        generate = ["generate", run, f"--data={args.data}", "--average", args.average, "--by", args.by]
        generate += ["--out", run / test, *options]
        execute([*COMMAND, *map(str, generate)], folder.with_suffix(".log"))


def company(sentences):
    """fairseq's options for batches of which none is a single sentence's, which has no other to take a context from.

    Raises OptionError where there is a single sentence.
    """
    if sentences < 2:
        raise OptionError(
            f"a row with shuffled contexts gives a sentence another one's, and there is {sentences} sentence in a split to "
            "evaluate; leave such rows out, or prepare more"
        )
    size = next(size for size in (*range(64, 2, -1), 2) if sentences % size != 1)
    return ["--batch-size", str(size), "--max-tokens", str(size * 4096)]  # more than any sentence has


def _validate_shuffled(prepared, folder, execute):
    """The validation loss of the last update with shuffled contexts."""
    path, log = folder / SHUFFLED_TEST / LOSS, folder / SHUFFLED_TEST / "validate.log"
    if path.exists():
        return
    pairs, last = read_preparation(prepared)["counts"]["valid"]["pairs"], folder / CHECKPOINTS / LAST
    options = ["--task", "translation", "--user-dir", USER_DIR, "--path", str(last)]
    options += ["--model-overrides", SHUFFLE, *company(pairs), "--log-format", "json"]
    options += [*ONE_DEVICE, *EVERY_SENTENCE, *NO_WORKERS, *validation_options(prepared, options)]
    log.unlink(missing_ok=True)
    execute([sys.executable, "-m", "fairseq_cli.validate", str(prepared / "bin"), *options], log)
    figures = [parse_figures(line) for line in log.read_text(encoding="utf-8").splitlines()]
    losses = [values["valid_loss"] for event, values in figures if event == "valid"]
    if not losses:
        raise UserError(f"fairseq-validate reported no loss; see {log}")
    write_json(path, {"valid_loss": losses[-1]})


def make_table(runs_folder, out=None, corpus=None):
    """``table.make_table`` for all rows that have runs; its arguments, what it returns and its errors are the same."""
    check_own_files(out or runs_folder, table.MADE)
    runs = read_experiment(runs_folder)
    check_writable(Path(out or runs_folder), "fairseq-cgc table --out")  # before the comparisons, which take a while
    corpus = corpus or table.corpus_name(runs)
    title, header, rows, notes = contents(runs, corpus, failures(runs_folder, runs))
    text = "\n\n".join([f"# {title}", render_table(header, rows, "ll"), *notes]) + "\n"
    return table.write_table(out or runs_folder, text, runs, corpus)


def read_experiment(folder):
    """The runs of a folder, as ``read_runs`` returns them, and behind them those evaluated with shuffled contexts."""
    runs = table.read_runs(folder)
    finished = [run for run in runs if run.row in SHUFFLED and run.unfinished is None]
    runs += [_shuffled(run) for run in finished if (run.folder / SHUFFLED_TEST / LOSS).exists()]
    table.check_same_data(runs)
    return runs


def _shuffled(run):
    """The same run, evaluated with shuffled contexts."""
    folder = run.folder / SHUFFLED_TEST
    other = dataclasses.replace(
        run,
        row=SHUFFLED[run.row],
        losses=[(run.done, read_json(folder / LOSS, {"valid_loss": float})["valid_loss"])],
        speeds=[],
    )
    table.read_results(other, folder)
    return other


def contents(runs, corpus, failed):
    """What an experiment's table tells: (title, header, rows of cells, notes: paragraphs and lists in Markdown).

    Takes what ``read_experiment`` and ``failures`` return, and the corpus's name between them.
    """
    columns = ["parameters", TOKENISED_BLEU, "difference to CGC", "difference to the constant gate"]
    columns += ["validation loss", "updates", "training tokens a second", "sentences a second"]
    present = [row for row in ROWS if any(run.row == row for run in runs)]
    to_cgc, to_control = table.differences(runs, present, CGC), table.differences(runs, present, CONTROL)
    against = dict(zip(columns[2:4], ((CGC, to_cgc), (CONTROL, to_control))))
    rows = [[f"`{row}`", ROWS[row].title, *table.row_cells(runs, row, columns, against)] for row in present]
    notes = ["Failed:\n\n" + "\n".join(_list(failed))] if failed else []
    notes += [
        *table.unfinished_notes([run for run in runs if _name(run.row, run.seed) not in failed]),
        *table.settings_notes(runs),
        *power_notes(runs, to_cgc),
    ]
    notes += context_notes(runs, present)
    notes.append(
        f"{table.STATISTICS} The loss is the one that fairseq reports on the validation set after the last update. Speeds are "
        "medians over a run, and other work on its machine slows them: to compare speeds, train one run at a time on an idle "
        "machine."
    )
    return f"Ablations on {corpus}", ["row", "is", *columns], rows, notes + table.provenance(runs)


def context_notes(runs, present):
    """Words on what each row gains over its own shuffled control and over learned gates, where there are any."""
    shuffled = {row: control for row, control in SHUFFLED.items() if row in present and control in present}
    lines = [
        f"- `{row}`, over `{control}`, which is the same models with each sentence given the context of its neighbour in the "
        f"batch: {table.difference_cell(table.differences(runs, [row], control)[row])}"
        for row, control in shuffled.items()
    ]
    if LEARNED in present:
        over = table.differences(runs, shuffled, LEARNED)
        lines += [f"- `{row}`, over `{LEARNED}`: {table.difference_cell(over[row])}" for row in shuffled]
    why = (
        "**A gain is the context's** only if it is one over gates without a context, and its words' only if it is one over "
        "another sentence's context too, which is that of one about as long:\n\n"
    )
    return [why + "\n".join(lines)] if lines else []


def power_notes(runs, to_cgc):
    """Words on what differences to CGC so many seeds could have shown, or none."""
    sentences = next((len(run.statistics) for run in runs if run.unfinished is None), 0)  # all have the same test set
    found = {
        row: detectable_difference(over.seed_noise, len(over.by_seed), over.sentence_error, sentences)
        for row, against in to_cgc.items()
        if (over := against.over_seeds) is not None and over.seed_noise > 0
    }
    if not found:
        return []
    effects = ", ".join(f"{least:.2f} for `{row}`" for row, least in found.items())
    return [
        "Four studies of five like this one would find a true difference to CGC of so many BLEU (p < 0.05, as far as the "
        f"noise can be told from these seeds): {effects}. Smaller ones it can neither show nor rule out."
    ]


def main(args):
    """``fairseq-cgc experiment``."""
    for name in ("max_update", "batch_tokens", "average", "by"):
        if getattr(args, name) is None:
            setattr(args, name, (SMALL if args.small else PAPER)[name])
    check_at_least(1, max_update=args.max_update, batch_tokens=args.batch_tokens, average=args.average, jobs=args.jobs)
    rows = {None: PAPER_AND_CONTROLS, "all": ALL}.get(args.rows) or [row.strip() for row in args.rows.split(",")]
    for row in rows:
        if row not in ROWS:
            raise OptionError(f"--rows: there is no row '{row}'; choose from {', '.join(ROWS)}, or all")
    if not re.fullmatch(r"\s*[-+]?[0-9]{1,20}\s*(,\s*[-+]?[0-9]{1,20}\s*)*", args.seeds):
        raise OptionError(f"--seeds is '{args.seeds}'; expected whole numbers, commas between them, as 1,2")
    seeds = [int(seed) for seed in args.seeds.split(",")]
    for seed in seeds:
        check_within(0, MOST_SEED, seeds=seed)
    check_own_files(args.runs, table.MADE)
    failed, rows, seeds = {}, list(dict.fromkeys(rows)), list(dict.fromkeys(seeds))
    if not args.table:
        _keep_enough(args)
        if args.data is None:
            raise OptionError("give the prepared folder with --data; --table alone needs none")
        preparation = read_preparation(prepared_folder(args.data))
        sacrebleu_tokeniser(preparation["settings"]["target_lang"])  # without which nothing could be scored
        _check_data(args)
        splits = preparation["counts"]
        if args.by == "epoch":
            _check_epochs(args, splits["train"])
        for split in {"valid", "test"} & splits.keys() if set(rows) & set(SHUFFLED.values()) else ():
            company(splits[split]["pairs"])
        for row in _trained(rows):
            for seed in seeds:
                _check_training(args, row, seed)
        writable_folder(args.runs, option="--runs")
        failed = run_all(args, rows, seeds)
    if not failed or list(args.runs.glob(f"*/{RUN}")):
        print(make_table(args.runs, corpus=args.corpus), end="", flush=True)
    if failed:
        raise UserError(f"{len(failed)} run{'s' * (len(failed) > 1)} failed:\n" + "\n".join(_list(failed)))


def _check_data(args):
    """Raises UserError for data without a split that is needed, or for runs in the folder that were trained on other data."""
    data = data_record(prepared_folder(args.data))
    if "test" not in data["pairs"]:
        raise CorpusError(f"{args.data} has no test split to translate; prepare the corpus with --test")
    for path in args.runs.glob(f"*/{RUN}"):
        record = read_json(path, RECORD)
        trained = (
            record["done"] or any((path.parent / CHECKPOINTS).glob("checkpoint*.pt")) or is_locked(path.parent / LOCK)
        )
        if trained and record["data"]["sha256"] != data["sha256"]:
            raise UserError(
                f"{path.parent} was trained on other data than {args.data}, and the runs of a folder are compared; choose another "
                "--runs"
            )


def _check_epochs(args, counts):
    """Raises OptionError for updates that end before there are as many epochs as are averaged.

    An epoch has as many updates at least as its tokens need, on the side that has more (``counts`` of the training
    pairs, as a preparation records them), and ``--save-interval`` leaves one of so many. Where options of
    fairseq-train's change the former, the training's end will tell.
    """
    values = option_values(args.fairseq)
    if "--no-epoch-checkpoints" in values:
        raise OptionError("--no-epoch-checkpoints leaves no epochs to average; leave it out, or change --by")
    if values.keys() & BATCHING:
        return
    interval = values.get("--save-interval", "1")
    tokens = counts["pairs"] + max(side["tokens"] for side in counts.values() if isinstance(side, dict))
    epochs = args.max_update * args.batch_tokens // tokens
    left = epochs // max(1, int(interval)) if interval.isdigit() else epochs
    if left < args.average:
        raise OptionError(
            f"--average is {args.average} epochs, and {args.max_update} updates of {args.batch_tokens} tokens are at most {epochs} "
            f"of {tokens:,} tokens"
            + (f", of which --save-interval {interval} leaves {left}" if left < epochs else "")
            + "; raise --max-update"
            + (f", or give --average {left}" if left else "")
        )


def _list(failed):
    return [f"- {name}: {reason}" for name, reason in failed.items()]


def _keep_enough(args):
    """Have fairseq-train keep as many checkpoints of the kind that is averaged, where they are not epochs'.

    Raises OptionError if it saves fewer.
    """
    values = option_values(args.fairseq)
    if args.by == "epoch" or args.by == "best" and args.average == 1:
        return
    keep = "--keep-interval-updates" if args.by == "update" else "--keep-best-checkpoints"
    names = "--save-interval-updates", keep
    interval, number = (int(values[name]) if values.get(name, "").isdigit() else 0 for name in names)
    saved = args.max_update // interval if interval else 0
    if args.by == "update" and saved < args.average:
        raise OptionError(
            f"--by update averages {args.average} checkpoints, and {args.max_update} updates leave {saved}: "
            f"--save-interval-updates is {interval or 'not given'}; save more often, or change --by or --average"
        )
    if args.average > number:
        args.fairseq += [keep, str(args.average)]
