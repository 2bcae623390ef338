"""For every test: one thread, and no trace in the global random state."""

import signal
from collections.abc import Iterator

import numpy as np
import pytest
import torch

# Sums depend on it. One: with more, tiny operations on a busy machine wait for each other.
torch.set_num_threads(1)

# A shell that starts pytest in the background has it ignore Ctrl-C, and with it all processes of
# tests, also those that are to be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _the_global_random_state_is_left_alone() -> Iterator[None]:
    ours = torch.get_rng_state()
    theirs = np.random.get_state()  # noqa: NPY002 (the state to be guarded)
    yield
    torch_touched = not torch.equal(ours, torch.get_rng_state())
    now = np.random.get_state()  # noqa: NPY002
    numpy_touched = not all(np.array_equal(a, b) for a, b in zip(theirs, now, strict=True))
    torch.set_rng_state(ours)
    np.random.set_state(theirs)  # noqa: NPY002
    touched = [n for n, t in (("torch", torch_touched), ("numpy", numpy_touched)) if t]
    assert not touched, f"the test changed the global random state of {' and '.join(touched)}"
