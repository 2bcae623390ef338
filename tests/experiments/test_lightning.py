"""The example of a Lightning loop, run."""

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from gleam.losses import complex_l1
from gleam.strategies import Greedy
from tests.helpers import make_batch, make_network, same, seeded, weights_of

with warnings.catch_warnings():  # of imports that are not ours
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("pytorch_lightning")
    from experiments.peers.lightning_example import GreedyTraining

BATCHES = [make_batch(8, 7, seed=10 * number) for number in range(3)]


def fit(folder: Path, epochs: int, resume: str | None = None) -> tuple[Any, Any]:
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    training = GreedyTraining(make_network(), modules=2)
    with seeded():  # a loader draws a number for its workers
        trainer.fit(training, DataLoader(BATCHES, batch_size=None), ckpt_path=resume)
    return trainer, training


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's use of torch
@pytest.mark.filterwarnings("ignore:.*exists and is not empty")  # that of the run to resume
@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # advice for slow data
def test_a_lightning_loop_trains_as_a_loop_of_ones_own_and_goes_on_where_it_stopped(tmp_path):
    network = make_network()
    strategy = Greedy(network, complex_l1, partial(torch.optim.Adam, lr=1e-3), modules=2)
    for batch in BATCHES * 2:
        result = strategy.train_step(copy.copy(batch))
    trainer, training = fit(tmp_path / "whole", 2)
    assert same(weights_of(training.network), weights_of(network))
    assert trainer.callback_metrics["loss_1"] == pytest.approx(result["module_losses"][1])
    assert trainer.global_step == 6
    half, _ = fit(tmp_path / "half", 1)
    _, resumed = fit(tmp_path / "half", 2, half.checkpoint_callback.best_model_path)
    assert same(weights_of(resumed.network), weights_of(network))
