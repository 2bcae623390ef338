"""CG-SENSE and ESPIRiT of every package on the same scans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from experiments.peers import bart
from experiments.peers.operators import MAKERS, Encoding, Problem
from experiments.peers.timing import Contender, relative
from physics.coils import espirit
from physics.solvers import conjugate_gradient

ITERATIONS = 30
WEIGHT = 0.01
KERNEL = 6
CROP = 0.8
THRESHOLD = 0.02


Solver = Callable[[Callable[[Any], Any], Any], Any]
"""Solve ``(A^H A + WEIGHT) x = b`` of a normal operator and b, in :data:`ITERATIONS` steps."""


def textbook_cg(
    normal: Callable[[Tensor], Tensor], rhs: Tensor, weight: Any = WEIGHT, steps: int = ITERATIONS
) -> Tensor:
    """Conjugate gradients in torch as in a textbook, differentiable by autograd."""
    x, residual = torch.zeros_like(rhs), rhs
    direction, energy = residual, residual.abs().square().sum()
    for _ in range(steps):
        image = normal(direction) + weight * direction
        length = energy / (direction.conj() * image).sum().real
        x = x + length * direction
        residual = residual - length * image
        previous, energy = energy, residual.abs().square().sum()
        direction = residual + energy / previous * direction
    return x


def _ours(normal: Callable[[Tensor], Tensor], rhs: Tensor) -> Tensor:
    return conjugate_gradient(normal, rhs, shift=WEIGHT, iterations=ITERATIONS, tolerance=0)


def _sigpy(normal: Callable[[Any], Any], rhs: Any) -> Any:
    from sigpy.alg import ConjugateGradient

    solver = ConjugateGradient(
        lambda x: normal(x) + WEIGHT * x, rhs, 0 * rhs, max_iter=ITERATIONS, tol=0
    )
    while not solver.done():
        solver.update()
    return solver.x


def _mrpro(normal: Callable[[Tensor], Tensor], rhs: Tensor) -> Tensor:
    from mrpro.algorithms.optimizers import cg

    (result,) = cg(
        lambda x: (normal(x) + WEIGHT * x,), (rhs,), max_iterations=ITERATIONS, tolerance=0
    )
    return result


def _deepinv(normal: Callable[[Tensor], Tensor], rhs: Tensor) -> Tensor:
    from deepinv.optim.linear import conjugate_gradient as theirs

    return theirs(
        lambda x: normal(x) + WEIGHT * x, rhs, max_iter=ITERATIONS, tol=0, parallel_dim=[0]
    )


SOLVERS: dict[str, Solver] = {
    "this library": _ours,
    "torch, as the formula reads": textbook_cg,
    "sigpy": _sigpy,
    "mrpro": _mrpro,
    "deepinv": _deepinv,
}


def cg_sense(
    problem: Problem, encodings: dict[str, Encoding], threads: int
) -> dict[str, Contender]:
    """``(A^H A + WEIGHT) x = A^H y`` from zero, always as many iterations."""

    def contender(encoding: Encoding, solve: Solver) -> Contender:
        return Contender(
            lambda: solve(encoding.normal, encoding.adjoint(encoding.kspace)), encoding.to_image
        )

    found = {
        name: contender(encodings[name], solve)
        for name, solve in SOLVERS.items()
        if name in encodings
    }
    if bart.version():
        found["BART pics"] = _with_pics(problem, encodings["this library"].kspace, threads)
    return found


def _with_pics(problem: Problem, kspace: Tensor, threads: int) -> Contender:
    plane = problem.space if problem.kind == "3D" else (1, *problem.space)
    arrays = {
        "kspace": kspace.reshape(-1, *plane),
        "maps": problem.maps.reshape(-1, *plane),
        "pattern": problem.mask.expand(1, 1, *problem.space).reshape(1, *plane),
    }
    settings = ["-d5", "-w", "1", "-l2", "-r", str(WEIGHT), "-i", str(ITERATIONS)]
    command = ["pics", *settings, "-p", "pattern", "kspace", "maps", "out"]
    return Contender(
        lambda: bart.run(command, arrays, threads),
        lambda finished: finished.result.reshape(problem.space),
        lambda finished: finished.seconds,
    )


def coil_maps(problem: Problem, threads: int) -> dict[str, Contender]:
    """ESPIRiT from the central 24 lines, one map set, kernels of 6."""
    kspace, width = problem.full, 24
    array = kspace[0].numpy()

    def ours() -> Tensor:
        return espirit(kspace, width, kernel_size=KERNEL, threshold=THRESHOLD, crop=CROP)

    def with_sigpy() -> Any:
        from sigpy.mri.app import EspiritCalib

        settings = {"calib_width": width, "kernel_width": KERNEL, "thresh": THRESHOLD}
        return EspiritCalib(array, **settings, crop=CROP, show_pbar=False).run()

    found = {
        "this library": Contender(ours, lambda maps: maps[0, 0]),
        "sigpy": Contender(with_sigpy, torch.from_numpy),
    }
    if bart.version():
        found["BART ecalib"] = _with_ecalib(problem, width, threads)
    return found


def _with_ecalib(problem: Problem, width: int, threads: int) -> Contender:
    plane = problem.space if problem.kind == "3D" else (1, *problem.space)
    arrays = {"kspace": problem.full.reshape(-1, *plane)}
    sizes = ["-r", f"{width}:{width}:{width}", "-k", f"{KERNEL}:{KERNEL}:{KERNEL}"]
    cuts = ["-t", str(THRESHOLD**2), "-c", str(CROP)]  # of eigenvalues, squares of singular values
    command = ["ecalib", "-d5", "-m", "1", *sizes, *cuts, "kspace", "out"]
    return Contender(
        lambda: bart.run(command, arrays, threads),
        lambda finished: finished.result.reshape(-1, *problem.space),
        lambda finished: finished.seconds,
    )


def relative_of_maps(result: Tensor, reference: Tensor) -> float:
    """The same of maps ``(coils, *space)``, up to a phase in every pixel, where both have maps."""
    both = (result.abs().sum(0) > 0) & (reference.abs().sum(0) > 0)
    a, b = result[:, both], reference[:, both]
    inner = (a.conj() * b).sum(0)
    return relative(a * torch.polar(torch.ones_like(inner.real), inner.angle()), b)


def residual(problem: Problem, image: Tensor) -> float:
    """Norm of ``A^H y - (A^H A + WEIGHT) x`` over that of ``A^H y``."""
    ours = MAKERS["this library"](problem)
    assert ours is not None
    rhs = ours.adjoint(ours.kspace)
    x = image.reshape(rhs.shape)
    return float((rhs - ours.normal(x) - WEIGHT * x).norm() / rhs.norm())
