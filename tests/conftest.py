"""For every test: its process, one thread, and no trace in the global random state."""

import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from gleam.data.workers import cores

# Sums depend on it. One: with more, tiny operations on a busy machine wait for each other.
torch.set_num_threads(1)

# A shell that starts pytest in the background has it ignore Ctrl-C, and with it all processes of
# tests, also those that are to be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _place(nodeid: str) -> str:
    """Tests of one place run in one process: those of a file, and all that use Ray, in turn."""
    file = nodeid.split("::")[0]
    return "Ray" if "/test_parallel" in file else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that use Ray go first, for together they take longest."""
    items.sort(key=lambda item: _place(item.nodeid) != "Ray")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """All tests run in a process for each core, four at most; some of them in this one.

    A process takes seconds to start, and half a gigabyte.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return min(cores(), 4) if whole else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Divide the tests among processes; xdist's own groups do nothing under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByPlace(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _place(nodeid)

    return ByPlace(config, log)


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
