"""LightConv's decoder, cheaper step by step, with the same results.

* A convolution's past is kept where it is instead of being copied at every step and reordering.
* The hypotheses of one sentence share the keys and values of attention to the encoder. fairseq's
  attention can do so (``beam_size``), but what it is told holds for good, for training on the same model
  too, so fairseq's own models of this kind are never told. Here it is told call by call.
* The encoder's output is reordered only when that changes it.

And, on request, gated by the source sentence (``SourceGatedLightweightConv``), which no paper has.
"""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.models.lightconv import LightConvDecoder
from fairseq.modules.lightweight_convolution import LightweightConv1dTBC
from torch import Tensor

from .gated_convolution import dropout_probability, gated_kernel, make_gate
from .ops import Padding, gated_lightconv, head_means


class IncrementalLightweightConv(LightweightConv1dTBC):
    """fairseq's ``LightweightConv`` whose incremental step reads its last K inputs where they lie.

    fairseq keeps the last K - 1 inputs in one tensor, which every step copies to append the new input
    and every reordering of the beam copies again, and expands the kernel to every sentence. Here an
    input is written once, to a ring of K places; reordering changes the row numbers that say where
    each hypothesis has its own past; and a step is one weighted sum of those rows.

    Parameters, names, initialisation and training are fairseq's. The step writes into its state: a
    state that was copied without its tensors cannot be continued in two ways.
    """

    def forward(self, x: Tensor, incremental_state=None, unfold: bool = False) -> Tensor:
        """
        Args:
            x: T x B x C; with a state, T = 1
            incremental_state: fairseq's, or None
            unfold: fairseq's other way of computing the same

        Returns:
            T x B x C
        """
        # A buffer that somebody put there in fairseq's own format is continued in fairseq's way.
        if incremental_state is None or x.size(0) != 1 or self._get_input_buffer(incremental_state) is not None:
            return super().forward(x, incremental_state, unfold)
        output = self._step(x[0], incremental_state).unsqueeze(0)
        return output if self.bias is None else output + self.bias

    def _step(self, x, incremental_state, kernel=None):
        B, C = x.shape
        H, K = self.num_heads, self.kernel_size
        history = utils.get_incremental_state(self, incremental_state, "history")
        if history is None:
            rows = torch.zeros(K, B, dtype=torch.long, device=x.device)
            history = {"inputs": x.new_empty(K, B, C), "rows": rows, "steps": 0}
        inputs, rows, steps = history["inputs"], history["rows"], history["steps"]
        place = steps % K
        inputs[place, :B] = x
        rows[place] = torch.arange(B, device=x.device) + place * inputs.size(1)
        history["steps"] = steps + 1
        utils.set_incremental_state(self, incremental_state, "history", history)

        taps = min(steps + 1, K)  # those that have an input to meet
        if kernel is None:
            weight = self.weight.view(H, K)
            if self.weight_softmax:
                weight = torch.softmax(weight, dim=1, dtype=torch.float32)
            kernel = weight.expand(B, H, K)
        kernel = self.weight_dropout_module(kernel[:, :, K - taps :]).to(x.dtype)
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

    Attributes:
        gate: a ContextGate, or one of its controls
        gate_on: what it multiplies: ``kernel`` or ``logits``
        source: the sentences at hand, set for the time of the decoder's forward
    """

    source: "Source | None" = None

    def forward(self, x: Tensor, incremental_state=None, unfold: bool = False) -> Tensor:
        """
        Args:
            x: T x B x C; with a state, its steps
            incremental_state: fairseq's, or None
            unfold: no matter here

        Returns:
            T x B x C
        """
        if incremental_state is None:
            dropout = dropout_probability(self.weight_dropout_module)
            output = gated_lightconv(x, self._kernels(), self.padding_l, dropout)
        else:
            kernels = utils.get_incremental_state(self, incremental_state, "kernels")
            if kernels is None:
                kernels = self._kernels()
                utils.set_incremental_state(self, incremental_state, "kernels", kernels)
            output = torch.stack([self._step(step, incremental_state, kernels) for step in x])
        return output if self.bias is None else output + self.bias

    def _kernels(self):
        """B x H x K, one a row of the batch."""
        means = self.source.means(self.num_heads)
        gate = self.gate.of_means(means, self.source.padding)
        kernels = gated_kernel(gate, self.weight.squeeze(1), self.weight_softmax, self.gate_on)
        return kernels.repeat_interleave(self.source.copies, 0) if self.source.copies > 1 else kernels

    def reorder_incremental_state(self, incremental_state, new_order: Tensor):
        """Let hypothesis i go on from the past of hypothesis ``new_order[i]``, with its sentence's kernel."""
        super().reorder_incremental_state(incremental_state, new_order)
        kernels = utils.get_incremental_state(self, incremental_state, "kernels")
        if kernels is not None:
            utils.set_incremental_state(self, incremental_state, "kernels", kernels.index_select(0, new_order))


class Source:
    """The encoder's output, as the gates of a decoder's layers see it: each sentence once.

    Args:
        encoder_out: output of the encoder, T x B x C and B x T
    """

    def __init__(self, encoder_out):
        self.copies = encoder_out[COPIES][0] if COPIES in encoder_out else 1
        self._output = encoder_out["encoder_out"][0]
        masks = encoder_out.get("encoder_padding_mask")
        self.padding = Padding(masks[0][:: self.copies]) if masks else None
        self._means = {}

    def means(self, num_heads: int) -> Tensor:
        """T x B x H: each head's mean over its channels, of each sentence."""
        if num_heads not in self._means:
            self._means[num_heads] = head_means(self._output[:, :: self.copies], num_heads)
        return self._means[num_heads]


COPIES = "copies"  # in the encoder's output: how many rows, one after another, each sentence has


def reorder_encoder_out(reorder, encoder_out, new_order: Tensor):
    """Reorder the encoder's output, and keep count of the rows that a sentence has.

    Args:
        reorder: fairseq's ``reorder_encoder_out``
        encoder_out: output of the encoder, T x B x C and B x T
        new_order: which row to take for each row of the result

    Returns:
        *encoder_out* rearranged
    """
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


def _rows(number, like):
    return torch.arange(number, device=like.device)


def _moves_sentences(new_order, copies):
    """Whether rows of one sentence stay together, ``copies`` of them."""
    if new_order.numel() % copies:
        return False
    sentences = new_order.view(-1, copies) // copies
    return torch.equal(sentences, sentences[:, :1].expand_as(sentences))


class IncrementalDecoder(LightConvDecoder):
    """LightConv's decoder for ``reorder_encoder_out``'s output. Takes what ``LightConvDecoder`` takes."""

    @classmethod
    def of(cls, decoder: LightConvDecoder, gate: str | None = None, gate_on: str = "kernel", **options):
        """Make a LightConv decoder one of these, in place: nothing is initialised again.

        Args:
            decoder: its dynamic convolutions stay as they are
            gate: gate its convolutions by the source: ``context``, or one of the controls, ``constant`` and ``learned``
            gate_on: what the gate multiplies: ``kernel`` or ``logits``
            **options: ContextGate's
        """
        decoder.__class__ = cls
        for layer in decoder.layers:
            conv = layer.conv
            if type(conv) is LightweightConv1dTBC:
                conv.__class__ = IncrementalLightweightConv if gate is None else SourceGatedLightweightConv
            if gate is not None:
                conv.gate = make_gate(gate, conv.num_heads, conv.kernel_size, **options)
                conv.gate_on = gate_on
        return decoder

    def forward(self, prev_output_tokens, encoder_out=None, incremental_state=None, src_lengths=None):
        """As ``LightConvDecoder.forward``."""
        with self._gated_by(encoder_out):
            return self._forward(prev_output_tokens, encoder_out, incremental_state, src_lengths)

    def _forward(self, prev_output_tokens, encoder_out, incremental_state, src_lengths):
        if incremental_state is None or not encoder_out or COPIES not in encoder_out:
            return super().forward(prev_output_tokens, encoder_out, incremental_state, src_lengths)
        copies = encoder_out[COPIES][0]
        if utils.get_incremental_state(self, incremental_state, COPIES) is None:
            utils.set_incremental_state(self, incremental_state, COPIES, copies)
        with self._sharing(copies):
            return super().forward(prev_output_tokens, encoder_out, incremental_state, src_lengths)

    def reorder_incremental_state_scripting(self, incremental_state, new_order: Tensor):
        """Reorder the hypotheses' states."""
        # fairseq's attention takes an order of as many rows for one that leaves each sentence where it is.
        copies = utils.get_incremental_state(self, incremental_state, COPIES) or 1
        together = _moves_sentences(new_order, copies)
        rows = new_order.view(-1, copies)[:, 0] // copies if together else new_order
        moved = None  # decided once: on a GPU the question waits for the answer
        for attention in self._attentions():
            state = attention._get_input_buffer(incremental_state)
            for name, value in state.items():
                if value is None:
                    continue
                if not together:  # from here on each hypothesis has its own
                    value = value.repeat_interleave(copies, 0)
                if moved is None:
                    moved = not torch.equal(rows, _rows(value.size(0), rows))
                state[name] = value.index_select(0, rows) if moved else value
            attention._set_input_buffer(incremental_state, state)
        if not together:
            copies = 1
            utils.set_incremental_state(self, incremental_state, COPIES, copies)
        with self._sharing(copies):
            super().reorder_incremental_state_scripting(incremental_state, new_order)

    @contextmanager
    def _gated_by(self, encoder_out):
        convs = [layer.conv for layer in self.layers if isinstance(layer.conv, SourceGatedLightweightConv)]
        source = Source(encoder_out) if convs else None
        for conv in convs:
            conv.source = source
        try:
            yield
        finally:
            for conv in convs:
                conv.source = None

    def _attentions(self):
        return [layer.encoder_attn for layer in self.layers if layer.encoder_attn is not None]

    @contextmanager
    def _sharing(self, copies):
        for attention in self._attentions():
            attention.beam_size = copies
        try:
            yield
        finally:
            for attention in self._attentions():
                attention.beam_size = 1
