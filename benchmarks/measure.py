"""Timing several contenders fairly, and how much memory one takes."""

import gc
import math
import random
import statistics
import time

import torch
from tqdm import tqdm


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(function, device, calls=1):
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        function()
    synchronize(device)
    return (time.perf_counter() - start) / calls


def compare(contenders, repeats, device="cpu", title=None, limit=None):
    """Time contenders alternately in this process.

    In each repeat each one runs twice, and the second run is timed, so that none is charged for the
    state in which another left the caches and the memory allocator; what of that state remains, an
    order drawn anew in each repeat spreads over all. What takes less than 5 ms is run several times
    a repeat.

    Args:
        contenders: {name: function without arguments}; ratios are to the first one's time
        repeats: timed runs of each, after two to warm up
        device: ``cpu`` or ``cuda``
        title: of the progress bar; ``None``: no bar
        limit: seconds above which a contender is left out after its warm-up

    Returns:
        {name: {"ms": times in milliseconds, "median": of them, "ratio": median of its time over the first
        one's in the same repeat, "ratio_low", "ratio_high": quartiles}}
    """
    calls = {}
    for name, function in contenders.items():
        function()
        once = seconds(function, device)
        if limit is None or once < limit:
            calls[name] = max(1, min(50, math.ceil(0.005 / once)))
    times = {name: [] for name in calls}
    draw = random.Random(0)
    for _ in tqdm(range(repeats), desc=title, leave=False, disable=None if title else True):
        for name in draw.sample(list(calls), len(calls)):
            contenders[name]()
            times[name].append(1e3 * seconds(contenders[name], device, calls[name]))
    results, base = {}, next(iter(contenders))
    for name, values in times.items():
        results[name] = {"ms": [round(value, 4) for value in values], "median": statistics.median(values)}
        if base in times:
            ratios = [value / other for value, other in zip(values, times[base])]
            low, middle, high = quartiles(ratios)
            results[name].update(ratio=middle, ratio_low=low, ratio_high=high)
    return results


def quartiles(values):
    if len(values) < 2:
        return (values[0],) * 3
    return tuple(statistics.quantiles(values, n=4, method="inclusive"))


def peak_memory(function, device="cpu"):
    """Bytes that ``function`` holds at most of what it allocates through torch.

    On the CPU it must free nothing that was there before: torch's profiler may know its size or not.
    """
    function()
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
