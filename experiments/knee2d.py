"""Knee slices: proximal gradient and MoDL under every training strategy, R = 4 and 16.

python -m experiments.knee2d [--preset quick|small|paper] [--strategy NAME] [--data FOLDER]
    [--problem NAME ...] [--jobs 2] [--out FOLDER] [--publish]
"""

from functools import partial

from experiments.reproduction import command_line, run_experiment

run = partial(run_experiment, "knee2d")

if __name__ == "__main__":
    command_line("knee2d", __doc__)
