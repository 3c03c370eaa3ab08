"""L-BFGS (Nocedal and Wright 2006, Algorithm 7.5) on many independent smooth convex problems at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_MEMORY = 10  # pairs of steps and changes of the gradient
_ARMIJO, _HALVINGS = 1e-4, 40

# (rows of problems, parameters of these) -> (P,) objective and (P, M) gradient
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def lbfgs(objective: Objective, start: Tensor, max_iter: int, tol: float) -> tuple[Tensor, Tensor]:
    """Minimises P independent smooth convex functions.

    Args:
        objective: of some of the problems.
        start: (P, M).
        max_iter: iterations.
        tol: of the gradient's norm.

    Returns:
        (P, M) minimisers and (P,) bool, whether the gradient got below `tol` or no further decrease can be computed.
    """
    result, converged = start.clone(), torch.zeros(len(start), dtype=torch.bool, device=start.device)
    rows = torch.arange(len(start), device=start.device)
    x = start
    value, gradient = objective(rows, x)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    for _ in range(max_iter):
        done = gradient.norm(dim=1) <= tol
        if done.any():
            result[rows[done]], converged[rows[done]] = x[done], True
            kept = ~done
            rows, x, value, gradient = rows[kept], x[kept], value[kept], gradient[kept]
            steps, changes = [s[kept] for s in steps], [y[kept] for y in changes]
        if not len(rows):
            break
        direction = -_two_loops(gradient, steps, changes)
        slope = (direction * gradient).sum(1)
        uphill = slope >= 0  # rounding of a nearly flat problem
        direction = torch.where(uphill[:, None], -gradient, direction)
        slope = torch.where(uphill, -gradient.square().sum(1), slope)
        new, new_value, new_gradient, moved = _line_search(objective, rows, x, value, gradient, direction, slope)
        steps, changes = [*steps, new - x][-_MEMORY:], [*changes, new_gradient - gradient][-_MEMORY:]
        x, value, gradient = new, new_value, new_gradient
        if not moved.all():  # at the last digit of the objective
            still = ~moved
            result[rows[still]], converged[rows[still]] = x[still], True
            rows, x, value, gradient = rows[moved], x[moved], value[moved], gradient[moved]
            steps, changes = [s[moved] for s in steps], [y[moved] for y in changes]
    result[rows] = x
    return result, converged


def _two_loops(gradient: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    """Inverse Hessian times gradient; a pair without curvature is passed over in the problem that it belongs to."""
    q = gradient.clone()
    history = []
    for s, y in zip(reversed(steps), reversed(changes), strict=True):
        product = (s * y).sum(1)
        good = product > 1e-12 * s.norm(dim=1) * y.norm(dim=1)
        rho = torch.where(good, 1 / product.where(good, torch.ones_like(product)), 0)
        alpha = rho * (s * q).sum(1)
        q -= alpha[:, None] * y
        history.append((s, y, rho, alpha))
    if steps:
        s, y = steps[-1], changes[-1]
        product, square = (s * y).sum(1), y.square().sum(1)
        q *= torch.where((product > 0) & (square > 0), product / square.clamp_min(1e-300), 1)[:, None]
    else:
        q /= gradient.norm(dim=1, keepdim=True).clamp_min(1)
    for s, y, rho, alpha in reversed(history):
        beta = rho * (y * q).sum(1)
        q += (alpha - beta)[:, None] * s
    return q


def _line_search(
    objective: Objective,
    rows: Tensor,
    x: Tensor,
    value: Tensor,
    gradient: Tensor,
    direction: Tensor,
    slope: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halves the step of each problem until it decreases enough; where none does, the problem stays and is not `moved`."""
    new, new_value, new_gradient = x.clone(), value.clone(), gradient.clone()
    step = torch.ones_like(value)
    open_ = torch.arange(len(rows), device=x.device)
    for _ in range(_HALVINGS):
        trial = x[open_] + step[open_, None] * direction[open_]
        found, slope_at = objective(rows[open_], trial)
        # a decrease below the rounding of the sum cannot be seen: then the gradient must shrink
        slack = 1e-15 * value[open_].abs()
        fits = found <= value[open_] + _ARMIJO * step[open_] * slope[open_]
        flat = (found <= value[open_] + slack) & (slope_at.norm(dim=1) < gradient[open_].norm(dim=1))
        good = fits | flat
        accepted = open_[good]
        new[accepted], new_value[accepted], new_gradient[accepted] = trial[good], found[good], slope_at[good]
        open_ = open_[~good]
        if not len(open_):
            break
        step[open_] /= 2
    moved = torch.ones_like(rows, dtype=torch.bool)
    moved[open_] = False
    return new, new_value, new_gradient, moved
