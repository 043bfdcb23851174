"""From a run's checkpoints to translations and scores."""

import re
import shlex
from contextlib import nullcontext
from pathlib import Path

from ..errors import OptionError, UserError, check_at_least
from ..text import SUBWORD_MODELS, MosesText, is_blank, lowercase
from . import files
from .checkpoints import (
    average_checkpoints,
    check_dictionaries,
    count_parameters,
    load_checkpoint,
    position_limit,
    updates_of,
    write_model,
)
from .models import check_vocabulary, checkpoints_to_average, data_of, locate
from .preparation import check_files, longest_sentence, read_preparation
from .report import render_table
from .run_folder import LAST, MODEL, MODEL_FOLDER, RECORD, RUN
from .scoring import (
    LABELS,
    TOKENISED_BLEU,
    UNSPACED,
    detokenised_scores,
    sacrebleu_tokeniser,
    tokenised_bleu,
    tokens_of,
)
from .training import prepared_folder
from .translate import BEAM, check_passed_on, generate

SCORES = "scores.json"
# Names, hashes, the updates of the last of them, and those that their run had had.
AVERAGED = ("checkpoints", "sha256", "last", "updates")
RESULT = {
    "scores": {name: {"score": files.Between(0, 100), "signature": str} for name in (TOKENISED_BLEU, "BLEU", "chrF")},
    "generation": {
        "beam?": int,
        "sentences_per_second?": (files.Between(0), None),
        "checkpoints?": [str],
        "sha256?": {str: str},
        "last?": (int, None),
        "updates?": (int, None),
        "options?": [str],
        "text?": {str: str},
        "parameters": files.Between(1, kind=int),
    },
}


def translate_and_score(model, prepared, output, split="test", beam=BEAM, max_tokens=8000, options=()):
    """Translate a split and write a folder with what went in, what came out, and its scores.

    ``{split}.{src,tgt}``, ``{split}.hyp``: raw source, reference, detokenised translation, line by line (of pairs held out
    of the training part the text is made of the tokens); ``{split}.tok.{tgt,hyp}``: the tokens that tokenised BLEU compares,
    Moses' (sacreBLEU's of the languages of ``UNSPACED``, of which Moses takes clauses for tokens); ``generate.txt``: what
    fairseq-generate printed; ``scores.json``.

    Args:
        model: a model folder (``model.pt``)
        prepared: the folder of a preparation
        output: the folder to write
        split: which to translate
        beam: beam size
        max_tokens: source tokens a batch, or those of the longest sentence
        options: further options of fairseq-generate

    Returns:
        the content of ``scores.json``: ``scores`` and ``generation``

    Raises:
        CheckpointError: the model does not fit the dictionaries
        UserError: fairseq-generate failed
    """
    prepared, output = Path(prepared), Path(output)
    made = read_preparation(prepared)
    settings = made["settings"]
    source, target = settings["source_lang"], settings["target_lang"]
    raw, tokeniser, held_out = {}, sacrebleu_tokeniser(target), False
    for language in (source, target):
        file, tokens = (prepared / kind / f"{split}.{language}" for kind in ("raw", "tok"))
        held_out = not file.exists()
        lines = files.read_lines(tokens if held_out else file)
        raw[language] = list(map(MosesText(language).detokenise, lines)) if held_out else lines
    state = load_checkpoint(Path(model) / MODEL)
    check_dictionaries(state, prepared / "bin", source, target)
    references = files.read_lines(prepared / "tok" / f"{split}.{target}")
    max_tokens = max(max_tokens, longest_sentence(prepared, split, position_limit(state)))
    passed_on, in_signature = list(options), "".join(f" {shlex.quote(word)}" for word in options)
    options = ["--source-lang", source, "--target-lang", target, "--max-tokens", str(max_tokens), *options]
    mark = files.mark_of(model)
    averaged = {name: mark[name] for name in AVERAGED if name in mark}
    with files.atomic_folder(output, "translations", updates=mark.get("updates")) as partial:
        hypotheses = generate(
            Path(model) / MODEL,
            prepared / "bin",
            split,
            partial / "generate.txt",
            len(references),
            beam,
            SUBWORD_MODELS[settings["bpe"]].remove_bpe,
            options,
        )
        skipped = [number for number in range(len(references)) if number not in hypotheses]
        if skipped:
            print(f"    {len(skipped)} sentences were too long and skipped; they count as empty: {skipped}")
        # Of a blank sentence the model invents a translation.
        tokenised = ["" if is_blank(line) else hypotheses.get(n, "") for n, line in enumerate(raw[source])]
        moses = MosesText(target)
        detokenised, tokens = [moses.detokenise(line) for line in tokenised], "Moses"
        if moses.language in UNSPACED:
            wanted = map(lowercase, raw[target]) if settings["lowercase"] else raw[target]
            tokens, tokenised, references = tokeniser, tokens_of(detokenised, tokeniser), tokens_of(wanted, tokeniser)
        for name, lines in (
            (source, raw[source]),
            (target, raw[target]),
            ("hyp", detokenised),
            (f"tok.{target}", references),
            ("tok.hyp", tokenised),
        ):
            files.write_lines(partial / f"{split}.{name}", lines)
        score, line = tokenised_bleu(tokenised, references)
        case = "lowercased" if settings["lowercase"] else "cased"
        scores = {
            TOKENISED_BLEU: {
                "score": score,
                "signature": f"{line}, {tokens} tokens, {case}, beam {beam}{in_signature}",
            },
            **detokenised_scores(detokenised, [raw[target]], settings["lowercase"], tokeniser),
        }
        for name in ("BLEU", "chrF") if held_out else ():
            scores[name]["signature"] += ", references detokenised"
        speed = re.search(r"\(([\d.]+) sentences/s", (partial / "generate.txt.log").read_text(encoding="utf-8"))
        generation = {
            "beam": beam,
            "sentences": len(references),
            "skipped": len(skipped),
            "sentences_per_second": float(speed[1]) if speed else None,
            "parameters": count_parameters(state),
            "options": passed_on,
            "text": split_hashes(made["sha256"], split),
            **averaged,
        }
        result = {"scores": scores, "generation": generation}
        files.write_json(partial / SCORES, result)
    return result


def split_hashes(sha256, split):
    """Of a preparation's hashes those of a split's binarised text: dict of file name to digits."""
    return {name: digits for name, digits in sha256.items() if name.startswith(f"{split}.")}


def main(args):
    """``fairseq-cgc generate``: average checkpoints of a run into its model folder, translate with it, and score."""
    check_at_least(1, average=args.average, beam=args.beam, max_tokens=args.max_tokens)
    check_passed_on(args.fairseq)
    place = locate(args.folder)
    chosen = {"--average": args.average, "--checkpoint-upper-bound": args.checkpoint_upper_bound}
    given = [name for name, value in chosen.items() if value is not None]
    if given and (place.checkpoint or not place.checkpoints):
        raise OptionError(
            f"{given[0]} chooses among a run's checkpoints, and {args.folder} is one model: give the run folder, or leave the "
            "option out"
        )
    run, data = place.run, args.data or data_of(place)
    if data is None:
        raise OptionError(f"{run} has no {RUN} that names its data; give the prepared folder with --data")
    prepared = prepared_folder(data)
    out = files.usable_path(args.out or run / args.split, "--out" if args.out else "the run's")
    made = read_preparation(prepared)
    check_files(prepared, made)
    sacrebleu_tokeniser(made["settings"]["target_lang"])
    if args.split not in made["counts"]:
        raise UserError(f"{prepared} has no split '{args.split}'; it has {', '.join(made['counts'])}")
    if (run / RUN).exists():
        check_vocabulary(run, prepared / "bin")
        own = split_hashes(files.read_json(run / RUN, RECORD)["data"]["sha256"], args.split)
        if not args.out and own != split_hashes(made["sha256"], args.split):
            raise OptionError(
                f"{out} is for the {args.split} split of the run's own data, not of {prepared}; give --out"
            )
    files.replaceable_folder(out, "translations")
    inside = out.parent.resolve().is_relative_to(run.resolve())
    # What is written elsewhere leaves the run the model that its own translations are of.
    averages = place.checkpoints and inside and not (place.checkpoint and args.out)
    beside = files.replaceable_folder(run / MODEL_FOLDER, "model") if averages else out
    files.writable_folder(out.parent, option="--out")
    reads_run = place.checkpoints and not place.checkpoint  # of which a training would take checkpoints away
    lock = nullcontext()
    if inside or reads_run:
        lock = files.locked(run / files.LOCK, f"the run {run}", shared=not inside)
    with lock, files.partial_in(beside.parent, folder=True) as passing, files.room(out):
        model = place.model
        if place.checkpoints:
            model = passing / MODEL_FOLDER
            choice = args.by, args.average, args.checkpoint_upper_bound
            paths = [place.checkpoint] if place.checkpoint else checkpoints_to_average(place.checkpoints, *choice)
            place_of_model = f" -> {run / MODEL_FOLDER}" if averages else ""
            print(f"[average] {', '.join(path.name for path in paths)}{place_of_model}", flush=True)
            average_into_model(paths, prepared, model)
        print(f"[translate] {prepared}, {args.split}, beam {args.beam} -> {out}", flush=True)
        result = translate_and_score(model, prepared, out, args.split, args.beam, args.max_tokens, args.fairseq)
        if averages:  # last: a translation that fails leaves the run the model of those that it has
            files.replace_folder(run / MODEL_FOLDER, model, "model")
    print(score_table(result["scores"]))
    speed = result["generation"]["sentences_per_second"]
    print(f"{result['generation']['sentences']} sentences, {speed} per second -> {out / SCORES}")


def average_into_model(paths, prepared, folder):
    """Average checkpoints of one folder into a model folder, whose mark says which: ``AVERAGED``.

    Raises CheckpointError for unreadable checkpoints, or some that do not fit the data.
    """
    state, last = average_checkpoints(paths), paths[-1].with_name(LAST)
    newest = load_checkpoint(last) if last.exists() else state
    languages = read_preparation(prepared)["settings"]
    check_dictionaries(state, prepared / "bin", languages["source_lang"], languages["target_lang"])
    hashes = {path.name: files.sha256_of(path) for path in paths}
    updates = {"last": updates_of(state, paths[-1]), "updates": updates_of(newest, last)}
    write_model(state, prepared / "bin", folder, checkpoints=list(hashes), sha256=hashes, **updates)


def score_table(scores):
    """Text: each figure with the signature that reproduces it."""
    rows = [[LABELS.get(name, name), f"{score['score']:.2f}", score["signature"]] for name, score in scores.items()]
    return render_table(["", "score", "signature"], rows, "lrl", "plain")
