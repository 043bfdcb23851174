"""What is made once for sizes serves whoever comes later."""

import threading

import pytest
import torch
from torch._subclasses import FakeTensorMode

from fairseq_cgc.ops import common
from fairseq_cgc.ops.common import cached, workspace
from fairseq_cgc.ops.lightconv import lightconv
from fairseq_cgc.ops.padding import head_means, pool_slots


def counted():
    made = []

    @cached
    def make(size, dtype, device):
        made.append((size, dtype, device))
        return torch.eye(size, dtype=dtype, device=device)

    return make, made


def test_a_matrix_is_made_once_for_its_sizes_and_dtype():
    make, made = counted()
    like = torch.zeros(2)
    assert make(like, 3) is make(torch.nn.Parameter(like), 3)
    assert torch.equal(make(like, 3), torch.eye(3)) and make(like.double(), 3).dtype == torch.float64
    assert [(size, dtype) for size, dtype, _ in made] == [(3, torch.float32), (3, torch.float64)]


def test_what_is_not_on_the_cpu_or_not_real_is_not_cached():
    make, _ = counted()
    real = make(torch.zeros(2), 3)
    elsewhere = torch.zeros(2, device="meta")
    assert make(elsewhere, 3).is_meta and make(elsewhere, 3) is not make(elsewhere, 3)
    with FakeTensorMode():
        fake = make(torch.zeros(2), 3)
    assert type(fake) is not torch.Tensor and make(torch.zeros(2), 3) is real


def test_a_large_matrix_is_not_kept(monkeypatch):
    make, made = counted()
    monkeypatch.setattr(common, "MOST_BYTES", 64)
    for size in (4, 4, 5, 5):
        make(torch.zeros(2), size)
    assert [size for size, *_ in made] == [4, 5, 5]


def test_the_latest_are_kept_as_far_as_there_is_room(monkeypatch):
    make, made = counted()
    monkeypatch.setattr(common, "MOST_BYTES", 2 * 64)
    for size in (3, 4, 4, 3, 1, 2, 4):  # 36, 64, 4 and 16 bytes
        make(torch.zeros(2), size)
    assert [size for size, *_ in made] == [3, 4, 1, 2]
    make(torch.zeros(2), 5)
    make(torch.zeros(2), 3)
    assert [size for size, *_ in made] == [3, 4, 1, 2, 5, 3]


def test_a_default_device_of_others_does_not_reach_what_is_kept_on_the_cpu():
    found = []

    def work():  # in a thread, which has no workspace yet
        with torch.device("meta"):
            found.append(workspace(torch.zeros(2, device="cpu"), 3))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [one.device.type for one in found] == ["cpu"]


@pytest.mark.parametrize("T", [13, 41])
def test_inference_first_leaves_nothing_that_training_stumbles_on(T):
    x, kernel = torch.randn(T, 2, 8), torch.randn(2, 2, 5)
    with torch.inference_mode():
        expected = lightconv(x, kernel, 2), pool_slots(head_means(x, 2), 11)[0]
    x.requires_grad_()
    kernel.requires_grad_()
    done = lightconv(x, kernel, 2), pool_slots(head_means(x, 2), 11)[0]
    torch.testing.assert_close(done, expected)
    torch.autograd.grad(sum(part.sum() for part in done), [x, kernel])
