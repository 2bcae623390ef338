"""A strategy inside a Lightning loop: it computes and updates, Lightning does everything else.

python -m experiments.peers.lightning_example
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader

from gleam.batch import Batch
from gleam.build import build_loaders, build_network
from gleam.config import load_config
from gleam.losses import complex_l1
from gleam.strategies import Greedy


class GreedyTraining(lightning.LightningModule):
    """Trains a network, one of :func:`gleam.wrap` for instance, in so many modules."""

    def __init__(self, network: Any, modules: int) -> None:
        super().__init__()
        self.network, self.count = network, modules
        self.automatic_optimization = False  # the strategy goes backward and steps

    def configure_optimizers(self) -> Any:
        """Runs when the network is on its device; Lightning saves and restores the optimizers."""
        adam = partial(torch.optim.Adam, lr=1e-3)
        self.greedy = Greedy(self.network, complex_l1, adam, modules=self.count)
        return [module.optimizer for module in self.greedy.modules]

    def on_train_start(self) -> None:
        """Let Lightning see the last module's updates: its global step counts them."""
        optimizers: Any = self.optimizers()
        last = optimizers[-1] if isinstance(optimizers, list) else optimizers
        self.greedy.modules[-1].optimizer = last

    def training_step(self, batch: Batch, index: int) -> None:
        """One update of all modules."""
        result = self.greedy.train_step(batch)
        self.log_dict({f"loss_{n}": loss for n, loss in enumerate(result["module_losses"])})


def main() -> None:
    """Train a small network on simulated brains."""
    config = load_config({"data": {"size": [96, 96], "train": 8}, "network": {"steps": 4}})
    batches: Any = build_loaders(config.data, config.seed)["train"].training(0, 1, 8)
    training = GreedyTraining(build_network(config.network, config.data), modules=4)
    trainer = lightning.Trainer(max_epochs=5, accelerator="auto", log_every_n_steps=1)
    trainer.fit(training, DataLoader(batches, batch_size=None))


if __name__ == "__main__":
    main()
