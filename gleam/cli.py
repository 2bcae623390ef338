"""The command line: ``gleam demo | prepare | check | plan | train | evaluate | ...``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from gleam.data_commands import check, prepare
from gleam.plan_command import plan

if TYPE_CHECKING:
    from gleam.trainer import TrainingResult

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train unrolled MRI reconstruction networks greedily, in the memory of one module.",
)
console = Console(soft_wrap=True, markup=False)

CheckpointFile = Annotated[
    Path,
    typer.Argument(
        help="Checkpoint of a run, such as runs/demo/best.pt, or a network that ships: general-2d "
        "or general-2d-deep.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for results; must be new.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Another seed, other brains.")] = 1000,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a demonstration that was stopped.")
    ] = False,
) -> None:
    """Simulate brain scans, train greedily on them, and compare. Needs no data, three minutes."""
    from gleam.demo import run_demo

    run_demo(out, seed, resume, console)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file with the settings of the run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings to change, such as strategy=backprop network.steps=4."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in the folder stopped.")
    ] = False,
    restarts: Annotated[
        int, typer.Option(min=0, help="If the run is killed, start it again, so often at most.")
    ] = 0,
) -> None:
    """Train a network; checkpoints, metrics and learning curves land in the folder "out".

    Stop it at any time (Ctrl-C, or even kill -9) and go on with --resume: the weights will be
    the same as if it had never stopped.
    """
    from gleam.config import load_config, parse_overrides
    from gleam.supervise import supervise
    from gleam.trainer import train as train_network

    checked = load_config(config, **parse_overrides(overrides or []))
    if restarts:
        command = [sys.executable, "-m", "gleam", "train", str(config), *(overrides or [])]
        again = [*command, "--resume"]
        status = supervise(again if resume else command, again, restarts, console.print)
        raise typer.Exit(status if status >= 0 else 128 - status)
    _say_how_it_ended(train_network(checked, resume=resume))


@app.command()
def grow(
    checkpoint: CheckpointFile,
    steps: Annotated[int, typer.Option(min=1, help="Unrolled steps to add.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings to change, such as training.iterations=2000."),
    ] = None,
    modules: Annotated[
        int | None,
        typer.Option(min=1, help="Modules of the new steps; as long as those before if none."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the new run; named after all steps if none.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in the folder stopped.")
    ] = False,
) -> None:
    """Add steps to a network trained greedily, and train only these, in the memory of a module.

    The new run has the settings of the one before. Its checkpoints hold the whole network.
    """
    from gleam.config import parse_overrides
    from gleam.growth import grow as grow_network

    changes = parse_overrides(overrides or []) | ({} if out is None else {"out": out})
    result = grow_network(checkpoint, steps, modules=modules, resume=resume, **changes)
    _say_how_it_ended(result)


def _say_how_it_ended(result: TrainingResult) -> None:
    state = "finished" if result.finished else "stopped"
    console.print(f"{state} after {result.iteration} iterations; the folder is {result.folder}")
    if result.best.exists():
        console.print(f"best checkpoint: {result.best}, validation PSNR {result.psnr:.2f} dB")


@app.command()
def evaluate(
    checkpoint: CheckpointFile,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of scans; by default the test split of the run."),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines", help="Compare with CG-SENSE, L1-wavelet and total variation too."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for tables and pictures.", show_default=False)
    ] = None,
    device: Device = "auto",
) -> None:
    """Undersample scans, reconstruct them, and report PSNR, SSIM and NRMSE with pictures."""
    from gleam.evaluation import evaluate as evaluate_checkpoint
    from gleam.report import print_table, write_report

    evaluation = evaluate_checkpoint(checkpoint, data, baselines=baselines, device=device)
    print_table(evaluation, console)
    folder = out or checkpoint.parent / "evaluation"
    for path in write_report(evaluation, folder):
        console.print(f"wrote {path}")


@app.command()
def reconstruct(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="[CHECKPOINT] FILE",
            help="The checkpoint, general-2d if none is named; and a scan of any format that can "
            "be read (fastMRI, ISMRMRD, ...) or a .npy file with k-space, complex (coils, y, x) "
            "or (slices, coils, y, x), with z or t before y.",
        ),
    ],
    mask: Annotated[
        Path | None, typer.Option(help=".npy file, 1 where measured; inferred if none.")
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(help=".npy file with coil maps; estimated as in training (ESPIRiT) if none."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The .npy file to write; a .png lands beside it.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="Of the scan, such as auto; as in training if none.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Unrolled steps to take, up to the end of a module; all if none.",
            show_default=False,
        ),
    ] = None,
    stop_below: Annotated[
        float | None,
        typer.Option(
            help="Take no more steps on an image that changes by less than this fraction of it.",
            show_default=False,
        ),
    ] = None,
    slab: Annotated[
        int | None,
        typer.Option(
            help="Positions along z at a time, of volumes that do not fit the memory at once.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Reconstruct measured k-space with a trained network, your own or one that ships.

    Where it was measured, the coil maps and the noise are found out from the samples.
    """
    from gleam.files import read_array, read_measurements, save_reconstruction
    from gleam.reconstruction import reconstruct_and_compare
    from gleam.shipped import NOTICE, shipped_networks

    if len(inputs) > 2:
        raise ValueError(f"expected [CHECKPOINT] FILE, got {' '.join(map(str, inputs))}")
    *named, kspace = inputs
    checkpoint = named[0] if named else Path("general-2d")
    extra = [None if path is None else read_array(path) for path in (mask, maps)]
    measured = read_measurements(kspace, checkpoint, format)
    given = [
        found if array is None else array for array, found in zip(extra, measured[1:], strict=True)
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        images = reconstruct_and_compare(
            checkpoint,
            measured[0],
            *given,
            steps=steps,
            stop_below=stop_below,
            slab=slab,
            device=device,
        )
    for warning in caught:
        console.print(f"warning: {warning.message}", highlight=False)
    if str(checkpoint) in shipped_networks():
        console.print(f"{checkpoint} is {NOTICE}")
    target = out or kspace.with_name(kspace.name.split(".")[0] + "_reconstruction.npy")
    for path in save_reconstruction(target, *images):
        console.print(f"wrote {path}")


@app.command()
def info(checkpoint: CheckpointFile) -> None:
    """Say what a checkpoint holds: network, training, scores, versions."""
    import yaml

    from gleam.checkpoint import read_checkpoint, read_config
    from gleam.config import dump_config
    from gleam.evaluation import load

    content = read_checkpoint(checkpoint)
    count = sum(parameter.numel() for parameter in load(checkpoint).parameters())
    facts = {
        "iteration": content["iteration"],
        "best validation PSNR [dB]": round(content["progress"]["best"], 2),
        "parameters": count,
        **({"limits": content["limits"]} if "limits" in content else {}),
        "versions": content["versions"],
        "config": dump_config(read_config(content, checkpoint)),
    }
    console.print(yaml.safe_dump(facts, sort_keys=False), highlight=False)


app.command()(prepare)
app.command()(check)
app.command()(plan)


def main() -> None:
    """Run the command line; errors a user can cure are one message, without a traceback."""
    from gleam.checkpoint import CheckpointError
    from gleam.config import ConfigError
    from gleam.data import DataError
    from gleam.parallel.session import MissingRayError
    from gleam.parallel.worker import WorkerError
    from gleam.run_folder import RunFolderError
    from gleam.strategies import OutOfReachError
    from gleam.trainer import TrainingDiverged

    try:
        app()
    except (
        CheckpointError,
        ConfigError,
        DataError,
        RunFolderError,
        TrainingDiverged,
        MissingRayError,
        OutOfReachError,
        WorkerError,
        OSError,
        ValueError,
        TypeError,
    ) as error:
        text = Text.assemble(("error: ", "red"), str(error))  # no markup: messages hold brackets
        Console(stderr=True, soft_wrap=True).print(text)
        raise SystemExit(1) from None
