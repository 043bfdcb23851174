"""fairseq's hub interface for lines that it does not expect: blank ones, and very long ones."""

import logging

import torch
from fairseq.hub_utils import GeneratorHubInterface

from .compat import refuse_training, untyped
from .errors import CheckpointError
from .text import is_blank

BY_ROW = "prefix_tokens", "constraints"  # fairseq's arguments of a step that have a row for each sentence

logger = logging.getLogger(__name__)


class TranslationHub(GeneratorHubInterface):
    """Raw sentences in, raw translations out.

    A blank sentence has a blank translation, where fairseq has the model invent one. A sentence beyond the
    model's position limit is cut there, with a warning; one longer than the batches that the model was
    trained on is translated whole.
    """

    def __init__(self, cfg, task, models):
        super().__init__(untyped(cfg), task, models)
        task.cfg = untyped(task.cfg)
        for model in models:
            model.train = refuse_training
        if self.max_positions[0] < 2:
            raise CheckpointError(
                f"the model takes sentences of up to {self.max_positions[0]} tokens (--max-source-positions)"
            )
        if self.cfg.dataset.max_tokens:
            self.cfg.dataset.max_tokens = max(self.cfg.dataset.max_tokens, self.max_positions[0])

    def encode(self, sentence: str) -> torch.LongTensor:
        """The tokens of a raw sentence, EOS the last, cut at the position limit."""
        tokens, limit = super().encode(sentence), self.max_positions[0]
        if len(tokens) > limit:
            start = sentence if len(sentence) < 40 else sentence[:40] + "..."
            logger.warning("'%s' has %d tokens and is cut to the model's limit of %d", start, len(tokens), limit)
            tokens = torch.cat([tokens[: limit - 1], tokens[-1:]])
        return tokens

    def sample(self, sentences: str | list[str], beam: int = 1, verbose: bool = False, **kwargs):
        """Translate one raw sentence, or a list of them; ``translate`` does it with beam 5."""
        if isinstance(sentences, str):
            return self.sample([sentences], beam, verbose, **kwargs)[0]
        rows = [row for row, sentence in enumerate(sentences) if not is_blank(sentence)]
        arguments, translations = kwargs.pop("inference_step_args", None) or {}, [""] * len(sentences)
        by_row = {name: value for name in BY_ROW if (value := arguments.get(name)) is not None}
        # fairseq sorts sentences by length, and does not sort what each has of its own: then one by one.
        groups = [[row] for row in rows] if by_row else [rows]
        for group in filter(None, groups):
            own = {name: value[group] for name, value in by_row.items()}
            lines = [sentences[row] for row in group]
            found = super().sample(lines, beam, verbose, inference_step_args={**arguments, **own}, **kwargs)
            for row, translation in zip(group, found):
                translations[row] = translation
        return translations
