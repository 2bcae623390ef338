"""Beating hearts: 2D+t networks, separable and full 3D convolutions, R = 12 ky-t.

python -m experiments.cine [--preset quick|small|paper] [--strategy NAME] [--data FOLDER]
    [--problem NAME ...] [--jobs 2] [--out FOLDER] [--publish]
"""

from functools import partial

from experiments.reproduction import command_line, run_experiment

run = partial(run_experiment, "cine")

if __name__ == "__main__":
    command_line("cine", __doc__)
