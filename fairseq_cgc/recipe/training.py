"""Training by the paper's protocol, as runs that resume and keep their own record (``run_folder``)."""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from platform import python_version

import torch
from tqdm import tqdm

from ..compat import (
    EACH_DEVICE_LOADS,
    EVERY_SENTENCE,
    NO_WORKERS,
    ONE_DEVICE,
    SAME_BATCHES_WHEN_RESUMED,
    SKIP_TOO_LONG,
    USER_DIR,
    WORLD_SIZE,
)
from ..errors import MOST_SEED, CheckpointError, CorpusError, OptionError, UserError, check_at_least, check_within, flag
from ..options import OPTIONS, heeds
from ..text import PREPARATION
from .checkpoints import POSITIONS, find_checkpoints, load_checkpoint, model_options, save_checkpoint, updates_of
from .fairseq_options import (
    DECIDED,
    LIMITS,
    batch_options,
    check_numbers,
    check_words,
    option_groups,
    option_values,
    precision_options,
    refuse_overridden,
    without_limits,
)
from .files import (
    LOCK,
    discard_folder,
    foreign_files,
    locked,
    mark_of,
    read_json,
    remove,
    room,
    sha256_of,
    usable_path,
    writable_folder,
    write_json,
)
from .models import check_vocabulary, locate
from .preparation import check_files, longest_sentence, read_preparation
from .processes import child
from .report import last_words
from .rows import PAPER, row_options
from .run_folder import CHECKPOINTS, LAST, MODEL, MODEL_FOLDER, RECORD, RUN, SHUFFLED_TEST

# What a gate makes of weights of the same shapes.
GATE_FUNCTION = "cgc_gate_on", "cgc_gate_activation", "cgc_pool", "cgc_norm"
FEW_BYTES = 100 * 2**20  # a disk with less left may be why a training failed
TELL_EVERY = 600  # seconds, where there is no bar
TOO_LONG = " samples have invalid sizes and will be skipped"  # fairseq's words


def launcher(gpus, nodes=1, node_rank=0, master=None):
    """The start of the command that runs fairseq-train on these devices.

    Args:
        gpus: devices of one machine; processes over gloo where there is no GPU
        nodes: machines
        node_rank: which of them this is, from 0
        master: ``host:port`` of the first, for more than one

    Raises:
        OptionError: more GPUs than there are, or machines that could not find each other
    """
    cuda = torch.cuda.device_count()
    check_at_least(1, gpus=gpus, nodes=nodes)
    if cuda and gpus > cuda:
        raise OptionError(f"--gpus is {gpus} and torch sees {cuda}")
    if nodes > 1 and not master:
        raise OptionError(f"--nodes {nodes} needs --master HOST:PORT, the same on every machine")
    if not 0 <= node_rank < nodes:
        raise OptionError(f"--node-rank is {node_rank}; for --nodes {nodes} it must be from 0 to {nodes - 1}")
    if gpus * nodes == 1:
        return [sys.executable, "-m", "fairseq_cli.train", *ONE_DEVICE]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(gpus)]
    if nodes == 1:
        torchrun += ["--standalone", "--local-addr", "localhost"]  # whatever the machine calls itself
    else:
        host, _, port = master.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise OptionError(f"--master is {master}; expected HOST:PORT, such as node1:29500")
        torchrun += ["--nnodes", str(nodes), "--node-rank", str(node_rank)]
        torchrun += ["--master-addr", host, "--master-port", port]
    return [*torchrun, "-m", "fairseq_cgc.recipe.distributed", WORLD_SIZE, str(gpus * nodes)]


def prepared_folder(folder):
    """The folder of a finished preparation, given it or its ``bin``. Raises CorpusError if it is none."""
    folder = usable_path(folder, "--data")
    if not (folder / "bin" / PREPARATION).is_file() and (folder.parent / "bin" / PREPARATION).is_file():
        folder = folder.parent
    read_preparation(folder)
    return folder


def data_record(prepared):
    """What a run remembers of its data: where it was, its languages, its pairs, the hashes of what it is made of.

    Raises CorpusError if there is nothing to train or validate on.
    """
    made = read_preparation(prepared)
    if missing := [split for split in ("train", "valid") if split not in made["counts"]]:
        raise CorpusError(
            f"{prepared} has no {' and no '.join(missing)} split, only {', '.join(made['counts'])}; give a corpus that was prepared "
            "with --train"
        )
    languages = {name: made["settings"][name] for name in ("source_lang", "target_lang")}
    pairs = {split: counts["pairs"] for split, counts in made["counts"].items()}
    return {"path": str(prepared), **languages, "pairs": pairs, "sha256": made["sha256"]}


def train(run, row, seed, options, prepared, updates, launch=None, layout=(), batch_tokens=None, keep=PAPER["average"]):
    """Train a run until ``updates``, from its last checkpoint if there is one.

    Args:
        run: the run folder
        row: the name of the system
        seed: random seed
        options: fairseq-train's, which decide the result: another set is another run, but for what ``without_limits`` leaves out
        prepared: the folder of a preparation
        updates: where to stop
        launch: the start of the command; see ``launcher``
        layout: options that decide how it is computed, not what: they may change when resuming
        batch_tokens: of an update over all devices, where ``layout`` divides them
        keep: how many epoch checkpoints to keep

    Raises:
        UserError: the folder holds another run, is in use, or fairseq-train failed
    """
    check_numbers([*options, *layout])
    run, prepared = usable_path(run, "the run"), prepared_folder(prepared)
    checkpoints, record = run / CHECKPOINTS, run / RUN
    identity = {"row": row, "seed": seed, "options": without_limits(options), "data": data_record(prepared)}
    if batch_tokens:
        identity["batch_tokens"] = batch_tokens
    with locked(run / LOCK, f"the run {run}") as lock:
        before = read_json(record, RECORD) if record.exists() else None
        if before and not before["done"] and not list(checkpoints.glob("checkpoint*.pt")):
            before = None  # it never got as far as an update that is left: a mistyped option, say
            for name in ("log.jsonl", "train.log"):
                remove(run / name)
        before = before or {**identity, "done": 0}
        _refuse_another(run, before, identity)
        base = Path(option_values(options).get("--finetune-from-model", ""))
        if "base" in before:
            identity["base"] = before["base"]
        elif base.is_file() and not (checkpoints / LAST).exists():
            identity["base"] = sha256_of(base)
        if before["done"] > updates:
            raise _trained_longer(run, before["done"], updates)
        ended = _limits(options, updates)
        if _is_done(before, options, updates):
            print("    already done")
            return
        _refuse_another_schedule(run, before, options, updates)
        check_files(prepared)
        check_batch(prepared, [*options, *layout])
        command = train_command(run, seed, options, prepared, updates, launch, layout, keep)
        print(f"    {shlex.join(command)}", flush=True)
        versions = {name: version(name) for name in ("torch", "ve-fairseq")} | {"python": python_version()}
        now = {**identity, "updates": updates, "command": command, "versions": versions}
        trained = mend_last_checkpoint(checkpoints)
        keep_place_in_epoch(checkpoints, option_values([*options, *layout]).get("--update-freq", "1"))
        if trained > updates:
            raise _trained_longer(run, trained, updates)
        write_json(record, {**now, "done": before["done"]})
        complete_figures(run)
        done = trained
        if trained < updates:
            follow_training(command, run, updates, lock)
            done = mend_last_checkpoint(checkpoints)
        if not done:
            raise UserError(f"fairseq-train succeeded but left no checkpoint in {checkpoints}; leave out --no-save")
        if done < updates:
            print(f"    fairseq-train ended after {done} of {updates} updates, by an option such as {LIMITS[0]}")
        _discard_results(run, done, identity["data"]["pairs"])
        write_json(record, {**now, "updates": done, "done": done, **({"ended": ended} if done < updates else {})})


def _limits(options, updates):
    """What may end a training, as ``ended`` records it."""
    values = option_values(options)
    return {"max_update": updates, "limits": {name: values[name] for name in LIMITS if name in values}}


def _is_done(before, options, updates):
    """Whether a run's record says that there is nothing left to train."""
    ended = _limits(options, updates)
    by_time = "--stop-time-hours" in ended["limits"]  # of a command that is given again to go on
    return before.get("done") == updates or before.get("ended") == ended and not by_time


def _refuse_another_schedule(run, before, options, updates):
    """Raises UserError for other updates than a run was begun with, where its learning rate falls towards them."""
    values = option_values(options)
    falls = {"cosine": "--lr-period-updates" not in values, "tri_stage": "--phase-ratio" in values}
    planned = option_values(before.get("command", [])).get("--max-update", str(updates))
    if falls.get(values.get("--lr-scheduler", "")) and planned != str(updates):
        raise UserError(
            f"{run} was begun with --max-update {planned}, and {updates} is requested: its learning rate "
            f"(--lr-scheduler {values['--lr-scheduler']}) falls towards the first, and would rise again. Choose another folder"
        )


def _refuse_another(run, there, asked):
    """Raises UserError, naming what differs, if the record of a run is not of the run that is asked for."""
    found, wanted = _identity(there), _identity(asked)
    differing = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if differing:
        words = (
            f"{name}: {found.get(name, 'not given')} there, {wanted.get(name, 'not given')} requested"
            for name in differing
        )
        raise UserError(f"{run} holds another run: {'; '.join(words)}.\nChoose another folder, or remove this one")


def _identity(record):
    """What makes a run another one: dict of names to values."""
    batch = {"--batch-tokens": record["batch_tokens"]} if "batch_tokens" in record else {}
    options = option_values(without_limits(record["options"]))
    # Given or left out, what is decided here is the same.
    options = {name: value for name, value in options.items() if name not in DECIDED}
    data = {f"data {name}": digits[:12] for name, digits in record["data"]["sha256"].items()}
    return {"row": record["row"], "--seed": record["seed"], **batch, **options, **data}


def _discard_results(run, updates, splits):
    """Remove, aloud, what ``generate`` has made of the run's checkpoints after other updates under the names that it has for that.

    Copies under other names and what ``--out`` named are the user's, as is what a link leads to.
    """
    for name, what in {MODEL_FOLDER: "model", **dict.fromkeys([*splits, SHUFFLED_TEST], "translations")}.items():
        folder = run / name
        ours = folder.is_dir() and any(folder.iterdir()) and not foreign_files(folder, what)
        if not ours or mark_of(folder).get("updates") == updates:
            continue
        if folder.is_symlink():
            print(f"    {folder} is a link, and leads to what was made after other updates: generate again", flush=True)
        else:
            print(f"    removing {folder}, which was made after other updates", flush=True)
            discard_folder(folder, what)


def _trained_longer(run, trained, updates):
    return UserError(
        f"{run} was trained for {trained} updates and {updates} are requested; request at least as many, or choose another "
        "folder"
    )


def train_command(run, seed, options, prepared, updates, launch=None, layout=(), keep=PAPER["average"]):
    """The whole ``fairseq-train`` command of a run; for the arguments see ``train``.

    Raises OptionError for an option that is decided here.
    """
    launch = launch or launcher(1)
    asked, options = options, ["--log-interval", "20", *options]
    options = ["--user-dir", USER_DIR, *options, *layout, *EVERY_SENTENCE, *SAME_BATCHES_WHEN_RESUMED, *NO_WORKERS]
    options += [*validation_options(prepared, options), *EACH_DEVICE_LOADS, "--log-format", "json"]
    options += ["--max-update", str(updates), "--seed", str(seed)]
    options += ["--save-dir", str(run / CHECKPOINTS), "--keep-last-epochs", str(keep)]
    refuse_overridden(asked, options)
    refuse_overridden(asked, launch)
    words = (word for group in option_groups(options).values() for word in group)
    return [*launch, str(prepared / "bin"), *words]


def validation_options(prepared, options):
    """What lets a validation on a preparation pass over sentences too long for the model, or for a training's batch."""
    settings = read_json(prepared / "bin" / PREPARATION)["settings"]
    longest, batch = _longest(prepared, "valid", options), option_values(options).get("--max-tokens", "")
    of_valid = ["--max-tokens-valid", str(longest)] if batch.isdigit() and int(batch) < longest else []
    languages = ["--source-lang", settings["source_lang"], "--target-lang", settings["target_lang"]]
    return [*SKIP_TOO_LONG, *of_valid, *languages]


def _longest(prepared, split, options):
    """Tokens of the longest sentence of a split that the model takes."""
    values = option_values(options)
    limit = max(int(values.get(f"--max-{side}-positions", POSITIONS)) for side in ("source", "target"))
    return longest_sentence(prepared, split, limit)


def check_batch(prepared, options):
    """Raises OptionError if a training sentence is longer than a batch, at which fairseq fails."""
    batch, longest = option_values(options).get("--max-tokens", ""), _longest(prepared, "train", options)
    if batch.isdigit() and int(batch) < longest:
        raise OptionError(
            f"a batch has {batch} tokens on each device and the longest training sentence has {longest}; raise "
            "--batch-tokens, or --max-tokens"
        )


def join_training(command):
    """Take part in a run that another machine keeps the record of. Raises UserError if fairseq-train failed."""
    print(f"    {shlex.join(command)}", flush=True)
    with child(command) as process:
        pass
    if process.returncode:
        raise UserError(f"fairseq-train failed with exit status {process.returncode}; see its output above")


def mend_last_checkpoint(checkpoints):
    """Go back to the newest whole epoch, aloud, where a stop has left half of ``checkpoint_last.pt``, which fairseq copies.

    Returns the updates that the last checkpoint has behind it.
    """
    last = checkpoints / LAST
    if not last.exists():
        return 0
    try:
        return _updates(last)
    except CheckpointError as error:
        print(f"    {error}", flush=True)
    last.unlink()
    for path in reversed(find_checkpoints(checkpoints)):
        try:
            updates = _updates(path)
        except CheckpointError:
            continue
        shutil.copyfile(path, last)
        print(f"    resuming from {path.name} instead", flush=True)
        return updates
    print("    there is no other checkpoint: starting from the beginning", flush=True)
    return 0


def keep_place_in_epoch(checkpoints, update_freq):
    """Let the last checkpoint go on where it stopped when its batches are divided in another way.

    fairseq counts the batches of one device since the epoch began, ``--update-freq`` of them an update, and would take
    them for as many of another layout's: data skipped, seen twice, or none left. ``update_freq`` is the new layout's,
    as text.
    """
    last = checkpoints / LAST
    if not last.exists() or not update_freq.isdigit():
        return
    state = load_checkpoint(last)
    try:
        place, (before, *others) = state["extra_state"]["train_iterator"], state["cfg"]["optimization"]["update_freq"]
        within = int(place["iterations_in_epoch"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{last} does not record where in its epoch it stopped: it is damaged or not fairseq's; put another checkpoint "
            "of this run in its place, or choose another folder"
        ) from None
    if within and before != int(update_freq) and not others:
        place["iterations_in_epoch"] = within // before * int(update_freq)
        state["cfg"]["optimization"]["update_freq"] = [int(update_freq)]
        save_checkpoint(state, last)


def _updates(checkpoint):
    return updates_of(load_checkpoint(checkpoint), checkpoint)


def follow_training(command, run, updates, lock):
    """Run fairseq-train, its words to ``train.log``, its figures to ``log.jsonl``, its progress to a
    bar (or a line now and then).

    Args:
        lock: the descriptor of the run's lock, which fairseq-train holds on to: if we are killed and it
            is not, nothing else writes the run before it has ended

    Raises:
        UserError: it failed; with the end of its words
    """
    tail, valid, last, told_at, dropped = [], "", 0, time.monotonic(), []
    words, log = run / "train.log", run / "log.jsonl"
    with (
        room(log),
        open(words, "ab") as sink,
        open(words, encoding="utf-8", errors="replace") as source,
        open(log, "a", encoding="utf-8") as figures,
        tqdm(total=updates, unit=" updates", disable=None) as bar,
        child(command, stdout=sink, stderr=subprocess.STDOUT, pass_fds=(lock,)) as process,
    ):
        source.seek(0, os.SEEK_END)
        bar.set_postfix_str("starting")
        for line in _lines_as_they_come(source, process):
            if line is None:
                bar.refresh()  # the clock
                continue
            tail = [*tail[-99:], line]
            if TOO_LONG in line and line.partition(TOO_LONG)[0].split()[-1:] not in dropped:
                dropped.append(line.partition(TOO_LONG)[0].split()[-1:])
                tqdm.write(f"    WARNING: {line.partition(' | WARNING | ')[2].partition(' | ')[2].strip()}", sys.stdout)
            event, values = parse_figures(line)
            if not event:
                continue
            figures.write(_figures_line(event, values))
            figures.flush()
            if event == "valid":
                valid = f", valid ppl {values.get('valid_ppl')}"
            elif event == "train":
                bar.update(int(values["train_num_updates"]) - bar.n)
            elif event == "train_inner":
                done, text = int(values["num_updates"]), f"loss {values['loss']}{valid}"
                bar.set_postfix_str(text)
                bar.update(done - bar.n)
                if bar.disable and (done >= last + max(1, updates // 10) or time.monotonic() > told_at + TELL_EVERY):
                    last, told_at = done, time.monotonic()
                    print(f"    {done}/{updates} updates, {text}", flush=True)
    if process.returncode:
        reason, free = f"failed with exit status {process.returncode}: {last_words(tail)}", shutil.disk_usage(run).free
        if free < FEW_BYTES:
            reason = f"{reason.strip()} (the disk has {free / 2**20:.0f} MiB left: free space, then run the same command again)"
        raise UserError(f"fairseq-train {reason}\nFull log: {words}")


def _lines_as_they_come(source, process):
    """The lines that a process appends to a file, until it ends; None whenever there is none for a while."""
    line = ""
    while True:
        ended = process.poll() is not None  # before reading: nothing comes after
        while part := source.readline():
            line += part
            if line.endswith("\n"):
                yield line
                line = ""
        if ended:
            return
        yield None
        time.sleep(0.1)


def complete_figures(run):
    """End ``train.log`` and ``log.jsonl`` with a line's end, which a stop may have left out, and add the figures that
    fairseq-train said before it ended with us, and that we had not written down."""
    words, log = run / "train.log", run / "log.jsonl"
    for path in (words, log):
        if path.exists() and path.stat().st_size and path.read_bytes()[-1:] != b"\n":
            with open(path, "a", encoding="utf-8") as file:
                file.write("\n")
    if not words.exists():
        return
    with open(words, encoding="utf-8", errors="replace") as file:
        printed = [_figures_line(event, values) for event, values in map(parse_figures, file) if event]
    recorded = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if log.exists() else []
    known = list(recorded)
    while known and known != printed[: len(known)]:
        known.pop()  # cut off, as the last one may be
    if known or not recorded:
        with open(log, "a", encoding="utf-8") as file:
            file.writelines(printed[len(known) :])


def _figures_line(event, values):
    return json.dumps({"event": event, **values}) + "\n"


def parse_figures(line):
    """A line of fairseq's JSON log: (``train_inner``, ``train`` or ``valid``, dict of figures), or (None, None)."""
    for event in ("train_inner", "train", "valid"):
        _, found, values = line.partition(f"| {event} | ")
        if found and values.startswith("{"):
            try:
                return event, {name: _number(value) for name, value in json.loads(values).items()}
            except (ValueError, AttributeError, RecursionError):  # a stop has cut it off, or it is no figures
                break
    return None, None


def _number(text):
    try:
        return float(text) if any(c in str(text) for c in ".enai") else int(text)
    except ValueError:
        return text


def model_to_finetune(path, prepared, run):
    """The checkpoint that a path means (see ``locate``), and to a run that has started that it started from.

    Raises CheckpointError if there is none, or its run had another vocabulary than the preparation has.
    """
    started = (run / RUN).is_file() and (run / CHECKPOINTS / LAST).is_file()
    record = read_json(run / RUN, RECORD) if started else {"options": []}
    began = option_values(record["options"]).get("--finetune-from-model", "")
    if started and Path(began).is_relative_to(path.resolve()):  # which may hold a newer model by now
        return began
    place = locate(path)
    if (place.run / RUN).is_file():
        check_vocabulary(place.run, prepared / "bin")
    model, last = (folder and folder / name for folder, name in ((place.model, MODEL), (place.checkpoints, LAST)))
    file = place.checkpoint or model or last
    if "base" in record and any(f and f.is_file() and sha256_of(f) == record["base"] for f in (file, last)):
        return began  # which has moved
    return usable_path(file.resolve(), "--finetune-from")


def _refuse_other_gates(file, options):
    """Raises CheckpointError if of a checkpoint's weights a training's options would make other gates of the same shapes."""
    there, values = model_options(load_checkpoint(file)), option_values(options)
    if "cgc_gate" not in there or not values.get("--arch", "").startswith("lightconv_cgc"):
        return
    gate = values.get("--cgc-gate", "context")
    if there["cgc_gate"] != gate and {there["cgc_gate"], gate} != {"constant", "none"}:
        return  # gates of another kind start anew, or fairseq refuses their names
    for option in (option for option in OPTIONS if option.name in ("cgc_gate", *GATE_FUNCTION)):
        name = flag(option.name)
        found, asked = (given.get(key, option.default) for given, key in ((there, option.name), (values, name)))
        if found != asked and heeds(gate, option):
            raise CheckpointError(
                f"the gates of {file} were trained with {name} {found}, and with {asked} the same weights are other gates; "
                f"give {name} {found}, or another --finetune-from"
            )


def plan(args):
    """See that a training can be as the options of ``fairseq-cgc train`` say, before any work.

    Returns the run folder; of ``train``'s arguments ``options``, ``layout`` and ``launch``; and fairseq-train's command. Raises
    UserError for an option or a value that no training can have.
    """
    check_at_least(1, max_update=args.max_update, keep=args.keep)
    check_within(0, MOST_SEED, seed=args.seed)
    run, prepared = args.runs / f"{args.row}-seed{args.seed}", prepared_folder(args.data)
    layout = batch_options(args.gpus * args.nodes, args.max_tokens, args.batch_tokens)
    layout += precision_options(args.precision, torch.cuda.is_available())
    if args.tensorboard:
        if importlib.util.find_spec("tensorboard") is None:
            raise OptionError("--tensorboard needs tensorboard; pip install -c constraints.txt -e .[tensorboard]")
        layout += ["--tensorboard-logdir", str(run / "tensorboard")]
    launch = launcher(args.gpus, args.nodes, args.node_rank, args.master)
    options = [*row_options(args.row), *args.fairseq]
    if args.finetune_from:
        base = model_to_finetune(args.finetune_from, prepared, run)
        if not (run / CHECKPOINTS / LAST).is_file():
            _refuse_other_gates(base, options)
        options += ["--finetune-from-model", str(base)]
    check_numbers(options)
    check_words([str(prepared), "--user-dir", USER_DIR, *options, *layout])
    command = train_command(run, args.seed, options, prepared, args.max_update, launch, layout, args.keep)
    return run, options, layout, launch, command


def main(args):
    """``fairseq-cgc train``."""
    run, options, layout, launch, command = plan(args)
    writable_folder(args.runs, option="--runs")
    print(f"[train {args.row}, seed {args.seed}, for {args.max_update} updates] -> {run}", flush=True)
    if args.node_rank > 0:  # the first machine keeps the record
        if _is_done(read_json(run / RUN, RECORD) if (run / RUN).exists() else {}, options, args.max_update):
            print("    already done")
            return
        join_training(command)
        return
    train(run, args.row, args.seed, options, args.data, args.max_update, launch, layout, args.batch_tokens, args.keep)
    print(f"[trained] -> {run}; translate and score it: {shlex.join(['fairseq-cgc', 'generate', str(run)])}")
