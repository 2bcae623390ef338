"""Tables of the comparison on real scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import dedent
from typing import Any

from experiments.provenance import as_markdown
from experiments.real_data import COILS, FILES, PIXEL, SIMULATED, SNR
from gleam.data_config import choices
from gleam.metrics import summarise

METRICS = {"psnr": 2, "ssim": 4}  # and their digits

NOTES = f"""
- Only the T2 brain was measured with its coils. Of the FLAIR head and the chests there are
  magnitudes. Their {COILS} coils, phase and noise (SNR {SNR:g}) are simulated ("{SIMULATED}") by
  the code that makes training data too: they test anatomy and contrast, not physics. Chests have
  pixels of {PIXEL} mm, which is assumed, and were interpolated before they were published.
- The simulator was compared with the T2 slice and the chests while it was built.
- Cases: the T2 brain is one slice under several masks; head slices are those of one person; chests
  are spread over the file. Images keep their size. Every case has a mask seed of its own.
- Coil maps come from the calibration lines alone, by ESPIRiT unless said otherwise. The target is
  the SENSE combination of the full k-space with these maps; its noise is in it.
- L1-wavelet and total variation have for each case and mask the best of several weights, chosen
  with the reference in sight, in their favour; volumes are given to them plane by plane.
- PSNR is complex; mean ± standard deviation over the cases.
"""

Row = Mapping[str, Any]


def group(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, list[Row]]]:
    """Rows by data set and mask, and then by method; in each the cases in their order."""
    groups: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for name in FILES:
        for row in rows:
            if row["data_set"] == name:
                methods = groups.setdefault((name, row["mask"]), {})
                methods.setdefault(row["method"], []).append(row)
    return groups


def summarise_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean and standard deviation of every method over the cases of a data set and mask."""
    return [
        {"data_set": name, "mask": mask, "method": method, **_summary(found)}
        for (name, mask), methods in group(rows).items()
        for method, found in methods.items()
    ]


def compare(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every network minus the classical method of the highest mean PSNR, case by case."""
    compared = []
    for (name, mask), methods in group(rows).items():
        classical = [method for method, found in methods.items() if not found[0]["learned"]]
        best = max(classical, key=lambda method: _summary(methods[method])["psnr"]["mean"])
        for method in (name for name in methods if name not in classical):
            pairs = list(zip(methods[method], methods[best], strict=True))
            gains = [{key: one[key] - other[key] for key in METRICS} for one, other in pairs]
            compared.append(
                {
                    "data_set": name,
                    "mask": mask,
                    "method": method,
                    "best_classical": best,
                    "better": sum(gain["psnr"] > 0 for gain in gains),
                    **summarise(gains),
                }
            )
    return compared


def markdown(report: Mapping[str, Any], method: str) -> str:
    """The whole report; ``method`` is how it was made, as the experiment's docstring says it."""
    command, _, explanation = method.partition("\n\n")[2].partition("\n\n")
    lines = [
        "# Trained networks on real scans\n",
        f"```\n{dedent(command)}\n```\n",
        explanation + NOTES,
        "| data set | mask | method | cases | PSNR [dB] | SSIM |\n|---|---|---|---|---|---|",
        *[
            f"| {row['data_set']} | {row['mask']} | {row['method']} | {row['psnr']['count']} | "
            f"{_cell(row, 'psnr')} | {_cell(row, 'ssim')} |"
            for row in report["summary"]
        ],
        "\nNetwork minus the classical method of the highest mean PSNR, paired by case:\n",
        "| data set | mask | network | best classical | PSNR [dB] | SSIM | higher PSNR in |\n"
        "|---|---|---|---|---|---|---|",
        *[
            f"| {row['data_set']} | {row['mask']} | {row['method']} | {row['best_classical']} | "
            f"{_cell(row, 'psnr', '+')} | {_cell(row, 'ssim', '+')} | "
            f"{row['better']} of {row['psnr']['count']} |"
            for row in report["paired"]
        ],
        "",
        *[_network(name, facts) for name, facts in report["networks"].items()],
        *[_picture(name) for name in dict.fromkeys(row["data_set"] for row in report["summary"])],
        f"\n{report['processor_seconds']:.0f} s of processor time; "
        + as_markdown(report["provenance"]),
    ]
    return "\n".join(lines)


def _summary(found: Sequence[Row]) -> dict[str, dict[str, float]]:
    return summarise([{key: row[key] for key in METRICS} for row in found])


def _cell(row: Row, key: str, sign: str = "") -> str:
    values, digits = row[key], METRICS[key]
    mean = f"{values['mean']:{sign}.{digits}f}"
    return mean if values["count"] == 1 else f"{mean} ± {values['std']:.{digits}f}"


def _network(name: str, facts: Mapping[str, Any]) -> str:
    mask = facts["trained_with"]
    kinds = ", ".join(choices(mask["kind"])).replace("_", " ")
    factors = ", ".join(f"{factor:g}" for factor in choices(mask["acceleration"]))
    return (
        f"- {name}: weights {facts['weights']}, {facts['network']['steps']} "
        f"{facts['network']['step']} steps, {facts['strategy']['name']}; trained with {kinds}, "
        f"R = {factors}, calibration {mask['calibration']}"
    )


def _picture(name: str) -> str:
    return f"\n![{name}](real_scans_{FILES[name]}.png)"
