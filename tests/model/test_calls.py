"""A call's data are its arguments: threads, copies and replicas of a model do not meet in it."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import Task, tiny_model
from fairseq.sequence_generator import SequenceGenerator
from torch import nn

MODELS = {
    "plain": {},
    "source": {"cgc_decoder": "source"},
    "dynamic": {"encoder_conv_type": "dynamic"},
    "gct": {"encoder_gct": True, "cgc_gate": "none"},
    "summary": {"cgc_gate": "summary"},
}


def model_of(name):
    torch.manual_seed(4)
    model = tiny_model(**MODELS[name]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def batches(number):
    draw = torch.Generator().manual_seed(7)
    for _ in range(number):
        lengths = torch.randint(2, 14, (3,), generator=draw)
        source = torch.full((3, int(lengths.max())), 1)
        for row, n in zip(source, lengths.tolist()):
            row[-n:] = torch.randint(4, 40, (n,), generator=draw)
        yield source, lengths


def translate(model, batch):
    source, lengths = batch
    generator = SequenceGenerator([model], Task().target_dictionary, beam_size=4, max_len_a=1, max_len_b=4)
    hypotheses = generator.generate([model], {"net_input": {"src_tokens": source, "src_lengths": lengths}})
    return [(h["tokens"].tolist(), float(h["score"])) for sentence in hypotheses for h in sentence]


@pytest.mark.parametrize("name", MODELS)
def test_four_threads_translate_as_one_does(name):
    model, work = model_of(name), list(batches(24))
    expected = [translate(model, batch) for batch in work]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda batch: translate(model, batch), work)) == expected


def test_an_encoder_is_recorded_in_one_thread_and_used_in_another():
    model, work = model_of("plain"), list(batches(40))
    expected = [model.encoder(*batch)["encoder_out"][0] for batch in work]
    records, done = [], threading.Event()

    def record():
        while not done.is_set():
            records.append([])
            model.encoder(*work[0], record=records[-1])

    with ThreadPoolExecutor(2) as threads:
        recorder = threads.submit(record)
        outputs = [model.encoder(*batch)["encoder_out"][0] for batch in work]
        done.set()
        recorder.result()
    assert all(map(torch.equal, outputs, expected)) and all(len(record) == 3 for record in records)
    assert all(torch.equal(record[1].gate, records[0][1].gate) for record in records)


def attributes(model):
    """Every module's own attributes, containers by their contents."""
    found = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            found[name, key] = dict(value) if isinstance(value, dict) else value
    return found


def identities(model):
    """What ``attributes`` would compare, as numbers: quick, and other numbers where an object is another, equal or not."""
    values = [value for module in model.modules() for value in vars(module).values()]
    values += [inner for value in values if isinstance(value, dict) for inner in value.values()]
    return list(map(id, values))


def same(one, other):
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return one is other
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one is other or one == other


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_no_attribute_of_a_module_changes_during_a_forward(name, training):
    model = model_of(name).train(training)
    changed = []

    def look(*_):
        if identities(model) == known:
            return
        now = attributes(model)
        changed.extend(key for key in before.keys() | now.keys() if not same(before.get(key), now.get(key)))

    handles = [module.register_forward_hook(look) for module in model.modules()]
    before, known = attributes(model), identities(model)  # with the hooks
    batch = torch.tensor([[5, 6, 2], [1, 7, 2]]), torch.tensor([3, 2])  # few steps, at each of which all is compared
    model(*batch, torch.randint(4, 30, (2, 5)))
    if not training:
        translate(model, batch)
    look()
    assert not changed
    for handle in handles:
        handle.remove()


def test_replicas_that_share_their_modules_objects_compute_what_the_model_does():
    model, work = model_of("source"), list(batches(8))
    replicas = [shared_copy(model) for _ in range(4)]
    expected = [translate(replicas[0], batch) for batch in work]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda pair: translate(pair[1], pair[0]), zip(work, replicas * 2)))
    assert found == expected


def shared_copy(model):
    """As ``nn.parallel.replicate`` makes them: new modules that share the originals' attributes."""
    replicas = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            replica._modules[name] = None if child is None else replicas[child]
        for name, parameter in module._parameters.items():
            if parameter is None:
                replica._parameters[name] = None
            else:
                setattr(replica, name, parameter.detach())
        for name, buffer in module._buffers.items():
            replica._buffers[name] = buffer
    return replicas[model]


@pytest.mark.parametrize("name", MODELS)
def test_copies_and_pickles_compute_the_same_at_any_time(name):
    model = model_of(name)
    [batch] = batches(1)
    expected = translate(model, batch)
    record = []
    model.encoder(*batch, record=record)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert translate(other, batch) == expected
        other.encoder(*batch)
    assert len(record) == 3  # the copies' calls are not in it


@pytest.mark.parametrize("name", MODELS)
def test_quantized_models_translate(name):
    if not torch.backends.quantized.supported_engines[-1:]:
        pytest.skip("this torch has no engine for quantized operations")
    model = model_of(name)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    [batch] = batches(1)
    assert len(translate(quantized, batch)) == len(translate(model, batch))
    assert any("quantized" in type(module).__module__ for module in quantized.modules())
