"""Pictures of simulated rollouts, as SVG or PNG: the same bytes for the same figures, whenever and wherever drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phoenix_fleet.domain.montecarlo import Simulation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GOOD, _BAD, _INK, _FAINT = "#2b7a78", "#c0392b", "#1f2a36", "#d5dbe1"
_COLOURS = ("#2b7a78", "#d98e04", "#6c5b9e", "#3f7fbf", "#8a8d91", "#b0567f")
_BARS = 40
_FAR = 3
"""A deadline further than so many times the time that is shown would leave nothing to see of it."""
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "phoenix", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 10,
    "axes.edgecolor": _INK, "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.titlesize": 11,
    "figure.facecolor": "white", "savefig.facecolor": "white",
}  # fmt: skip


def draw_simulation(path: Path, simulation: Simulation, name: str) -> None:
    """How the ends are distributed about the deadline, and how many replacements are left by when."""
    outlook = simulation.outlook
    deadline = None if outlook.deadline is None else (outlook.deadline - outlook.now).total_seconds()
    finite = [each for each in simulation.ends if math.isfinite(each)]
    scale = _Scale(max(finite, default=0.0), deadline)
    told = f"{simulation.probability:.1%} in time" if deadline is not None else "no deadline"
    with _Picture(path, 2) as (first, second):
        _ends(first, finite, deadline, scale, simulation.trials)
        scale.mark(first, named=True)
        first.set_title(f"{name}: {outlook.left} replacements, {outlook.limits.most} at once: {told}")
        _burn_down(second, simulation, scale)
        scale.mark(second)


def draw_replay(path: Path, lines: Sequence[tuple[str, Sequence[float]]], deadline: float | None, name: str) -> None:
    """How many replacements were left by when, as it went and as it would have gone; ends in seconds."""
    scale = _Scale(max((end for _, ends in lines for end in ends if math.isfinite(end)), default=0.0), deadline)
    with _Picture(path, 1) as (axes,):
        for number, (label, ends) in enumerate(lines):
            came = [end / scale.width for end in sorted(ends) if math.isfinite(end)]
            left = [len(ends) - done for done in range(len(came) + 1)]
            colour, thick = (_INK, 2.4) if number == 0 else (_COLOURS[(number - 1) % len(_COLOURS)], 1.5)
            axes.step([0.0, *came], left, where="post", label=label, color=colour, linewidth=thick)
        axes.set_title(name)
        axes.set_ylabel("replacements left")
        axes.set_ylim(bottom=0)
        scale.lay(axes)
        scale.mark(axes, named=True)
        axes.legend(frameon=False)


class _Scale:
    """The axis of time: in the unit that reads best, and with the deadline unless that is far away."""

    def __init__(self, longest: float, deadline: float | None) -> None:
        self.near = deadline is not None and deadline <= _FAR * longest
        self.deadline = deadline
        shown = max(longest, deadline if deadline is not None and self.near else 0.0)
        self.width, self.unit = self._unit(shown)

    @staticmethod
    def _unit(seconds: float) -> tuple[float, str]:
        if seconds > 3 * 86400:
            return 86400.0, "days"
        return (3600.0, "hours") if seconds > 7200 else (60.0, "minutes")

    def lay(self, axes: Axes) -> None:
        """Along the lower edge."""
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{self.unit} from the start")

    def mark(self, axes: Axes, *, named: bool = False) -> None:
        """The deadline, as a line or as a word at the edge that it lies behind."""
        if self.deadline is None:
            return
        told, at = "deadline", self.deadline / self.width
        if self.near:
            axes.axvline(at, color=_INK, linestyle="--", linewidth=1.2)
        else:
            told = f"deadline after {at:.0f} {self.unit} \N{RIGHTWARDS ARROW}"
        if named:
            place = (at, 1.0) if self.near else (1.0, 1.0)
            axes.annotate(told, place, (4, -4) if self.near else (0, 12), textcoords="offset points", va="top",
                          ha="left" if self.near else "right",
                          xycoords=("data" if self.near else "axes fraction", "axes fraction"))  # fmt: skip


class _Picture:
    """A figure with so many parts one below the other, written at the end."""

    def __init__(self, path: Path, parts: int) -> None:
        self.path, self.parts = path, parts

    def __enter__(self) -> list[Axes]:
        # A third of a second to import, so only whoever draws waits for it. No display is ever asked for.
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._style = mpl.rc_context()
        self._style.__enter__()
        mpl.rcdefaults()  # whatever somebody's matplotlibrc says
        mpl.rcParams.update(_STYLE)
        self.figure: Figure = Figure(figsize=(9, 3.4 * self.parts), layout="constrained")
        FigureCanvasAgg(self.figure)
        found = self.figure.subplots(self.parts, 1, sharex=True, squeeze=False)
        return [row[0] for row in found]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                # Neither the moment nor the version of who drew it: the same figures give the same bytes.
                metadata = {"Date": None, "Creator": None} if self.path.suffix.lower() == ".svg" else {"Software": None}
                self.figure.savefig(self.path, dpi=120, metadata=metadata)
        finally:
            self._style.__exit__(None, None, None)


def _ends(axes: Axes, finite: Sequence[float], deadline: float | None, scale: _Scale, trials: int) -> None:
    low, high = (finite[0], finite[-1]) if finite else (0.0, scale.width)
    step = (high - low) / _BARS or scale.width / _BARS
    for number in range(_BARS):
        since, until = low + number * step, low + (number + 1) * step
        last = number == _BARS - 1
        inside = [each for each in finite if since <= each and (each < until or last)]
        early = sum(1 for each in inside if deadline is None or each <= deadline)
        at, thick = since / scale.width, step / scale.width
        if inside:
            axes.bar(at, early / trials * 100, thick, align="edge", color=_GOOD, linewidth=0)
            axes.bar(at, (len(inside) - early) / trials * 100, thick, early / trials * 100, align="edge", color=_BAD,
                     linewidth=0)  # fmt: skip
    axes.set_ylabel("% of trials that end then")
    axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
    _percentiles(axes, finite, trials, scale.width)


def _percentiles(axes: Axes, finite: Sequence[float], trials: int, width: float) -> None:
    """Their names below the axis, as far as they do not lie on each other."""
    last, apart = -math.inf, max(finite, default=0.0) / width * 0.05
    for percent in (10, 50, 90):
        place = max(1, math.ceil(percent / 100 * trials))
        if place > len(finite) or (at := finite[place - 1] / width) < last + apart:
            continue
        last = at
        axes.annotate(f"p{percent}", (at, 0), (0, -6), textcoords="offset points", ha="center", va="top", fontsize=8)


def _burn_down(axes: Axes, simulation: Simulation, scale: _Scale) -> None:
    rows = [(left, at) for left, at in simulation.band(10, 50, 90) if all(map(math.isfinite, at))]
    left = [row for row, _ in rows]
    early, middle, late = ([at[number] / scale.width for _, at in rows] for number in range(3))
    axes.fill_betweenx(left, early, late, step="pre", color=_FAINT, linewidth=0, label="80 of 100 trials")
    axes.plot(middle, left, drawstyle="steps-post", color=_GOOD, linewidth=1.8, label="half of the trials")
    axes.set_ylabel("replacements left")
    axes.set_ylim(bottom=0)
    scale.lay(axes)
    axes.legend(frameon=False)
