"""The model: fairseq's LightConv with context-gated encoder convolutions, and its architectures."""

import copy
import logging
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch
import torch.nn.functional as F
from fairseq.models import lightconv, register_model, register_model_architecture
from fairseq.models.lightconv import LightConvEncoder, LightConvModel, Linear
from fairseq.modules import FairseqDropout, LayerNorm
from torch import Tensor, nn

from .channel_gate import GatedChannelTransformation
from .compat import NEVER_SET, trainer_options
from .context_gate import LearnedGate, SentenceGate
from .convolutions import ContextGatedDynamicConv, ContextGatedLightweightConv, RecordedGate
from .decoder import IncrementalDecoder, reorder_encoder_out
from .errors import CheckpointError, UserError
from .hub import TranslationHub
from .ops.padding import Padding
from .optimizer import exempt_from_weight_decay, scale_learning_rate
from .options import (
    CHECKED,
    add_options,
    check_known,
    check_optimizer,
    check_options,
    check_types,
    fill_in,
    gate_arguments,
    gated_layers,
    remarks,
    without_layers,
)
from .safe_loading import check_names, explained
from .text import PREPARATION, hub_options

logger = logging.getLogger(__name__)

LIGHTCONV_NAMES = {  # for --retain-dropout-modules
    "LightConvCGCEncoder": "LightConvEncoder",
    "LightConvCGCEncoderLayer": "LightConvEncoderLayer",
    "ContextGatedLightweightConv": "LightweightConv1dTBC",
    "ContextGatedDynamicConv": "DynamicConv_scripatable",  # as fairseq spells it
    "DynamicConv1dTBC": "DynamicConv_scripatable",
    "IncrementalDecoder": "LightConvDecoder",
    "IncrementalDecoderLayer": "LightConvDecoderLayer",
    "IncrementalLightweightConv": "LightweightConv1dTBC",
    "SourceGatedLightweightConv": "LightweightConv1dTBC",
}


class LightConvCGCEncoderLayer(nn.Module):
    """LightConv's encoder layer with a context-gated convolution, lightweight or dynamic.

    Args:
        args: the model's options
        kernel_size: K of this layer
        gated: whether the layer has a gate; without, it computes what LightConv's does
    """

    def __init__(self, args, kernel_size: int, gated: bool = True):
        super().__init__()
        embed_dim, conv_dim = args.encoder_embed_dim, args.encoder_conv_dim
        self.linear1 = Linear(embed_dim, 2 * conv_dim if args.encoder_glu else conv_dim)
        self.act = nn.GLU() if args.encoder_glu else None
        dynamic = args.encoder_conv_type == "dynamic"
        self.conv = (ContextGatedDynamicConv if dynamic else ContextGatedLightweightConv)(
            conv_dim,
            kernel_size,
            padding_l=(kernel_size - 1) // 2,
            num_heads=args.encoder_attention_heads,
            weight_softmax=args.weight_softmax,
            weight_dropout=args.weight_dropout,
            gct=args.encoder_gct,
            **gate_arguments(args, gated),
        )
        self.linear2 = Linear(conv_dim, embed_dim)
        self.input_dropout_module, self.dropout_module, self.relu_dropout_module = (
            FairseqDropout(p, module_name=type(self).__name__)
            for p in (args.input_dropout, args.dropout, args.relu_dropout)
        )
        self.normalize_before = args.encoder_normalize_before
        self.fc1 = Linear(embed_dim, args.encoder_ffn_embed_dim)
        self.fc2 = Linear(args.encoder_ffn_embed_dim, embed_dim)
        self.layer_norm1, self.layer_norm2 = LayerNorm(embed_dim), LayerNorm(embed_dim)

    def forward(
        self,
        x: Tensor,
        padding: Padding | Tensor | None = None,
        record: list[RecordedGate] | None = None,
        gate: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            x: T x B x C
            padding: B x T, true at padding, or the batch's ``Padding``
            record, gate: as for the convolution

        Returns:
            T x B x C
        """
        residual = x
        if self.normalize_before:
            x = self.layer_norm1(x)
        x = self.linear1(self.input_dropout_module(x))
        if self.act is not None:
            x = self.act(x)
        x = self.conv(x, padding, record, gate)
        x = residual + self.dropout_module(self.linear2(x))
        if not self.normalize_before:
            x = self.layer_norm1(x)

        residual = x
        if self.normalize_before:
            x = self.layer_norm2(x)
        x = self.relu_dropout_module(F.relu(self.fc1(x)))
        x = residual + self.dropout_module(self.fc2(x))
        return x if self.normalize_before else self.layer_norm2(x)


class LightConvCGCEncoder(LightConvEncoder):
    """LightConv's encoder with context-gated layers. Takes what ``LightConvEncoder`` takes."""

    def __init__(self, args, dictionary, embed_tokens):
        # fairseq's encoder names its layer class inside __init__: let it build none.
        super().__init__(without_layers(args), dictionary, embed_tokens)
        self.shuffles = args.cgc_shuffle_context and args.cgc_decoder == "source"
        gated = gated_layers(args)
        self.layers = nn.ModuleList(
            LightConvCGCEncoderLayer(args, kernel_size, number in gated)
            for number, kernel_size in enumerate(args.encoder_kernel_size_list, start=1)
        )

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        record: list[RecordedGate] | None = None,
        gates: list[Tensor | None] | None = None,
    ) -> dict[str, list[Tensor]]:
        """
        Args:
            src_tokens: B x T
            src_lengths: B, handed on
            record: a list that gets one ``RecordedGate`` a layer
            gates: to use instead: one B x H x K a layer, or None for the layer's own

        Returns:
            encoder_out: [T x B x C]; encoder_padding_mask: [B x T], where there is padding; src_lengths: [B]

        Raises:
            ValueError: another number of gates than of layers
        """
        x = self.embed_scale * self.embed_tokens(src_tokens)
        if self.embed_positions is not None:
            x = x + self.embed_positions(src_tokens)
        x = self.dropout_module(x).transpose(0, 1)

        mask = src_tokens.eq(self.padding_idx)
        padding = Padding(mask) if mask.any() else None
        if gates is None:
            gates = [None] * len(self.layers)
        elif len(gates) != len(self.layers):
            raise ValueError(f"there are {len(gates)} gates, expected one for each of {len(self.layers)} layers")
        for layer, gate in zip(self.layers, gates):
            x = layer(x, padding, record, gate)
        if self.layer_norm is not None:
            x = self.layer_norm(x)

        output = {} if src_lengths is None else {"src_lengths": [src_lengths]}
        output["encoder_out"] = [x]
        if padding is not None:
            output["encoder_padding_mask"] = [mask]
        return output

    def reorder_encoder_out(self, encoder_out, new_order: Tensor):
        """Rearrange the output of ``forward`` (T x B x C, and its B x T mask) by ``new_order``."""
        return reorder_encoder_out(super().reorder_encoder_out, encoder_out, new_order, self.shuffles)


@register_model("lightconv_cgc")
class LightConvCGCModel(LightConvModel):
    """LightConv with a context-gated encoder, for translation (Lin et al., ECCV 2020, section 4.4).

    Args:
        encoder (LightConvCGCEncoder): the encoder
        decoder (IncrementalDecoder): LightConv's decoder
    """

    @classmethod
    def hub_models(cls):
        return {}

    @staticmethod
    def add_args(parser: ArgumentParser) -> None:
        """LightConv's options, and those of the gate."""
        LightConvModel.add_args(parser)
        # fairseq's default is dynamic; the paper gates LightConv.
        parser.set_defaults(encoder_conv_type="lightweight", decoder_conv_type="lightweight")
        add_options(parser)

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str | Path,
        checkpoint_file: str = "model.pt",
        data_name_or_path: str | Path = ".",
        **kwargs,
    ) -> TranslationHub:
        """fairseq's hub interface, with the tokenizer and BPE that the data was prepared with.

        They are read from ``prepare.json`` beside the dictionaries, where there is one; fairseq's
        own options (``tokenizer=``, ``bpe=``, ``bpe_codes=`` ...) go before.

        Args:
            model_name_or_path: folder of the checkpoint
            checkpoint_file: its name; several, separated by colons, make an ensemble
            data_name_or_path: folder of the dictionaries and the subword model; one that starts with
                ``.`` is relative to the checkpoint's

        Returns:
            TranslationHub: ``.translate("...", beam=6)``

        Raises:
            CheckpointError: the folder or the checkpoint does not exist, or no model can be built of it
        """
        model_name_or_path, data_name_or_path = str(model_name_or_path), str(data_name_or_path)
        paths = [Path(model_name_or_path, file) for file in checkpoint_file.split(os.pathsep)]
        for path in paths:
            if not path.exists():
                raise CheckpointError(f"the checkpoint {path} does not exist; give its folder and checkpoint_file=")
        all_of_them, data = os.pathsep.join(map(str, paths)), Path(data_name_or_path)
        if data_name_or_path.startswith("."):
            data = Path(model_name_or_path, data_name_or_path)
        if (data / PREPARATION).exists():
            for option, value in hub_options(data).items():
                kwargs.setdefault(option, value)
        try:
            hub = super().from_pretrained(model_name_or_path, checkpoint_file, data_name_or_path, **kwargs)
            hub = TranslationHub(hub.cfg, hub.task, hub.models)
            ends = torch.full((2, 1), hub.task.target_dictionary.eos())  # two: shuffled contexts need another's
            with torch.no_grad():
                for model in hub.models:  # an option of the wrong type may show in its first use alone
                    model(ends, torch.ones(2, dtype=torch.long), ends)
            return hub
        except UserError as error:  # an option of the checkpoint's, which nobody has typed
            named = any(str(path) in str(error) for path in paths)
            raise error if named else type(error)(f"{all_of_them} cannot be used: {error}") from None
        except Exception as error:  # whatever fairseq stumbles over in the options
            reason = f"{type(error).__name__}: {error}".split("\n")[0]
            raise explained(error) or CheckpointError(
                f"{all_of_them} cannot be used for translation: {reason}"
            ) from error

    @classmethod
    def build_model(cls, args, task):
        """Build a new model instance."""
        _fill_in(args, lightconv.base_architecture, training=False)  # what an older checkpoint's options lack
        # fairseq's builds the embeddings, which may be shared or read from files, and two empty stacks.
        shell = without_layers(args)
        embeddings = super().build_model(shell, task)
        args.max_source_positions = shell.max_source_positions
        args.max_target_positions = shell.max_target_positions
        args.share_decoder_input_output_embed = shell.share_decoder_input_output_embed
        encoder = LightConvCGCEncoder(args, embeddings.encoder.dictionary, embeddings.encoder.embed_tokens)
        decoder = IncrementalDecoder(args, embeddings.decoder.dictionary, embeddings.decoder.embed_tokens)
        model = cls(encoder, decoder)
        for dropout in model.modules_of(FairseqDropout):
            dropout.module_name = LIGHTCONV_NAMES.get(dropout.module_name, dropout.module_name)
        if args.cgc_lr_scale != 1:
            gates = model.modules_of(SentenceGate, LearnedGate)
            scale_learning_rate((parameter for gate in gates for parameter in gate.parameters()), args.cgc_lr_scale)
        if getattr(trainer_options(args), "optimizer", None) == "cgc_adam":
            exempt_from_weight_decay(gct.beta for gct in model.modules_of(GatedChannelTransformation))
        return model

    def modules_of(self, *kinds: type[nn.Module]) -> list[nn.Module]:
        """The modules of these classes."""
        return [module for module in self.modules() if isinstance(module, kinds)]

    def upgrade_state_dict_named(self, state_dict, name):
        """Let a LightConv checkpoint be trained on: if it has no gates at all, this model's own are kept.

        Those that a checkpoint has in part, or of another kind, are left to ``load_state_dict``, which refuses it.
        """
        super().upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}." if name else ""  # of a model that is part of another
        own = {prefix + key: value for key, value in self.state_dict().items()}
        for key in [key for key in state_dict if key.startswith(prefix)]:
            if key.endswith(NEVER_SET) and key not in own:
                del state_dict[key]
            # fairseq's CUDA layer keeps a kernel as H x K.
            elif key in own and key.endswith(".conv.weight") and state_dict[key].dim() == 2:
                state_dict[key] = state_dict[key].unsqueeze(1)
        for side, what in (("encoder", "gate"), ("encoder", "gct"), ("decoder", "gate")):
            new, there = (
                [key for key in keys if key.startswith(f"{prefix}{side}.layers.") and f".conv.{what}." in key]
                for keys in (own, state_dict)
            )
            if new and not there:
                logger.warning(
                    f"the checkpoint has no {what}s in its {side}: {len(new)} parameters stay as they are here"
                )
                state_dict.update((key, own[key].clone()) for key in new)

    def load_state_dict(self, state_dict, *args, **kwargs):
        """As fairseq's; what is added to the names of a LightConv's, or taken from them, is so in a copy."""
        return super().load_state_dict(copy.copy(state_dict), *args, **kwargs)


def _fill_in(args, lightconv_architecture, training=True):
    """Fill in what the user left open: LightConv's settings, lightweight, with the gate's defaults.

    Args:
        training: whether these are a training's options, and not those that a checkpoint is used with
    """
    args.encoder_conv_type = getattr(args, "encoder_conv_type", "lightweight")
    args.decoder_conv_type = getattr(args, "decoder_conv_type", "lightweight")
    args.weight_softmax = getattr(args, "weight_softmax", True)
    fill_in(args)
    # The mark is saved with the options: a model that is used comes here too, with what that command makes of them.
    training = training and not getattr(args, CHECKED, False)
    check_types(args)
    if training:
        check_known(args)
    try:
        lightconv_architecture(args)
    except (AssertionError, TypeError):  # a kernel list of the wrong length, or none: fairseq gives no numbers
        check_options(args)
        raise
    check_options(args)
    if training:
        if args.cgc_shuffle_context:
            logger.warning(
                "--cgc-shuffle-context is for a trained model; a validation batch of one sentence will end this training"
            )
        for remark in remarks(args):
            logger.warning(remark)
        options = trainer_options(args)
        check_names(options)
        if args.cgc_lr_scale != 1:
            check_optimizer(options, f"--cgc-lr-scale {args.cgc_lr_scale}")
        elif args.encoder_gct and getattr(options, "optimizer", None) == "cgc_adam":
            check_optimizer(options, "--encoder-gct with cgc_adam, which decays all but its beta,")
        setattr(args, CHECKED, True)


@register_model_architecture("lightconv_cgc", "lightconv_cgc")
def lightconv_cgc(args: Namespace) -> None:
    """The paper's IWSLT'14 De-En model (section 4.4, Table 6): ``lightconv_iwslt_de_en``, both convolution types
    lightweight, no GLU, dropout 0.3, gated."""
    args.dropout = getattr(args, "dropout", 0.3)  # the recipe's, which fairseq's users give by hand
    _fill_in(args, lightconv.lightconv_iwslt_de_en)


@register_model_architecture("lightconv_cgc", "lightconv_gct")
def lightconv_gct(args: Namespace) -> None:
    """LightConv of the same size with the competing gate instead: a Gated Channel Transformation (Yang et al. 2020)
    before every encoder convolution. It starts as LightConv exactly."""
    args.cgc_gate = getattr(args, "cgc_gate", "none")
    args.encoder_gct = True
    lightconv_cgc(args)


def _register(size):
    def architecture(args: Namespace) -> None:
        _fill_in(args, getattr(lightconv, f"lightconv_{size}"))

    architecture.__doc__ = f"``lightconv_{size}``, both convolution types lightweight, gated."
    register_model_architecture("lightconv_cgc", f"lightconv_cgc_{size}")(architecture)


for _size in ("wmt_en_de", "wmt_en_de_big", "wmt_en_fr_big", "wmt_zh_en_big"):
    _register(_size)
