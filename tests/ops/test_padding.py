import pytest
import torch
from conftest import padded_batch
from torch.nn.functional import adaptive_avg_pool1d, pad

from fairseq_cgc.ops.naive import naive_context_pool
from fairseq_cgc.ops.padding import Padding, head_means, pool_slots, pool_slots_backward

HEADS, CHANNELS = 4, 12


def context_pool(x, num_heads, num_slots, mask=None):
    """What ``naive_context_pool`` makes of each sentence: B x H x num_slots."""
    pooled, _ = pool_slots(head_means(x, num_heads), num_slots, Padding.of(mask))
    return pad(pooled.permute(1, 2, 0), (0, num_slots - pooled.size(0)))


@pytest.mark.parametrize("left", [True, False], ids=["left-padded", "right-padded"])
@pytest.mark.parametrize("slots", [1, 9, 10, 45, 93])
def test_pool_equals_the_reference_for_lengths_around_the_number_of_slots(slots, left):
    lengths = [1, 2, max(1, slots - 1), slots, slots + 1, 2 * slots, 2 * slots + 3, 200]
    sentences = [torch.randn(n, CHANNELS, dtype=torch.float64) for n in lengths]
    pooled = context_pool(*_swap(padded_batch(sentences, left), HEADS, slots))
    expected = torch.stack([naive_context_pool(s, HEADS, slots) for s in sentences])
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pool", ["average", "max"])
@pytest.mark.parametrize("left", [True, False, None], ids=["left-padded", "right-padded", "unpadded"])
@pytest.mark.parametrize("slots, longest", [(1, 1), (1, 5), (9, 5), (9, 9), (9, 10), (9, 17), (9, 40), (21, 200)])
def test_the_gradient_is_that_of_autograd(slots, longest, left, pool):
    lengths = {1, 2, max(1, slots - 1), slots, slots + 1, 2 * slots, 2 * slots + 3, longest}
    sentences = [torch.randn(n, HEADS, dtype=torch.float64) for n in lengths if n <= longest]
    heads, mask = padded_batch(sentences, left)
    if left is None:
        mask = None
    elif longest > 4:  # a sentence of none, and padding within one
        mask[0] = True
        mask[-1, longest // 2] = True
    heads.requires_grad_()
    pooled, maxima = pool_slots(heads, slots, Padding.of(mask), pool)
    grad = torch.randn_like(pooled)
    [expected] = torch.autograd.grad(pooled, heads, grad)
    done = pool_slots_backward(grad, heads.size(0), slots, Padding.of(mask), maxima)
    torch.testing.assert_close(done, expected, rtol=0, atol=1e-12)


def _swap(batch, heads, slots):
    x, mask = batch
    return x, heads, slots, mask


@pytest.mark.parametrize("n", [10, 11, 19, 64, 200])
def test_a_long_sentence_is_pooled_as_torch_does(n):
    sentence = torch.randn(n, HEADS, dtype=torch.float64)
    expected = adaptive_avg_pool1d(sentence.T.unsqueeze(0), 9)[0]
    torch.testing.assert_close(naive_context_pool(sentence, HEADS, 9), expected)


@pytest.mark.parametrize("n", [3, 9, 40])
def test_without_a_mask_every_token_counts(n):
    x = torch.randn(n, 2, CHANNELS, dtype=torch.float64)
    expected = torch.stack([naive_context_pool(x[:, b], HEADS, 9) for b in range(2)])
    torch.testing.assert_close(context_pool(x, HEADS, 9), expected)


def test_padding_inside_a_sentence_is_left_out():
    sentence = torch.randn(7, CHANNELS, dtype=torch.float64)
    x = torch.cat([sentence[:2], torch.full((1, CHANNELS), 9.0).double(), sentence[2:]]).unsqueeze(1)
    mask = torch.zeros(1, 8, dtype=torch.bool)
    mask[0, 2] = True
    expected = naive_context_pool(sentence, HEADS, 9)
    torch.testing.assert_close(context_pool(x, HEADS, 9, mask)[0], expected)


def test_a_row_of_padding_alone_is_zero_and_passes_finite_gradients():
    x = torch.full((5, 1, CHANNELS), float("nan"), requires_grad=True)
    pooled = context_pool(x, HEADS, 9, torch.ones(1, 5, dtype=torch.bool))
    assert pooled.eq(0).all()
    pooled.sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_accumulated_in_float32(dtype):
    x = torch.full((4000, 1, CHANNELS), 300.0, dtype=dtype)  # a float16 sum would overflow
    pooled = context_pool(x, HEADS, 9)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, torch.full_like(pooled, float(x[0, 0, 0])))


def test_any_input_layout_gives_the_same_pool():
    x = torch.randn(20, 3, CHANNELS)
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    torch.testing.assert_close(context_pool(strided, HEADS, 9), context_pool(x, HEADS, 9))
