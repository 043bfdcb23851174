"""The model: fairseq's LightConv with context-gated encoder convolutions, and its architectures."""

import copy
import os
from pathlib import Path

from fairseq.models import lightconv, register_model, register_model_architecture
from fairseq.models.lightconv import LightConvEncoder, LightConvEncoderLayer, LightConvModel
from torch import Tensor, nn

from .context_gate import ACTIVATIONS, AS_KERNEL, NORMS, POOL_FACTOR, POOLS, ContextGate, LearnedGate
from .errors import CheckpointError, OptionError, check_at_least
from .gated_convolution import (
    GATE_ON,
    GATES,
    ContextGatedDynamicConv,
    ContextGatedLightweightConv,
    recorded_gates,
)
from .hub import TranslationHub
from .incremental import IncrementalDecoder, reorder_encoder_out
from .ops import Padding
from .optimizer import check_optimizer, scale_learning_rate
from .text import PREPARATION, hub_options

DECODERS = ("none", "source")


class LightConvCGCEncoderLayer(LightConvEncoderLayer):
    """LightConv's encoder layer with a context-gated convolution, lightweight or dynamic.

    Args:
        args: the model's options
        kernel_size: K of this layer
        shared: a list for the batch's ``Padding``, which layers that share it work out once
        gated: whether the layer has a gate; without, it computes what LightConv's does
    """

    def __init__(self, args, kernel_size=0, shared=None, gated=True):
        super().__init__(args, kernel_size=kernel_size)
        self.shared = [] if shared is None else shared
        dynamic = args.encoder_conv_type == "dynamic"
        self.conv = (ContextGatedDynamicConv if dynamic else ContextGatedLightweightConv)(
            self.conv_dim,
            kernel_size,
            padding_l=(kernel_size - 1) // 2,
            num_heads=args.encoder_attention_heads,
            weight_softmax=args.weight_softmax,
            weight_dropout=args.weight_dropout,
            gct=args.encoder_gct,
            **{**_gate_options(args), **({} if gated else UNGATED)},
        )

    def forward(self, x: Tensor, encoder_padding_mask: Tensor | None = None) -> Tensor:
        """
        Args:
            x: T x B x C
            encoder_padding_mask: B x T, true at padding

        Returns:
            T x B x C
        """
        padding = None
        if encoder_padding_mask is not None:
            if not self.shared or self.shared[0].mask is not encoder_padding_mask:
                self.shared[:] = [Padding(encoder_padding_mask)]
            padding = self.shared[0]
        with self.conv.zeroed_at(padding):
            return super().forward(x, encoder_padding_mask)


class LightConvCGCEncoder(LightConvEncoder):
    """LightConv's encoder with context-gated layers. Takes what ``LightConvEncoder`` takes."""

    def __init__(self, args, dictionary, embed_tokens):
        # fairseq's encoder names its layer class inside __init__: let it build none.
        super().__init__(_without_layers(args, "encoder"), dictionary, embed_tokens)
        self.shared = []
        gated = _gated_layers(args)
        self.layers = nn.ModuleList(
            LightConvCGCEncoderLayer(args, kernel_size, self.shared, number in gated)
            for number, kernel_size in enumerate(args.encoder_kernel_size_list, start=1)
        )

    def forward(self, *args, **kwargs):
        """As ``LightConvEncoder.forward``."""
        try:
            return super().forward(*args, **kwargs)
        finally:
            self.shared.clear()  # a mask that is changed later must not meet what was worked out from it

    def recorded_gates(self, gates=None):
        """A context within which ``forward`` hands out its layers' gates and kernels.

        ::

            with model.encoder.recorded_gates() as layers:
                model.encoder(src_tokens, src_lengths)
            layers[0].gate  # B x H x K

        Args:
            gates: to use instead: one B x H x K a layer, or None for the layer's own

        Returns:
            a context manager that yields a list of one ``RecordedGate`` a layer, filled by ``forward``
        """
        return recorded_gates([layer.conv for layer in self.layers], gates)

    def reorder_encoder_out(self, encoder_out, new_order: Tensor):
        """Rearrange the output of ``forward`` (T x B x C, and its B x T mask) by ``new_order``."""
        return reorder_encoder_out(super().reorder_encoder_out, encoder_out, new_order)


@register_model("lightconv_cgc")
class LightConvCGCModel(LightConvModel):
    """LightConv with a context-gated encoder, for translation (Lin et al., ECCV 2020, section 4.4).

    Args:
        encoder (LightConvCGCEncoder): the encoder
        decoder (fairseq.models.lightconv.LightConvDecoder): LightConv's own decoder
    """

    @classmethod
    def hub_models(cls):
        return {}

    @staticmethod
    def add_args(parser):
        """LightConv's options, and those of the gate."""
        LightConvModel.add_args(parser)
        # fairseq's default is dynamic; the paper gates LightConv.
        parser.set_defaults(encoder_conv_type="lightweight", decoder_conv_type="lightweight")
        parser.add_argument(
            "--cgc-gate",
            choices=GATES,
            help="context: computed from the sentence (section 3.2; default); constant: the control, every gate fixed "
            "at 0.5 (at 1 with --cgc-gate-activation one-plus-tanh), without parameters; learned: the control with "
            "parameters, one gate a head and tap for all sentences, which starts from constant's",
        )
        parser.add_argument(
            "--cgc-layers",
            metavar="[N,...]",
            help="gate these encoder layers alone, by number from 1, or from -1 for the last, e.g. [6,7] or [-2,-1] (default: "
            "all); the others are LightConv's",
        )
        parser.add_argument(
            "--cgc-shuffle-context",
            action="store_true",
            help="at evaluation, gate each sentence by the context of the one before it in its batch: the control that "
            "tells use from presence. For a trained model: fairseq-generate --model-overrides "
            "\"{'cgc_shuffle_context': True}\"",
        )
        parser.add_argument(
            "--cgc-pool",
            choices=POOLS,
            help="what a time slot holds of the tokens of a long sentence: their average (section 4.4; default) or max",
        )
        parser.add_argument(
            "--cgc-gate-on",
            choices=GATE_ON,
            help="what the gate multiplies: the kernel that convolves, softmax(W)*G (Eq. 2; default), "
            "or the logits, softmax(W*G)",
        )
        parser.add_argument(
            "--cgc-norm",
            choices=NORMS,
            help="what the gate's LayerNorm normalises over (section 3.2): the latent values of each "
            "head (default), or those of all heads together",
        )
        parser.add_argument(
            "--cgc-gate-activation",
            choices=ACTIVATIONS,
            help="sigmoid (section 3.2; default) or 1 + tanh (GCT), with which --cgc-zero-init starts "
            "as LightConv exactly",
        )
        parser.add_argument(
            "--cgc-zero-init",
            action="store_true",
            help="start from constant gates (supplement A.2), by zeroing the gate's decoding layer",
        )
        parser.add_argument(
            "--cgc-latent-dim",
            type=_latent_dim,
            metavar="{N,K}",
            help="latent size d of the gate (section 3.2; default: K // 2 + 1 for kernel size K), a number or the letter K",
        )
        parser.add_argument(
            "--cgc-pool-factor",
            type=int,
            metavar="N",
            help="pool the sentence to N * K time slots for kernel size K (section 4.4; default: 3)",
        )
        parser.add_argument(
            "--cgc-lr-scale",
            type=float,
            metavar="X",
            help="learn the gates' parameters at X times the rate of the others (supplement A.2 has 0.1; default: 1); with "
            "--optimizer cgc_adam, which is adam with parameter groups",
        )
        parser.add_argument(
            "--cgc-decoder",
            choices=DECODERS,
            help="none: the paper's, whose decoder is LightConv's (default); source: gate each decoder convolution by a "
            "summary of the encoder's output, with the options of the encoder's gates",
        )
        parser.add_argument(
            "--encoder-gct",
            action="store_true",
            help="a Gated Channel Transformation (Yang et al. 2020) before every encoder convolution, and before its "
            "context gate; --arch lightconv_gct is LightConv with it alone",
        )

    @classmethod
    def from_pretrained(cls, model_name_or_path, checkpoint_file="model.pt", data_name_or_path=".", **kwargs):
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
            CheckpointError: the folder or the checkpoint does not exist
        """
        model_name_or_path, data_name_or_path = str(model_name_or_path), str(data_name_or_path)
        for file in checkpoint_file.split(os.pathsep):
            path = Path(model_name_or_path, file)
            if "://" not in str(model_name_or_path) and not path.exists():
                raise CheckpointError(f"the checkpoint {path} does not exist; give its folder and checkpoint_file=")
        data = Path(data_name_or_path)
        if data_name_or_path.startswith("."):
            data = Path(model_name_or_path, data_name_or_path)
        if (data / PREPARATION).exists():
            for option, value in hub_options(data).items():
                kwargs.setdefault(option, value)
        hub = super().from_pretrained(model_name_or_path, checkpoint_file, data_name_or_path, **kwargs)
        return TranslationHub(hub.cfg, hub.task, hub.models)

    @classmethod
    def build_model(cls, args, task):
        """Build a new model instance."""
        _fill_in(args, lightconv.base_architecture, training=False)  # what an older checkpoint's options lack
        ungated = _without_layers(args, "encoder")
        model = super().build_model(ungated, task)
        args.max_source_positions = ungated.max_source_positions
        encoder = LightConvCGCEncoder(args, model.encoder.dictionary, model.encoder.embed_tokens)
        gate = _gate_options(args) if args.cgc_decoder == "source" else {}
        model = cls(encoder, IncrementalDecoder.of(model.decoder, **gate))
        if args.cgc_lr_scale != 1:
            gates = (module for module in model.modules() if isinstance(module, (ContextGate, LearnedGate)))
            scale_learning_rate((parameter for module in gates for parameter in module.parameters()), args.cgc_lr_scale)
        return model


def _latent_dim(text):
    """A number, or K."""
    return text if text == AS_KERNEL else int(text)


def _gate_options(args):
    return {
        "gate": args.cgc_gate,
        "gate_on": args.cgc_gate_on,
        "norm": args.cgc_norm,
        "activation": args.cgc_gate_activation,
        "zero_init": args.cgc_zero_init,
        "latent_dim": args.cgc_latent_dim,
        "pool_factor": args.cgc_pool_factor,
        "pool": args.cgc_pool,
        "shuffle": args.cgc_shuffle_context,
    }


UNGATED = {"gate": "constant", "activation": "one-plus-tanh"}  # every gate is 1


def _gated_layers(args):
    """The numbers, from 1, of the encoder layers that are gated; -1 stands for the last.

    Raises:
        OptionError: not a list of numbers, or no layer has such a number
    """
    everyone = range(1, args.encoder_layers + 1)
    if args.cgc_layers is None:
        return list(everyone)
    try:
        numbers = [int(number) for number in str(args.cgc_layers).strip("[] ").split(",")]
    except ValueError:
        numbers = []
    numbers = [number + args.encoder_layers + 1 if number < 0 else number for number in numbers]
    if not numbers or any(number not in everyone for number in numbers):
        raise OptionError(
            f"--cgc-layers is '{args.cgc_layers}'; it is a list of numbers from 1 to {args.encoder_layers}, the encoder's "
            f"layers (or from -1, the last), such as [1,{args.encoder_layers}]; for none of them, --cgc-gate constant --cgc-gate-activation one-plus-tanh"
        )
    return numbers


def _without_layers(args, side):
    """A copy of the options that builds an encoder (or decoder) with no layers."""
    args = copy.copy(args)
    setattr(args, f"{side}_layers", 0)
    setattr(args, f"{side}_kernel_size_list", [])
    return args


def check_options(args):
    """Refuse options that contradict each other or the gate, before anything is built.

    Raises:
        OptionError: naming the option, its value and what it should be
    """
    for side in ("encoder", "decoder"):
        layers = getattr(args, f"{side}_layers")
        sizes = getattr(args, f"{side}_kernel_size_list")
        if len(sizes) not in (1, layers):
            raise OptionError(
                f"--{side}-kernel-size-list has {len(sizes)} kernel sizes, {sizes}, for --{side}-layers {layers}; "
                "give one a layer, or a single one for all"
            )
        if any(size < 1 for size in sizes):
            raise OptionError(f"--{side}-kernel-size-list is {sizes}; a kernel size is at least 1")
        channels = getattr(args, f"{side}_conv_dim")
        heads = getattr(args, f"{side}_attention_heads")
        if heads < 1 or channels % heads:
            raise OptionError(
                f"--{side}-attention-heads {heads} does not divide the {channels} channels of the {side}'s "
                f"convolutions (--{side}-conv-dim, by default --{side}-embed-dim); choose one that does"
            )
    if args.cgc_decoder == "source" and args.decoder_conv_type != "lightweight":
        raise OptionError(
            f"--cgc-decoder source gates the one kernel a layer of a lightweight decoder, and --decoder-conv-type is "
            f"{args.decoder_conv_type}; leave one of the two out"
        )
    if args.cgc_decoder == "source" and args.encoder_embed_dim % args.decoder_attention_heads:
        raise OptionError(
            f"--cgc-decoder source divides the encoder's {args.encoder_embed_dim} channels (--encoder-embed-dim) among "
            f"the decoder's {args.decoder_attention_heads} heads (--decoder-attention-heads); choose a number that divides them"
        )
    if args.cgc_latent_dim not in (None, AS_KERNEL):
        check_at_least(1, cgc_latent_dim=args.cgc_latent_dim)
    check_at_least(1, cgc_pool_factor=args.cgc_pool_factor)
    _gated_layers(args)
    if args.cgc_lr_scale != 1:
        if not args.cgc_lr_scale > 0:
            raise OptionError(f"--cgc-lr-scale is {args.cgc_lr_scale}; it must be above 0")
        if args.cgc_gate == "constant":
            raise OptionError(
                f"--cgc-lr-scale {args.cgc_lr_scale} is for the gates' parameters, and a constant gate has none; leave it out"
            )


def _fill_in(args, lightconv_architecture, training=True):
    """Fill in what the user left open: LightConv's settings, lightweight, with the gate's defaults.

    Args:
        training: whether these are a training's options, and not those that a checkpoint is used with
    """
    args.encoder_conv_type = getattr(args, "encoder_conv_type", "lightweight")
    args.decoder_conv_type = getattr(args, "decoder_conv_type", "lightweight")
    args.weight_softmax = getattr(args, "weight_softmax", True)
    args.cgc_gate = getattr(args, "cgc_gate", "context")
    args.cgc_gate_on = getattr(args, "cgc_gate_on", "kernel")
    args.cgc_norm = getattr(args, "cgc_norm", "latent")
    args.cgc_gate_activation = getattr(args, "cgc_gate_activation", "sigmoid")
    args.cgc_zero_init = getattr(args, "cgc_zero_init", False)
    args.cgc_latent_dim = getattr(args, "cgc_latent_dim", None)
    args.cgc_pool_factor = getattr(args, "cgc_pool_factor", POOL_FACTOR)
    args.cgc_layers = getattr(args, "cgc_layers", None)
    args.cgc_pool = getattr(args, "cgc_pool", "average")
    args.cgc_shuffle_context = getattr(args, "cgc_shuffle_context", False)
    args.encoder_gct = getattr(args, "encoder_gct", False)
    args.cgc_decoder = getattr(args, "cgc_decoder", "none")
    args.cgc_lr_scale = getattr(args, "cgc_lr_scale", 1.0)
    try:
        lightconv_architecture(args)
    except AssertionError:  # a kernel list of the wrong length, which fairseq says without numbers
        check_options(args)
        raise
    check_options(args)
    if training and args.cgc_lr_scale != 1:
        check_optimizer(args)


@register_model_architecture("lightconv_cgc", "lightconv_cgc")
def lightconv_cgc(args):
    """The paper's IWSLT'14 De-En model (section 4.4, Table 6): 38,148,144 parameters there."""
    args.dropout = getattr(args, "dropout", 0.3)  # the recipe's, which fairseq's users give by hand
    _fill_in(args, lightconv.lightconv_iwslt_de_en)


@register_model_architecture("lightconv_cgc", "lightconv_gct")
def lightconv_gct(args):
    """The competing gate: ``lightconv_cgc`` with a Gated Channel Transformation instead of the context gate."""
    args.cgc_gate = getattr(args, "cgc_gate", "constant")
    args.cgc_gate_activation = getattr(args, "cgc_gate_activation", "one-plus-tanh")  # every gate is 1
    args.encoder_gct = True
    lightconv_cgc(args)


@register_model_architecture("lightconv_cgc", "lightconv_cgc_wmt_en_de")
def lightconv_cgc_wmt_en_de(args):
    _fill_in(args, lightconv.lightconv_wmt_en_de)


@register_model_architecture("lightconv_cgc", "lightconv_cgc_wmt_en_de_big")
def lightconv_cgc_wmt_en_de_big(args):
    _fill_in(args, lightconv.lightconv_wmt_en_de_big)


@register_model_architecture("lightconv_cgc", "lightconv_cgc_wmt_en_fr_big")
def lightconv_cgc_wmt_en_fr_big(args):
    _fill_in(args, lightconv.lightconv_wmt_en_fr_big)


@register_model_architecture("lightconv_cgc", "lightconv_cgc_wmt_zh_en_big")
def lightconv_cgc_wmt_zh_en_big(args):
    _fill_in(args, lightconv.lightconv_wmt_zh_en_big)
