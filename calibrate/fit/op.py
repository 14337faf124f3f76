"""The fit of one kind of operation: a roofline, and what cross-validation likes on top of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...policies.errors import InputError, UnknownNameError
from ...sim.cost.profile import Grade
from .forest import Forest, features, fit_forest, has_forest
from .kinds import Kind, kind_named
from .kriging import Kriging, fit_kriging
from .physics import Array, Columns, Device, Physics
from .prior import Prior, fit_prior

Method = Literal["auto", "kriging", "forest", "roofline"]
_METHODS = ("auto", "kriging", "forest", "roofline")
_DATASHEET_SIGMA = 0.3  #: of a roofline that no point was ever fitted to
_LEAST_FOR_CHOICE = 60  #: points, below which a forest is not tried
_MOST_JUDGED = 1000
_FOLDS = 10
_CEILING = 50.0  #: times the roofline: nothing takes longer, whatever a residual says


class Prediction(NamedTuple):
    """Foretold points.

    Attributes:
        seconds: [points].
        rel_sigma: [points], standard deviation as a share of `seconds`.
        grades: of each: "measured" (verbatim), "interpolated" (inside the axes of its shape),
            "extrapolated" (outside), "transferred" (from other shapes) or "datasheet".
    """

    seconds: Array
    rel_sigma: Array
    grades: list[Grade]


@dataclass(frozen=True)
class OpFit:
    """A fitted operation; make one with `fit_op`.

    Attributes:
        points, seconds: what it was fitted to, one row for equal points.
        method: "kriging", "forest" or "roofline" (no residual).
        floor_share: of the physics floor that holds here; below 1 where points are faster than it.
        is_carried_over: the points are of another device, see `on`.
    """

    kind: Kind
    device: Device
    points: Columns
    seconds: Array
    prior: Prior
    residual: Kriging | Forest | None
    method: str
    floor_share: float
    is_carried_over: bool = False

    def on(self, device: Device) -> OpFit:
        """The fit for a device that was not measured: its datasheet, this one's residuals.

        Every prediction is then graded "transferred".
        """
        return replace(self, device=device, is_carried_over=True)

    def predict(self, columns: Mapping[str, ArrayLike]) -> Prediction:
        """Seconds, relative sigma and grade of points given by columns.

        A measured point comes back verbatim. No prediction is below the physics floor.

        Raises:
            InputError: a column is missing or wrong.
        """
        read = self.kind.read(columns)
        seconds, sigma = self._smooth(read)
        if self.is_carried_over:
            return Prediction(seconds, sigma, ["transferred"] * len(seconds))
        grades, exact = self._grades(read)
        hit = exact >= 0
        if hit.any():
            seconds[hit] = self.seconds[exact[hit]]
        return Prediction(seconds, sigma, grades)

    def smooth(self, columns: Mapping[str, ArrayLike]) -> Array:
        """Seconds without the verbatim points: what `predict` says just beside them."""
        return self._smooth(self.kind.read(columns))[0]

    def leave_one_out(self) -> Array:
        """Seconds of every point, foretold without it: in up to 10 folds, dealt at random.

        The roofline is fitted anew for each fold; the length scales of kriging are kept.

        Raises:
            InputError: fewer than 3 points.
        """
        count = len(self.seconds)
        if count < 3:
            raise InputError(
                f"{count} points are too few to leave one out, 3 are needed", where=self.kind.name
            )
        found = np.empty(count)
        order = np.random.default_rng(0).permutation(count)
        for fold in np.array_split(order, min(count, _FOLDS)):
            kept = np.setdiff1d(order, fold)
            part = _fit(self.kind, _rows(self.points, kept), self.seconds[kept], self.device, self)
            found[fold] = part._smooth(_rows(self.points, fold))[0]
        return found

    def _smooth(self, columns: Columns) -> tuple[Array, Array]:
        physics = self.kind.physics(columns, self.device)
        roofline = self.prior.log_seconds(physics)
        mean, sigma = np.zeros(len(roofline)), np.full(len(roofline), _DATASHEET_SIGMA)
        if isinstance(self.residual, Kriging):
            mean, sigma = self.residual.predict(physics.coordinates)
        elif self.residual is not None:
            mean, sigma = self.residual.predict(features(physics, roofline))
        elif len(self.seconds):
            sigma = np.full(len(roofline), self._roofline_error())
        seconds = np.exp(roofline + np.minimum(mean, np.log(_CEILING)))
        return np.maximum(seconds, self.floor_share * physics.floor_s), sigma

    def _roofline_error(self) -> float:
        physics = self.kind.physics(self.points, self.device)
        miss = np.abs(self.prior.log_seconds(physics) - np.log(self.seconds))
        return float(np.percentile(miss, 68))

    def _grades(self, columns: Columns) -> tuple[list[Grade], NDArray[np.int64]]:
        kind = self.kind
        rows = kind.matrix(columns)
        known = {row.tobytes(): i for i, row in enumerate(kind.matrix(self.points))}
        exact = np.array([known.get(row.tobytes(), -1) for row in rows], np.int64)
        ranges = _ranges(kind, self.points)
        shapes = kind.matrix(columns, kind.shape)
        axes = kind.matrix(columns, kind.axes)
        grades: list[Grade] = [
            "measured" if hit >= 0 else _grade(ranges.get(shape.tobytes()), at, bool(known))
            for hit, shape, at in zip(exact, shapes, axes, strict=True)
        ]
        return grades, exact


def fit_op(
    kind: str,
    columns: Mapping[str, ArrayLike],
    seconds: ArrayLike,
    device: Device,
    method: Method = "auto",
) -> OpFit:
    """Fit *seconds* measured at points of a kind of operation.

    Args:
        kind: see `kinds`: "gemm", "decode_attention", "prefill_attention", "moe", "all_reduce" or
            "rows".
        columns: the kind's columns, equally long (a number stands for all points). Equal points
            count once, with the median of their seconds.
        seconds: of one launch. None at all leaves the datasheet roofline.
        device: e.g. `Device.of(catalog.gpu("h100"))`.
        method: "kriging", "forest" (scikit-learn), "roofline" (no residual), or "auto": kriging,
            or a forest where it is installed and errs less on points held out of those given.

    Raises:
        UnknownNameError: an unknown kind, column or method.
        InputError: a wrong column, seconds that are not positive, or of another length.
    """
    found = kind_named(kind)
    if method not in _METHODS:
        raise UnknownNameError("fit method", method, _METHODS)
    if method == "forest" and not has_forest():
        raise InputError("a forest needs scikit-learn, which is not installed", where="method")
    times = np.atleast_1d(np.asarray(seconds, float))
    if not len(times):
        return _datasheet(found, device)
    read = found.read(columns)
    if len(times) != len(read[found.axes[0]]):
        raise InputError(
            f"{len(times)} seconds for {len(read[found.axes[0]])} points", where=f"{kind} fit"
        )
    if not (np.isfinite(times) & (times > 0)).all():
        raise InputError("seconds must be finite and above 0", where=f"{kind} fit")
    points, medians = _medians(found, read, times)
    chosen = _chosen(found, points, medians, device) if method == "auto" else method
    return _fit_with(found, points, medians, device, chosen)


def _datasheet(kind: Kind, device: Device) -> OpFit:
    nothing = {name: np.empty(0) for name in kind.columns}
    prior = Prior(np.array(kind.start))
    return OpFit(kind, device, nothing, np.empty(0), prior, None, "roofline", 1.0)


def _fit_with(kind: Kind, points: Columns, seconds: Array, device: Device, method: str) -> OpFit:
    physics = kind.physics(points, device)
    wanted = np.log(seconds)
    prior = fit_prior(physics, wanted, kind.start)
    roofline = prior.log_seconds(physics)
    left = wanted - roofline
    residual: Kriging | Forest | None = None
    if method == "kriging":
        residual = fit_kriging(physics.coordinates, left)
    elif method == "forest":
        residual = fit_forest(features(physics, roofline), left)
    share = _floor_share(physics, seconds)
    return OpFit(kind, device, points, seconds, prior, residual, method, share)


def _fit(kind: Kind, points: Columns, seconds: Array, device: Device, like: OpFit) -> OpFit:
    """A fit to fewer points by the method and the length scales of *like*."""
    if not isinstance(like.residual, Kriging):
        return _fit_with(kind, points, seconds, device, like.method)
    physics = kind.physics(points, device)
    prior = fit_prior(physics, np.log(seconds), kind.start)
    whole = like.residual
    left = np.log(seconds) - prior.log_seconds(physics)
    residual = Kriging(physics.coordinates, left, whole.rates, whole.noise, whole.spread)
    share = _floor_share(physics, seconds)
    return OpFit(kind, device, points, seconds, prior, residual, "kriging", share)


def _chosen(kind: Kind, points: Columns, seconds: Array, device: Device) -> str:
    """The method that errs less on a fifth of the points, fitted to the others."""
    if not has_forest() or len(seconds) < _LEAST_FOR_CHOICE:
        return "kriging"
    order = np.random.default_rng(1).permutation(len(seconds))
    held, kept = np.split(order, [min(_MOST_JUDGED, len(order) // 5)])
    errors = {}
    for method in ("kriging", "forest"):
        fit = _fit_with(kind, _rows(points, kept), seconds[kept], device, method)
        miss = np.log(fit._smooth(_rows(points, held))[0] / seconds[held])
        errors[method] = float(np.sqrt(np.abs(miss)).mean())
    return min(errors, key=lambda method: (errors[method], method))


def _floor_share(physics: Physics, seconds: Array) -> float:
    floors = physics.floor_s
    shares = seconds[floors > 0] / floors[floors > 0]
    return min(1.0, float(shares.min())) if len(shares) else 1.0


def _medians(kind: Kind, columns: Columns, seconds: Array) -> tuple[Columns, Array]:
    rows, which = np.unique(kind.matrix(columns), axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    groups = np.split(seconds[order], np.cumsum(np.bincount(which.ravel()))[:-1])
    points = {name: rows[:, i].copy() for i, name in enumerate(kind.columns)}
    return points, np.array([np.median(group) for group in groups])


def _rows(columns: Columns, which: NDArray[np.int64]) -> Columns:
    return {name: values[which] for name, values in columns.items()}


def _ranges(kind: Kind, points: Columns) -> dict[bytes, tuple[Array, Array]]:
    """Lowest and highest of each axis, by shape."""
    shapes, axes = kind.matrix(points, kind.shape), kind.matrix(points, kind.axes)
    found: dict[bytes, tuple[Array, Array]] = {}
    for shape, at in zip(shapes, axes, strict=True):
        low, high = found.get(shape.tobytes(), (at, at))
        found[shape.tobytes()] = (np.minimum(low, at), np.maximum(high, at))
    return found


def _grade(span: tuple[Array, Array] | None, at: Array, has_points: bool) -> Grade:
    if span is None:
        return "transferred" if has_points else "datasheet"
    low, high = span
    return "interpolated" if ((at >= low) & (at <= high)).all() else "extrapolated"
