"""A run folder:

run.json        what it is: row, seed, options, hashes of its data, versions, updates done
checkpoints/    the last 10 epochs', the best, the last
train.log       fairseq-train's words; log.jsonl: its figures, one JSON object a line
model/          the average: a folder complete in itself (made by generate)
test/           translations and scores (made by generate); test-shuffled/: with other sentences' contexts (by experiment)
"""

from .files import Between

RUN = "run.json"
RECORD = {
    "row": str,
    "seed": int,
    "options": [str],
    "data": {
        "path": str,
        "source_lang": str,
        "target_lang": str,
        "pairs": {str: Between(0, kind=int)},
        "sha256": {str: str},
    },
    "batch_tokens?": Between(1, kind=int),  # none where --max-tokens says them
    "base?": str,  # hash of the model that it started from
    "updates": Between(1, kind=int),
    "done": Between(0, kind=int),
    "ended?": {"max_update": Between(1, kind=int), "limits": {str: str}},  # what it ended by, short of its updates
    "versions": {str: str},
    "command?": [str],  # which the study's records leave out, for its paths
}
CHECKPOINTS = "checkpoints"
LAST, BEST = "checkpoint_last.pt", "checkpoint_best.pt"
MODEL_FOLDER, MODEL = "model", "model.pt"
SHUFFLED_TEST = "test-shuffled"
