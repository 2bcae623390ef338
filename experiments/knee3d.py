"""Knee volumes: 3D networks on slabs and on whole volumes under every training strategy.

python -m experiments.knee3d [--preset quick|small|paper] [--strategy NAME] [--data FOLDER]
    [--problem NAME ...] [--jobs 2] [--out FOLDER] [--publish]
"""

from functools import partial

from experiments.reproduction import command_line, run_experiment

run = partial(run_experiment, "knee3d")

if __name__ == "__main__":
    command_line("knee3d", __doc__)
