"""The model's own options, each said once: its name, default, choices and help; and the checks of all."""

import copy
import difflib
import math
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import EnumMeta
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from omegaconf import OmegaConf

from .context_gate import AS_KERNEL, POOL_FACTOR, check_choice
from .errors import OptionError, check_at_least, flag
from .gates import GATES, HEEDED
from .ops.context_gate import ACTIVATIONS, GATE_ON, NORMS
from .ops.padding import POOLS

DECODERS = ("none", "source")
LARGEST_POOL_FACTOR = 100  # beyond it the gate is larger than the model
KINDS: dict[Any, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (float, int)}
OPTIMIZERS = ("cgc_adam", "composite")  # those with parameter groups


def _option(default, help, argument=None):
    """A field with fairseq's help, and the name of the gated convolutions' argument that it gives, if any."""
    return field(default=default, metadata={"help": help, "argument": argument})


@dataclass  # fairseq makes command-line options of the fields, and reads no other form of Optional
class ModelOptions(FairseqDataclass):
    cgc_gate: ChoiceEnum(GATES) = _option(
        "context",
        "context (default): computed from the sentence (section 3.2). constant: the control without parameters, every gate "
        "fixed at 0.5 (at 1 with --cgc-gate-activation one-plus-tanh). learned: the control with parameters, one gate per "
        "head and tap, the same for all sentences; it starts where constant stands. none: LightConv itself on this plugin's "
        "operators; the baseline to use with DropConnect, which draws once per sentence here and once per token in fairseq. "
        "Credit the context only if the gain also beats constant and learned. summary: learned gates that a "
        "summary of the sentence's words moves, a design of ours that examples/study describes; of the options below it heeds "
        "--cgc-layers, --cgc-shuffle-context, --cgc-gate-on, --cgc-gate-activation, --cgc-lr-scale and --encoder-gct alone",
        "gate",
    )
    cgc_layers: Optional[str] = _option(
        None,
        "gate only these encoder layers (default: all), numbered from 1, or from -1 for the last: [6,7] or [-2,-1]. The "
        "other layers compute what --cgc-gate none does",
    )
    cgc_shuffle_context: bool = _option(
        False,
        "at evaluation, gate each sentence by the context of the previous one in its batch, which must hold at least two, and "
        "which fairseq has sorted by length: the control that shows whether the model uses what a context tells beyond the "
        "sentence's length. For a trained model: fairseq-generate --model-overrides "
        "\"{'cgc_shuffle_context': True}\", of which fairseq ignores a mistyped name without a word",
        "shuffle",
    )
    cgc_pool: ChoiceEnum(POOLS) = _option(
        "average",
        "how a long sentence's tokens are pooled into a time slot: average (section 4.4; default) or max",
        "pool",
    )
    cgc_gate_on: ChoiceEnum(GATE_ON) = _option(
        "kernel",
        "what the gate multiplies: kernel (default), softmax(W)*G (Eq. 2), or logits, softmax(W*G)",
        "gate_on",
    )
    cgc_norm: ChoiceEnum(NORMS) = _option(
        "latent",
        "what the gate's LayerNorm (section 3.2) normalises. latent (default): each head's d values, with an affine pair of "
        "size d. latent-per-head: the same, with an affine pair of size H x d; the closest to the authors' image code. "
        "heads-latent: the H x d values of all heads, affine H x d. At K = 3, d is 2, and a LayerNorm over d keeps about one "
        "bit per head",
        "norm",
    )
    cgc_gate_activation: ChoiceEnum(ACTIVATIONS) = _option(
        "sigmoid",
        "sigmoid (section 3.2; default) or one-plus-tanh: 1 + tanh, as in GCT",
        "activation",
    )
    cgc_zero_init: bool = _option(
        False,
        "start every gate from a constant (supplement A.2; default: Xavier uniform). With --cgc-gate-activation one-plus-tanh "
        "the model then starts as LightConv exactly. This zeroes the gate's decoding layer: zeroing the LayerNorm, as the "
        "supplement does, would leave the ReLU after it without a gradient",
        "zero_init",
    )
    cgc_latent_dim: Optional[str] = _option(
        None,
        "latent size d of the gate in all layers (section 3.2; default: K // 2 + 1 for kernel size K): a number of at least "
        "2, since a LayerNorm over one value is always zero (at least 1 with --cgc-norm heads-latent), or the letter K",
        "latent_dim",
    )
    cgc_pool_factor: int = _option(
        POOL_FACTOR, "pool the sentence to N * K time slots for kernel size K (section 4.4; default: 3)", "pool_factor"
    )
    cgc_lr_scale: float = _option(
        1.0,
        "multiply the learning rate of the gates' parameters by X (supplement A.2: 0.1; default: 1). Needs --optimizer "
        "cgc_adam, which is fairseq's Adam with parameter groups",
    )
    cgc_decoder: ChoiceEnum(DECODERS) = _option(
        "none",
        "none (default): LightConv's decoder, as in the paper. source: gate each decoder convolution too, by a gate like the "
        "encoder's on the encoder's output, computed once per sentence (6,692 more parameters in lightconv_cgc). With "
        "--cgc-gate constant or learned the decoder has that control's gate",
    )
    encoder_gct: bool = _option(
        False,
        "apply a Gated Channel Transformation (Yang et al. 2020) before every encoder convolution and its context gate. "
        "--arch lightconv_gct is LightConv with this gate only",
    )


OPTIONS = [option for option in fields(ModelOptions) if not option.name.startswith("_")]
CHECKED = "cgc_checked"  # a mark in a model's options, which is saved with them


def add_options(parser: ArgumentParser) -> None:
    """Add the options to an argparse parser; those that are not given are left out of its result."""
    gen_parser_from_dataclass(parser, ModelOptions(), delete_default=True)


def fill_in(args: Namespace) -> None:
    """Set the options that ``args`` lacks."""
    for option in OPTIONS:
        if not hasattr(args, option.name):
            setattr(args, option.name, option.default)
    if str(args.cgc_latent_dim).isdecimal():
        args.cgc_latent_dim = int(args.cgc_latent_dim)


def check_types(args: Any) -> None:
    """Refuse a value of another type than its option's. argparse does that itself; Hydra, Python and a command's
    --model-overrides take any.

    Raises:
        OptionError: with the type
    """
    for option in OPTIONS:
        kinds, value = KINDS.get(option.type, ()), getattr(args, option.name)
        if kinds and type(value) not in kinds:
            words = " or ".join(kind.__name__ for kind in kinds)
            raise OptionError(f"{flag(option.name)} is {value!r}; it must be of type {words}")


def check_known(args: Any) -> None:
    """Refuse a name that no option has.

    Raises:
        OptionError: with the options that are like it
    """
    names = [option.name for option in OPTIONS]
    for name in args if OmegaConf.is_config(args) else vars(args):
        if name.startswith("cgc_") and name not in (*names, CHECKED):
            like = difflib.get_close_matches(name, names) or names
            raise OptionError(f"there is no option {name}; is it {' or '.join(like)}?")


def gate_arguments(args: Namespace, gated: bool = True) -> dict[str, Any]:
    """Keyword arguments of a gated convolution.

    Args:
        gated: whether it is to have a gate
    """
    given = {option.metadata["argument"]: getattr(args, option.name) for option in OPTIONS}
    arguments = {name: value for name, value in given.items() if name is not None}
    return arguments if gated else {**arguments, "gate": "none"}


def remarks(args: Namespace) -> list[str]:
    """What a training, its options filled in, should be told of its gates: options of no effect, layers without a gate."""
    options = [o for o in OPTIONS if o.name != "encoder_gct" and not heeds(args.cgc_gate, o)]
    idle = [flag(o.name) for o in options if getattr(args, o.name) != o.default]
    found = [f"{', '.join(idle)}: of no effect with --cgc-gate {args.cgc_gate}"] if idle else []
    if args.cgc_gate_on == "logits" and not args.weight_softmax:
        found.append("--cgc-gate-on logits: of no effect without --weight-softmax")
    ones = [str(number) for number in gated_layers(args) if args.encoder_kernel_size_list[number - 1] == 1]
    if ones and args.cgc_gate != "none":
        found.append(f"encoder layers {', '.join(ones)} have no gate: their kernels are of size 1 (section 4.1)")
    return found


def heeds(gate: str, option: Any) -> bool:
    """Whether an option, one of ``OPTIONS``, has an effect with a ``--cgc-gate``."""
    heeded: set[str | None] = {*HEEDED.get(gate, ()), "gate"}
    if gate != "none":
        heeded |= {"gate_on", None}
    return gate == "context" or option.metadata["argument"] in heeded


def without_layers(args: Namespace) -> Namespace:
    """A copy of the options that builds an encoder and a decoder with no layers."""
    args = copy.copy(args)
    args.encoder_layers = args.decoder_layers = 0
    args.encoder_kernel_size_list = args.decoder_kernel_size_list = []
    return args


def gated_layers(args: Namespace) -> list[int]:
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
            f"layers (or from -1, the last), such as [1,{args.encoder_layers}]; for none of them, --cgc-gate none"
        )
    return numbers


def check_options(args: Namespace) -> None:
    """Refuse options that contradict each other or the gate, before anything is built.

    Raises:
        OptionError: naming the option, its value and what it should be
    """
    for option in OPTIONS:
        if isinstance(option.type, EnumMeta):
            choices = [member.value for member in option.type]
            check_choice(flag(option.name), str(getattr(args, option.name)), choices)
    for side in ("encoder", "decoder"):
        check_choice(f"--{side}-conv-type", getattr(args, f"{side}_conv_type"), ("lightweight", "dynamic"))
        _check_convolutions(args, side)
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
    if args.cgc_decoder == "source" and args.cgc_gate == "summary":
        raise OptionError(
            f"--cgc-decoder source is for the paper's gate and its controls, and --cgc-gate is {args.cgc_gate}; leave one of "
            "the two out"
        )
    if args.cgc_latent_dim not in (None, AS_KERNEL):
        if not re.fullmatch(r"-?\d+", str(args.cgc_latent_dim)):
            raise OptionError(f"--cgc-latent-dim is '{args.cgc_latent_dim}'; it is a number or the letter K")
        check_at_least(1 if args.cgc_norm == "heads-latent" else 2, cgc_latent_dim=int(args.cgc_latent_dim))
    check_at_least(1, cgc_pool_factor=args.cgc_pool_factor)
    if args.cgc_pool_factor > LARGEST_POOL_FACTOR:
        raise OptionError(f"--cgc-pool-factor is {args.cgc_pool_factor}; it must be at most {LARGEST_POOL_FACTOR}")
    gated_layers(args)
    if args.cgc_shuffle_context and args.cgc_gate in HEEDED and "shuffle" not in HEEDED[args.cgc_gate]:
        raise OptionError(
            f"--cgc-shuffle-context gives a sentence another one's context, and --cgc-gate {args.cgc_gate} reads none: nothing "
            "would change; leave it out"
        )
    if args.cgc_lr_scale != 1:
        if not 0 < args.cgc_lr_scale < math.inf:
            raise OptionError(f"--cgc-lr-scale is {args.cgc_lr_scale}; it must be a number above 0")
        if args.cgc_gate in ("constant", "none"):
            raise OptionError(
                f"--cgc-lr-scale {args.cgc_lr_scale} is for the gates' parameters, and --cgc-gate {args.cgc_gate} has none; "
                "leave it out"
            )


def _check_convolutions(args, side):
    layers, sizes = getattr(args, f"{side}_layers"), getattr(args, f"{side}_kernel_size_list")
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        raise OptionError(f"--{side}-kernel-size-list is {sizes!r}; expected a list such as [3,7,15]")
    if len(sizes) not in (1, layers):
        raise OptionError(
            f"--{side}-kernel-size-list has {len(sizes)} kernel sizes, {sizes}, for --{side}-layers {layers}; "
            "give one a layer, or a single one for all"
        )
    if any(type(size) is not int or size < 1 for size in sizes):
        raise OptionError(f"--{side}-kernel-size-list is {sizes}; a kernel size is a whole number of at least 1")
    channels, heads = getattr(args, f"{side}_conv_dim"), getattr(args, f"{side}_attention_heads")
    if heads < 1 or channels % heads:
        raise OptionError(
            f"--{side}-attention-heads {heads} does not divide the {channels} channels of the {side}'s "
            f"convolutions (--{side}-conv-dim, by default --{side}-embed-dim); choose one that does"
        )


def check_optimizer(args: Any, what: str) -> None:
    """Refuse a training whose optimizer would not see what is asked of some parameters alone.

    Args:
        args: the training's options, as ``compat.trainer_options`` gives them
        what: the options that ask

    Raises:
        OptionError: naming the option to change
    """
    apart = getattr(args, "memory_efficient_fp16", False) or getattr(args, "fp16_no_flatten_grads", False)
    sharded = getattr(args, "ddp_backend", None) == "fully_sharded"
    optimizer = getattr(args, "optimizer", None)
    if optimizer is not None and optimizer not in OPTIMIZERS:
        reason = f"an optimizer with parameter groups, and --optimizer is {optimizer}; use --optimizer cgc_adam, which is adam with them"
    elif getattr(args, "fp16", False) and not apart:
        reason = "separate parameters, and --fp16 joins them in one tensor; add --fp16-no-flatten-grads"
    elif sharded and not getattr(args, "not_fsdp_flatten_parameters", False):
        reason = (
            "separate parameters, and --ddp-backend fully_sharded joins them in one tensor; add "
            "--not-fsdp-flatten-parameters"
        )
    else:
        return
    raise OptionError(f"{what} needs {reason}")
