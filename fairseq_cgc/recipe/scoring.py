"""BLEU and chrF of translations, each with what it takes to reproduce the figure."""

import re
import sys
from importlib.metadata import version

import numpy as np
import sacrebleu

from ..errors import MOST_SAMPLES, CorpusError, OptionError, check_at_least, check_within
from ..text import MosesText
from .files import check_output, decode_lines, read_lines, write_json
from .report import render_table
from .significance import bootstrap_p, corpus_scores, resample, statistics

TOKENISED_BLEU = "tokenised BLEU-4"
LABELS = {"BLEU": "sacreBLEU"}  # what people read in the place of a key of scores.json
WORDS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}  # languages, and sacreBLEU's tokenisers of their words
UNSPACED = {**WORDS, **dict.fromkeys(("th", "lo", "km", "my"), "char")}  # languages whose words 13a does not find
SAMPLES = 1000  # of the bootstrap
SEED = 12345
LONGEST_MEAN = 15  # characters a word that a language written with spaces will not have


def tokenised_bleu(hypotheses, *references, lowercase=False):
    """BLEU-4 of sentences as they stand, split on white space: ``fairseq-score``'s figure, the paper's, but for n-grams that
    fairseq-score counts wrongly: it tells them apart by hashes, of which some meet (some thousandths in a test set).

    Takes tokenised sentences, and lists of them that are one for one their references; ``lowercase`` compares without
    case. Returns (score, fairseq's line with precisions, brevity penalty and lengths). Raises CorpusError for lists of
    different length, or empty ones.
    """
    metric = token_metric(lowercase)
    sums = token_statistics(hypotheses, *references, metric=metric).sum(0)
    (length, wanted), matched, there = sums[:2], *np.split(sums[2:], 2)
    precisions = "/".join(f"{100 * precision:.1f}" for precision in matched / np.maximum(there, 1))
    score, penalty = float(corpus_scores(metric, sums)), np.exp(min(0, 1 - wanted / length))
    lengths = f"ratio={length / wanted:.3f}, syslen={length:.0f}, reflen={wanted:.0f}"
    return score, f"BLEU4 = {score:.2f}, {precisions} (BP={penalty:.3f}, {lengths})"


def sacrebleu_tokeniser(language, asked=None, otherwise=""):
    """The name of sacreBLEU's tokeniser for a language: 13a, or that of ``UNSPACED``.

    Args:
        asked: a name to use instead
        otherwise: what else a user can do, for the error, if what the tokeniser needs is not installed

    Raises:
        OptionError: none of that name, or what it needs is not installed
    """
    name = asked or UNSPACED.get(MosesText(language).language, "13a")
    if name not in sacrebleu.BLEU.TOKENIZERS:
        raise OptionError(f"--tokenize is '{name}'; choose from {', '.join(sacrebleu.BLEU.TOKENIZERS)}")
    try:
        sacrebleu.BLEU(tokenize=name)
    except Exception as error:  # of a package or a model that is not there
        needs = f"pip install 'sacrebleu[{name[:2]}]'" if name.endswith("mecab") else "see its reason"
        reason = str(error).strip().splitlines()[:1]
        raise OptionError(
            f"sacreBLEU's tokeniser {name} is not available ({''.join(reason)}); {needs}{otherwise}"
        ) from None
    return name


def tokens_of(lines, tokenize):
    """Raw sentences as tokens of sacreBLEU's tokeniser of that name, separated by spaces."""
    return list(map(sacrebleu.BLEU(tokenize=tokenize).tokenizer, lines))


def detokenised_scores(hypotheses, references, lowercase, tokenize="13a"):
    """sacreBLEU and chrF of raw text: dict of ``BLEU`` and ``chrF`` to dict of ``score`` and ``signature``.

    Takes raw sentences, and lists of them that are one for one their references; the rest is as for ``compare``. Raises
    CorpusError for lists of different length, or empty ones.
    """
    check_aligned(hypotheses, *references)
    scores = {}
    for name, metric in _raw_metrics(lowercase, tokenize).items():
        score = metric.corpus_score(hypotheses, references).score
        scores[name] = {"score": score, "signature": str(metric.get_signature())}
    return scores


def compare(systems, references, tokenised, lowercase, samples=SAMPLES, seed=SEED, tokenize="13a"):
    """Several systems against the first of them: paired bootstrap resampling over sentences (Koehn 2004).

    Tokenised BLEU-4 is ``tokenised_bleu``'s figure. Equal scores have p = 1, where sacreBLEU's own test can give them the smallest p there is.

    Args:
        systems: dict of name to hypotheses, one for one with the references; the first is the baseline
        references: list of lists of sentences
        tokenised: the sentences are tokens with white space between them; else raw text
        lowercase: compare without case
        samples: number of resamples
        seed: of the resampling
        tokenize: sacreBLEU's tokeniser of raw text

    Returns:
        dict of metric (``tokenised BLEU-4``, or ``BLEU`` and ``chrF``) to dict of ``signature`` (with
        samples and seed) and ``systems``: name to dict of ``score``, ``mean`` and ``half_width`` of the
        95 % interval, and ``p``, two-sided, which is None for the baseline

    Raises:
        CorpusError: lists of different length, or empty
        OptionError: fewer than one sample, or a seed below 1
    """
    check_at_least(1, samples=samples, seed=seed)
    for hypotheses in systems.values():
        check_aligned(hypotheses, *references)
    metrics = {TOKENISED_BLEU: token_metric(lowercase)} if tokenised else _raw_metrics(lowercase, tokenize)
    compared = {}
    for name, metric in metrics.items():
        rows = {
            system: token_statistics(hypotheses, *references, metric=metric)
            if tokenised
            else statistics(metric, hypotheses, references)
            for system, hypotheses in systems.items()
        }
        signature = metric.get_signature()
        signature.update("bs", samples)
        signature.update("seed", seed)
        compared[name] = {"signature": str(signature), "systems": bootstrap(metric, rows, samples, seed)}
    return compared


def bootstrap(metric, rows, samples=SAMPLES, seed=SEED):
    """What ``compare`` says of systems under one metric: dict of name to ``score``, ``mean``, ``half_width`` and ``p``.

    Args:
        rows: dict of name to sentences x statistics; the first is the baseline
        metric, samples, seed: see ``compare`` and ``significance.statistics``
    """
    figures, baseline = {}, None
    for system, row in rows.items():
        score, resampled = float(corpus_scores(metric, row.sum(0))), corpus_scores(metric, resample(row, samples, seed))
        low, high = np.quantile(resampled, (0.025, 0.975))
        p = bootstrap_p(resampled - baseline[1], score - baseline[0]) if baseline else None
        baseline = baseline or (score, resampled)
        figures[system] = {"score": score, "mean": float(resampled.mean()), "half_width": float(high - low) / 2, "p": p}
    return figures


def token_statistics(hypotheses, *references, metric=None):
    """Statistics of tokenised BLEU-4, as ``significance.statistics`` returns them.

    ``metric`` is a ``token_metric``, by default one that heeds case. Raises CorpusError for lists of different length, or
    empty ones.
    """
    check_aligned(hypotheses, *references)
    sides = [_as_in_fairseq(side, "<<unk>>") for side in references]
    return statistics(metric or token_metric(), _as_in_fairseq(hypotheses), sides)


def token_metric(lowercase=False):
    """Tokenised BLEU-4, without smoothing, as one of sacreBLEU's metrics, of lines as ``_as_in_fairseq`` makes them."""
    return sacrebleu.BLEU(lowercase=lowercase, tokenize="none", smooth_method="none", force=True)


def _as_in_fairseq(lines, unknown="<unk>"):
    """Lines as fairseq-score counts their tokens: each ends in ``</s>``, which stays where there is nothing else, and is cut
    off elsewhere, as is padding at both ends; ``<unk>`` in a reference is an *unknown* that matches nothing."""
    counted = []
    for line in lines:
        words = [unknown if word == "<unk>" else word for word in [*line.split(), "</s>"]]
        first = next(place for place, word in enumerate(words) if word != "<pad>")
        while len(words) > first + 1 and words[-1] in ("</s>", "<pad>"):
            words.pop()
        counted.append(" ".join(words[first:]))
    return counted


def read_sides(paths, references):
    """Read the files of one or several systems, and of their references; ``-`` is standard input.

    Returns (dict of path to hypotheses, list of lists of references); a path's second time is named ``PATH (2)``.

    Raises:
        CorpusError: a file that is missing, empty or no UTF-8 text, or files of different length
        OptionError: standard input is named more than once
    """
    if [*map(str, (*paths, *references))].count("-") > 1:
        raise OptionError("- is standard input, which can stand for one file only; name the others")
    sides, systems = [_read_side(path) for path in references], {}
    for number, path in enumerate(paths):
        times = paths[:number].count(path)
        systems[f"{path} ({times + 1})" if times else str(path)] = _read_side(path)
    for path, side in zip([*references, *paths], [*sides, *systems.values()]):
        if len(side) != len(sides[0]):
            raise CorpusError(
                f"{path} has {len(side)} lines and {references[0]} has {len(sides[0])}; expected the same number"
            )
    return systems, sides


def _read_side(path):
    lines = list(decode_lines(sys.stdin.buffer, "standard input")) if str(path) == "-" else read_lines(path)
    if not lines:
        raise CorpusError(f"{path} is empty; expected one sentence per line")
    return lines


def test_set_references(name, pair):
    """The files of references of one of sacreBLEU's test sets, which it fetches if need be.

    Takes its name, such as ``wmt14/full``, and a pair of languages, such as ``de-en``. Raises OptionError if there is
    no such set or pair, and CorpusError if it can't be fetched.
    """
    pairs = sacrebleu.utils.get_langpairs_for_testset(name)
    if pair not in pairs:
        known = f"it has {', '.join(pairs)}" if pairs else "sacrebleu --list names them"
        raise OptionError(f"sacreBLEU has no test set '{name}' for --language-pair {pair}; {known}")
    try:
        return sacrebleu.utils.get_reference_files(name, pair)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise CorpusError(
            f"sacreBLEU's test set {name} could not be fetched ({reason}); give a copy with --ref"
        ) from None


def score_systems(systems, references, language, tokenised, lowercase, samples=SAMPLES, seed=SEED, tokenize=None):
    """Tokenised BLEU-4, sacreBLEU and chrF of one system, or of several with what ``compare`` tells of them.

    Raw text is Moses-tokenised for the first figure (of the languages of ``UNSPACED`` by sacreBLEU's tokeniser);
    tokens are Moses-detokenised for the other two.

    Args:
        systems: dict of name to hypotheses; the first is the baseline
        references: list of lists of sentences
        language: theirs, a two-letter code
        tokenised: all sentences are Moses tokens; else raw text
        lowercase, samples, seed: see ``compare``
        tokenize: sacreBLEU's tokeniser; ``None``: the language's

    Returns:
        dict of metric to dict of ``signature`` and ``systems``, as ``compare`` returns it; of a single
        system there is the ``score`` alone

    Raises:
        see ``compare``
        OptionError: no such tokeniser
    """
    moses, tokenize = MosesText(language), sacrebleu_tokeniser(language, tokenize, ", or choose --tokenize char")

    def each(change):  # of lines to lines
        return {name: change(lines) for name, lines in systems.items()}, [change(side) for side in references]

    tool = f"sacremoses {version('sacremoses')}, {language}"
    if tokenised:
        sides = {True: (systems, references), False: each(lambda lines: [*map(moses.detokenise, lines)])}
        notes = {True: "tokens as given", False: f"both sides detokenised ({tool})"}
    elif moses.language in UNSPACED or tokenize in WORDS.values():
        sides = {True: each(lambda lines: tokens_of(lines, tokenize)), False: (systems, references)}
        notes = {True: f"both sides tokenised (sacreBLEU {version('sacrebleu')}, {tokenize})", False: "text as given"}
    else:
        sides = {True: each(lambda lines: [*map(moses.tokenise, lines)]), False: (systems, references)}
        notes = {True: f"both sides tokenised ({tool})", False: "text as given"}
    scores = {}
    for tokens, (hypotheses, wanted) in sides.items():
        if len(systems) > 1:
            found = compare(hypotheses, wanted, tokens, lowercase, samples, seed, tokenize)
        else:
            found = _score_one(hypotheses, wanted, tokens, lowercase, tokenize)
        for metric, figures in found.items():
            scores[metric] = {**figures, "signature": f"{figures['signature']}, {notes[tokens]}"}
    return scores


def _score_one(systems, references, tokenised, lowercase, tokenize):
    """What ``compare`` returns, without the comparison."""
    [(name, hypotheses)] = systems.items()
    if not tokenised:
        found = detokenised_scores(hypotheses, references, lowercase, tokenize)
    else:
        score, line = tokenised_bleu(hypotheses, *references, lowercase=lowercase)
        line += f", {len(references)} references" * (len(references) > 1) + ", lowercased" * lowercase
        found = {TOKENISED_BLEU: {"score": score, "signature": line}}
    return {
        metric: {"signature": figure["signature"], "systems": {name: {"score": figure["score"]}}}
        for metric, figure in found.items()
    }


def _raw_metrics(lowercase, tokenize):
    bleu = sacrebleu.BLEU(lowercase=lowercase, tokenize=tokenize, force=True)  # its warning of tokens is in `remarks`
    return {"BLEU": bleu, "chrF": sacrebleu.CHRF(lowercase=lowercase)}


def remarks(lines, language, tokenised):
    """What to tell of sentences that are scored by other rules than they seem to be meant for: a list of words.

    Args:
        language: that nobody has given, and is taken to be theirs, or None
    """
    found = []
    tokens = sum(line.endswith(" .") or "&apos;" in line or "&quot;" in line for line in lines)
    if not tokenised and tokens > len(lines) / 10:
        found.append("the files seem to hold Moses tokens, which are tokenised once more here; give --tokenised")
    words = len(" ".join(lines).split())
    if language and MosesText(language).language not in UNSPACED and sum(map(len, lines)) > LONGEST_MEAN * words > 0:
        found.append(
            f"the files have hardly any spaces, and are scored as '{language}'; give their language with --lang"
        )
    return found


def check_aligned(hypotheses, *references):
    """Raises CorpusError unless each side has as many sentences as there are hypotheses, and some."""
    for side in references:
        if len(hypotheses) != len(side) or not side:
            raise CorpusError(
                f"there are {len(hypotheses)} hypotheses and {len(side)} references; expected the same number, at "
                "least one"
            )


def main(args):
    """``fairseq-cgc score``."""
    if bool(args.ref) == bool(args.test_set) or bool(args.test_set) != bool(args.language_pair):
        raise OptionError("give --ref FILE, or --test-set NAME with --language-pair SOURCE-TARGET")
    check_within(1, MOST_SAMPLES, samples=args.samples)
    check_at_least(1, seed=args.seed)
    if args.json:
        check_output(args.json, "--json", [*args.systems, *(args.ref or ())], "scores")
    files = args.ref or test_set_references(args.test_set, args.language_pair)
    language = args.lang or (args.language_pair or "en").split("-")[-1]
    if not re.fullmatch("[A-Za-z]{2,3}([-_.].*)?", language):
        raise OptionError(f"--lang is '{language}'; expected a code of two or three letters, such as de or zh")
    systems, references = read_sides(args.systems, files)
    taken = None if args.lang or args.tokenised or args.tokenize else language
    for remark in remarks(references[0], taken, args.tokenised):
        print(f"WARNING: {remark}", file=sys.stderr)
    options = {name: getattr(args, name) for name in ("tokenised", "lowercase", "samples", "seed", "tokenize")}
    scores = score_systems(systems, references, language, **options)
    print(score_table(scores))
    if args.json:
        record = {"references": [*map(str, files)], "language": language, "sentences": len(references[0]), **options}
        write_json(args.json, {**record, "scores": scores})


def score_table(scores):
    """The figures as plain text, a block a metric, its signature below."""
    rows = []
    for metric, figures in scores.items():
        several = len(figures["systems"]) > 1
        rows.append([LABELS.get(metric, metric), "score", *["95 % interval", "p"] * several])
        for name, figure in figures["systems"].items():
            rows.append([name, f"{figure['score']:.2f}"])
            if several:
                p = "" if figure["p"] is None else f"{figure['p']:.4f}"
                rows[-1] += [f"{figure['mean']:.2f} ± {figure['half_width']:5.2f}", p]
    lines = iter(render_table([], rows, style="plain").splitlines())
    blocks = []
    for figures in scores.values():
        block = [next(lines).rstrip() for _ in range(1 + len(figures["systems"]))]
        blocks.append("\n".join([*block, f"  {figures['signature']}"]))
    return "\n\n".join(blocks)
