"""Independent pieces of work side by side, one thread each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Found = TypeVar("Found")


def side_by_side(work: Callable[[Item], Found], items: Sequence[Item], device: torch.device) -> list[Found]:
    """Return what `work` makes of each item, in order.

    On a CPU as many items are at work as torch has threads, each with one thread: many small operations
    gain more from that than from threads within each. The thread count is put back at the end, whatever
    happens; after an exception the items at work are waited for, and no other is begun.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(items) < 2:
        return [work(item) for item in items]
    pool = ThreadPoolExecutor(min(threads, len(items)))
    try:
        torch.set_num_threads(1)
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
