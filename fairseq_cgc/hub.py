"""fairseq's hub interface for lines that it does not expect: blank ones, and very long ones."""

import logging

import torch
from fairseq.hub_utils import GeneratorHubInterface
from fairseq.tasks.fairseq_task import StatefulContainer
from omegaconf import OmegaConf

from .errors import CheckpointError
from .text import is_blank

logger = logging.getLogger(__name__)


def _untyped(cfg):
    """fairseq's options without its types of choices, of which pickle finds no definition."""
    if not OmegaConf.is_config(cfg):
        return cfg
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True), flags={"allow_objects": True})


def _evaluation_only(mode: bool = True) -> None:
    if mode:
        raise RuntimeError("the models of a hub interface have been prepared for translation and cannot be trained")


class CopyableState(StatefulContainer):
    """A task's state that can be copied and pickled, which fairseq's cannot: while it is being made it has no
    ``_state`` yet, and looks for it in itself without end.

    Args:
        state: fairseq's
    """

    def __init__(self, state: StatefulContainer):
        self.__dict__.update(state.__dict__)

    def __getattr__(self, name):
        if "_state" not in vars(self):
            raise AttributeError(name)
        return super().__getattr__(name)


class TranslationHub(GeneratorHubInterface):
    """Raw sentences in, raw translations out.

    A blank sentence has a blank translation, where fairseq has the model invent one. A sentence beyond the
    model's position limit is cut there, with a warning; one longer than the batches that the model was
    trained on is translated whole.
    """

    def __init__(self, cfg, task, models):
        super().__init__(_untyped(cfg), task, models)
        task.cfg = _untyped(task.cfg)
        task.state = CopyableState(task.state)
        for model in models:
            model.train = _evaluation_only  # fairseq's own refuses as well, and cannot be pickled
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
        said = [sentence for sentence in sentences if not is_blank(sentence)]
        translations = iter(super().sample(said, beam, verbose, **kwargs) if said else [])
        return ["" if is_blank(sentence) else next(translations) for sentence in sentences]
