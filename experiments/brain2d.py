"""Brain slices: 8 steps end to end against 24 in 3 greedy modules, at the same memory.

python -m experiments.brain2d [--preset quick|small|paper] [--strategy NAME] [--data FOLDER]
    [--problem NAME ...] [--jobs 2] [--out FOLDER] [--publish]
"""

from functools import partial

from experiments.reproduction import command_line, run_experiment

run = partial(run_experiment, "brain2d")

if __name__ == "__main__":
    command_line("brain2d", __doc__)
