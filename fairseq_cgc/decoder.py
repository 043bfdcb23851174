"""LightConv's decoder, cheaper step by step, with the same results.

* A convolution's past is kept where it is instead of being copied at every step and reordering.
* The hypotheses of one sentence share the keys and values of attention to the encoder, and are one at the first step,
  where they do not differ yet. (Dropout at inference draws for them together there.)
* The encoder's output is reordered only when that changes it.

On a GPU all three are left to fairseq: there a step takes as long as its launches. And, on request, gated by the source
sentence (``SourceGatedLightweightConv``), which no paper has; its past is kept in place on a GPU too. What a call needs is
in its arguments and in fairseq's incremental state: nothing is written to a module.
"""

from typing import Any

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.models.lightconv import LightConvDecoder, Linear
from fairseq.modules import DynamicConv1dTBC, FairseqDropout, LayerNorm, MultiheadAttention
from fairseq.modules.lightweight_convolution import LightweightConv1dTBC
from torch import Tensor, nn

from .convolutions import dropout_probability, gated_kernel
from .gates import make_gate
from .ops.lightconv import lightconv
from .ops.padding import Padding
from .options import gate_arguments, without_layers

COPIES = "copies"  # in the encoder's output: how many rows, one after another, each sentence has
ONE = "one"  # in the incremental state: whether the rows of a sentence have been one until now


class Source:
    """The encoder's output, as the decoder's layers see it.

    Args:
        encoder_out: output of the encoder, T x B x C and B x T
        shared: whether the hypotheses of a sentence share one row

    Attributes:
        output: T x B x C
        mask: B x T, true at padding, or None
        copies: how many hypotheses, one after another, share a row
    """

    def __init__(self, encoder_out, shared: bool = True):
        self.copies = encoder_out[COPIES][0] if shared and COPIES in encoder_out else 1
        self.output = encoder_out["encoder_out"][0][:, :: self.copies]
        masks = encoder_out.get("encoder_padding_mask")
        self.mask = masks[0][:: self.copies] if masks else None
        self.padding = Padding.of(self.mask)


class IncrementalLightweightConv(LightweightConv1dTBC):
    """fairseq's ``LightweightConv`` whose incremental step reads its last K inputs where they lie.

    fairseq keeps the last K - 1 inputs in one tensor, which every step copies to append the new input
    and every reordering of the beam copies again, and expands the kernel to every sentence. Here an
    input is written once, to a ring of K places; reordering changes the row numbers that say where
    each hypothesis has its own past; and a step is one weighted sum of those rows.

    Parameters, names, initialisation and training are fairseq's; there is no bias, as in LightConv. The step writes into
    its state: a state that was copied without its tensors cannot be continued in two ways.
    """

    def forward(self, x: Tensor, incremental_state=None, unfold: bool = False) -> Tensor:
        """
        Args:
            x: T x B x C; with a state, its new steps
            incremental_state: fairseq's, or None
            unfold: fairseq's other way of computing the same, without a state

        Returns:
            T x B x C
        """
        if incremental_state is None:
            return super().forward(x, None, unfold)
        # A past that somebody put there in fairseq's own format is continued in it.
        if _costs_launches(x) or self._get_input_buffer(incremental_state) is not None:
            return torch.cat(
                [super(IncrementalLightweightConv, self).forward(step, incremental_state) for step in x.split(1)]
            )
        return self._steps(x, incremental_state, gated_kernel(None, self.weight.squeeze(1), self.weight_softmax))

    def _steps(self, x, incremental_state, kernel):
        return torch.stack([self._step(step, incremental_state, kernel) for step in x])

    def _step(self, x, incremental_state, kernel):
        """A step of B x C, with a kernel of H x K or B x H x K."""
        B, C = x.shape
        H, K = self.num_heads, self.kernel_size
        history = utils.get_incremental_state(self, incremental_state, "history")
        if history is None:
            rows = torch.zeros(K, B, dtype=torch.long, device=x.device)
            history = {"inputs": x.new_empty(K, B, C), "rows": rows, "steps": 0}
        inputs, rows, steps = history["inputs"], history["rows"], history["steps"]
        if torch.is_grad_enabled() and (x.requires_grad or inputs.requires_grad):
            inputs = history["inputs"] = inputs.clone()  # what the step before has read is needed for its gradient
        place = steps % K
        inputs[place, :B] = x
        rows[place] = torch.arange(B, device=x.device) + place * inputs.size(1)
        history["steps"] = steps + 1
        utils.set_incremental_state(self, incremental_state, "history", history)

        taps = min(steps + 1, K)  # those that have an input to meet
        kernel = kernel[..., K - taps :].expand(B, H, taps)
        kernel = self.weight_dropout_module(kernel).to(x.dtype)
        # Tap k of the last ``taps`` meets the input of step ``steps + 1 - taps + k``.
        order = torch.arange(steps + 1 - taps, steps + 1, device=x.device) % K
        own = rows.index_select(0, order).t().unsqueeze(1) * H  # B x 1 x taps
        own = own + torch.arange(H, device=x.device).view(1, H, 1)
        return F.embedding_bag(
            own.reshape(B * H, taps),
            inputs.view(-1, C // H),
            mode="sum",
            per_sample_weights=kernel.reshape(B * H, taps),
        ).view(B, C)

    def reorder_incremental_state(self, incremental_state, new_order: Tensor):
        """Let hypothesis i go on from the past of hypothesis ``new_order[i]``."""
        super().reorder_incremental_state(incremental_state, new_order)
        history = utils.get_incremental_state(self, incremental_state, "history")
        if history is None:
            return
        inputs, rows = history["inputs"], history["rows"].index_select(1, new_order)
        if new_order.numel() > inputs.size(1):  # more hypotheses than a place has rows for
            inputs = inputs.view(-1, inputs.size(2)).index_select(0, rows.flatten())
            inputs = inputs.view(self.kernel_size, -1, inputs.size(1))
            rows = torch.arange(rows.numel(), device=rows.device).view_as(rows)
        history = {"inputs": inputs, "rows": rows, "steps": history["steps"]}
        utils.set_incremental_state(self, incremental_state, "history", history)


class SourceGatedLightweightConv(IncrementalLightweightConv):
    """A decoder's lightweight convolution, its kernel gated by a summary of the source sentence.

    The gate is an encoder layer's (section 3.2), on the encoder's output instead of the convolution's
    input, which a decoder does not have yet. It is computed once a sentence: in step-by-step decoding
    each hypothesis takes its sentence's kernel along.

    Args:
        sizes: ``LightweightConv``'s, by name
        gate, gate_on, **options: as for ``ContextGatedLightweightConv``

    Attributes:
        gate: a ContextGate or one of its controls, or None
        gate_on: what it multiplies: ``kernel`` or ``logits``
    """

    def __init__(self, sizes: dict[str, Any], gate: str, gate_on: str, **options):
        super().__init__(**sizes)
        self.gate = make_gate(gate, self.num_heads, self.kernel_size, **options)
        self.gate_on = gate_on

    def forward(self, x: Tensor, incremental_state=None, source: Source | None = None) -> Tensor:  # type: ignore[override]
        """
        Args:
            x: T x B x C; with a state, its new steps
            incremental_state: fairseq's, or None
            source: the sentences

        Returns:
            T x B x C
        """
        if incremental_state is None:
            dropout = dropout_probability(self.weight_dropout_module)
            return lightconv(x, self._kernels(source), self.padding_l, dropout)
        kernels = utils.get_incremental_state(self, incremental_state, "kernels")
        if kernels is None:
            kernels = self._kernels(source)
            utils.set_incremental_state(self, incremental_state, "kernels", kernels)
        return self._steps(x, incremental_state, kernels)

    def _kernels(self, source):
        """B x H x K, one a row of the batch."""
        gate = None if self.gate is None else self.gate(source.output, source.padding)
        kernels = gated_kernel(gate, self.weight.squeeze(1), self.weight_softmax, self.gate_on)
        kernels = kernels.expand(source.output.size(1), -1, -1)
        return kernels.repeat_interleave(source.copies, 0) if source.copies > 1 else kernels

    def reorder_incremental_state(self, incremental_state, new_order: Tensor):
        """Let hypothesis i go on from the past of hypothesis ``new_order[i]``, with its sentence's kernel."""
        super().reorder_incremental_state(incremental_state, new_order)
        kernels = utils.get_incremental_state(self, incremental_state, "kernels")
        if kernels is not None:
            utils.set_incremental_state(self, incremental_state, "kernels", kernels.index_select(0, new_order))


class IncrementalDecoderLayer(nn.Module):
    """LightConv's decoder layer, with one of the convolutions above, or fairseq's dynamic one.

    fairseq would build its CUDA layer where it can, which has neither the cheap step nor the gate, and prints to the
    standard output where it cannot.

    Args:
        args: the model's options
        kernel_size: K of this layer
    """

    def __init__(self, args, kernel_size: int):
        super().__init__()
        embed_dim, conv_dim = args.decoder_embed_dim, args.decoder_conv_dim
        self.linear1 = Linear(embed_dim, 2 * conv_dim if args.decoder_glu else conv_dim)
        self.act = nn.GLU() if args.decoder_glu else None
        self.conv = _convolution(args, kernel_size)
        self.linear2 = Linear(conv_dim, embed_dim)
        self.input_dropout_module, self.dropout_module, self.relu_dropout_module = (
            FairseqDropout(p, module_name=type(self).__name__)
            for p in (args.input_dropout, args.dropout, args.relu_dropout)
        )
        self.normalize_before = args.decoder_normalize_before
        self.conv_layer_norm = LayerNorm(embed_dim)
        self.encoder_attn = MultiheadAttention(
            embed_dim, args.decoder_attention_heads, dropout=args.attention_dropout, encoder_decoder_attention=True
        )
        self.encoder_attn_layer_norm = LayerNorm(embed_dim)
        self.fc1 = Linear(embed_dim, args.decoder_ffn_embed_dim)
        self.fc2 = Linear(args.decoder_ffn_embed_dim, embed_dim)
        self.final_layer_norm = LayerNorm(embed_dim)
        self.need_attn = True

    def forward(self, x: Tensor, source: Source, encoder_padding_mask=None, incremental_state=None):
        """
        Args:
            x: T x B x C; with a state, its new steps
            source: the sentences
            encoder_padding_mask: fairseq's place for what ``source`` holds
            incremental_state: fairseq's, or None

        Returns:
            T x B x C; and the weights of attention to the encoder, B x T x source length, or None where nobody needs them
        """
        residual = x
        if self.normalize_before:
            x = self.conv_layer_norm(x)
        x = self.linear1(self.input_dropout_module(x))
        if self.act is not None:
            x = self.act(x)
        gated = isinstance(self.conv, SourceGatedLightweightConv)
        x = self.conv(x, incremental_state, source) if gated else self.conv(x, incremental_state)
        x = residual + self.dropout_module(self.linear2(x))
        if not self.normalize_before:
            x = self.conv_layer_norm(x)

        residual = x
        if self.normalize_before:
            x = self.encoder_attn_layer_norm(x)
        x, attn = self.encoder_attn(
            query=x,
            key=source.output,
            value=source.output,
            key_padding_mask=source.mask,
            incremental_state=incremental_state,
            static_kv=True,
            need_weights=not self.training and self.need_attn,
        )
        x = residual + self.dropout_module(x)
        if not self.normalize_before:
            x = self.encoder_attn_layer_norm(x)

        residual = x
        if self.normalize_before:
            x = self.final_layer_norm(x)
        x = self.relu_dropout_module(F.relu(self.fc1(x)))
        x = residual + self.dropout_module(self.fc2(x))
        return (x if self.normalize_before else self.final_layer_norm(x)), attn

    def make_generation_fast_(self, need_attn: bool = False, **kwargs):
        """fairseq's: leave out the weights of attention unless they are wanted."""
        self.need_attn = need_attn


def _convolution(args, kernel_size):
    sizes = {
        "input_size": args.decoder_conv_dim,
        "kernel_size": kernel_size,
        "padding_l": kernel_size - 1,
        "num_heads": args.decoder_attention_heads,
        "weight_softmax": args.weight_softmax,
        "weight_dropout": args.weight_dropout,
    }
    if args.decoder_conv_type == "dynamic":
        return DynamicConv1dTBC(**sizes)
    if args.cgc_decoder == "none":
        return IncrementalLightweightConv(**sizes)
    return SourceGatedLightweightConv(sizes, **gate_arguments(args))


class IncrementalDecoder(LightConvDecoder):
    """LightConv's decoder for ``reorder_encoder_out``'s output. It always attends to an encoder."""

    def __init__(self, args, dictionary, embed_tokens):
        # fairseq's decoder names its layer class inside __init__: let it build none.
        super().__init__(without_layers(args), dictionary, embed_tokens)
        self.layers = nn.ModuleList(IncrementalDecoderLayer(args, size) for size in args.decoder_kernel_size_list)

    def forward(self, prev_output_tokens, encoder_out, incremental_state=None, src_lengths=None):
        """As ``LightConvDecoder.forward``."""
        source, copies = Source(encoder_out, incremental_state is not None), 1
        if utils.get_incremental_state(self, incremental_state, COPIES) is None:
            utils.set_incremental_state(self, incremental_state, COPIES, source.copies)
            # Until a step has told the hypotheses of a sentence apart, one row stands for all of them.
            first = prev_output_tokens[:: source.copies]
            if source.copies > 1 and torch.equal(prev_output_tokens, first.repeat_interleave(source.copies, 0)):
                copies, source.copies, prev_output_tokens = source.copies, 1, first
                utils.set_incremental_state(self, incremental_state, ONE, True)
        elif utils.get_incremental_state(self, incremental_state, ONE):
            self.reorder_incremental_state_scripting(incremental_state, _rows(len(prev_output_tokens), source.output))
        # fairseq's forward hands the first entry to its layers as it is.
        x, more = super().forward(prev_output_tokens, {"encoder_out": [source]}, incremental_state, src_lengths)
        if copies > 1:
            x = x.repeat_interleave(copies, 0)
            more["attn"] = [None if attn is None else attn.repeat_interleave(copies, 0) for attn in more["attn"]]
            more["inner_states"] = [state.repeat_interleave(copies, 1) for state in more["inner_states"]]
        return x, more

    def set_beam_size(self, beam_size: int):
        """Nothing: fairseq's attention would share keys by it, and they are shared already."""

    def reorder_incremental_state_scripting(self, incremental_state, new_order: Tensor):
        """Reorder the hypotheses' states."""
        # fairseq's attention takes an order of as many rows for one that leaves each sentence where it is.
        copies = utils.get_incremental_state(self, incremental_state, COPIES) or 1
        as_one = utils.get_incremental_state(self, incremental_state, ONE)
        hypothesis_order = new_order // copies if as_one else new_order
        utils.set_incremental_state(self, incremental_state, ONE, False)
        shared = copies == 1 or _moves_sentences(new_order, copies)
        order = new_order.view(-1, copies)[:, 0] // copies if shared else new_order
        changes = None  # decided once
        for layer in self.layers:
            layer.conv.reorder_incremental_state(incremental_state, hypothesis_order)
            state = layer.encoder_attn._get_input_buffer(incremental_state)
            for name, value in state.items():
                if value is None:
                    continue
                if not shared:  # from here on each hypothesis has its own
                    value = value.repeat_interleave(copies, 0)
                if changes is None:
                    changes = _costs_launches(value) or not torch.equal(order, _rows(value.size(0), order))
                state[name] = value.index_select(0, order) if changes else value
            layer.encoder_attn._set_input_buffer(incremental_state, state)
        if not shared:
            utils.set_incremental_state(self, incremental_state, COPIES, 1)


def reorder_encoder_out(reorder, encoder_out, new_order: Tensor, shuffles: bool = False):
    """Reorder the encoder's output, and keep count of the rows that a sentence has.

    Args:
        reorder: fairseq's ``reorder_encoder_out``
        encoder_out: output of the encoder, T x B x C and B x T
        new_order: which row to take for each row of the result
        shuffles: whether a gate in the decoder takes the context of another sentence, which must not be a copy of its own

    Returns:
        *encoder_out* rearranged
    """
    if _costs_launches(new_order) and not shuffles:
        return reorder(encoder_out, new_order)
    B = encoder_out["encoder_out"][0].size(1)
    copies = encoder_out[COPIES][0] if COPIES in encoder_out else 1
    if new_order.numel() == B and torch.equal(new_order // copies, _rows(B, new_order) // copies):
        return encoder_out  # rows of the same sentence change places: nothing else does
    output = reorder(encoder_out, new_order)
    if copies == 1 and new_order.numel() % B == 0:
        repeated = new_order.numel() // B
        if torch.equal(new_order, _rows(new_order.numel(), new_order) // repeated):
            output[COPIES] = [repeated]
    elif _moves_sentences(new_order, copies):
        output[COPIES] = [copies]
    return output


def _costs_launches(tensor):
    """Whether what saves a CPU work costs more than it saves: on a GPU, where a step takes as long as its launches.

    Beam 6 on an H200 ran at 0.77 times fairseq's speed with all of it, at 0.96 with fairseq's way (gpu-generation).
    """
    return tensor.is_cuda


def _rows(number, like):
    return torch.arange(number, device=like.device)


def _moves_sentences(new_order, copies):
    """Whether rows of one sentence stay together, ``copies`` of them."""
    if new_order.numel() % copies:
        return False
    sentences = new_order.view(-1, copies) // copies
    return torch.equal(sentences, sentences[:, :1].expand_as(sentences))
