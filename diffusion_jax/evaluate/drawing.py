"""Curves as a plain SVG file, without a plotting library."""

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 480, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 32, 44
# Told apart by those who see no red or green (Okabe and Ito 2008), and by dashes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_DASHES = ("", "6 3", "2 3", "8 3 2 3")
_TICKS = 5


class Curve(NamedTuple):
    """Points to join.

    Attributes:
        name: for the legend.
        x: ascending.
        y: as many.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


def draw_curves(
    title: str,
    x_label: str,
    y_label: str,
    curves: Sequence[Curve],
    *,
    x_range: tuple[float, float] = (0.0, 1.0),
    y_range: tuple[float, float] = (0.0, 1.0),
) -> str:
    """Return an SVG document with axes, a legend and one line per curve."""

    def place_x(x: float) -> float:
        share = (x - x_range[0]) / (x_range[1] - x_range[0])
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def place_y(y: float) -> float:
        share = (y - y_range[0]) / (y_range[1] - y_range[0])
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    left, right, low, high = *map(place_x, x_range), *map(place_y, y_range)
    parts = [
        f'<text x="{WIDTH / 2}" y="18" text-anchor="middle" font-size="14">{escape(title)}</text>',
        f'<text x="{(left + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x_label)}</text>",
        f'<text x="14" y="{(low + high) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 14 {(low + high) / 2})">{escape(y_label)}</text>',
        f'<path d="M{left} {high}V{low}H{right}" fill="none" stroke="black"/>',
    ]
    for i in range(_TICKS + 1):
        x = x_range[0] + i / _TICKS * (x_range[1] - x_range[0])
        y = y_range[0] + i / _TICKS * (y_range[1] - y_range[0])
        parts += [
            f'<text x="{place_x(x):.1f}" y="{low + 16}" text-anchor="middle">{x:g}</text>',
            f'<text x="{left - 6}" y="{place_y(y) + 4:.1f}" text-anchor="end">{y:g}</text>',
            f'<path d="M{left} {place_y(y):.1f}H{right}" stroke="#ddd" fill="none"/>',
        ]
    for i, curve in enumerate(curves):
        style = f'stroke="{_COLOURS[i % 4]}" stroke-dasharray="{_DASHES[i % 4]}"'
        points = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in zip(curve.x, curve.y))
        row = low - 12 - 16 * (len(curves) - 1 - i)
        parts += [
            f'<polyline points="{points}" fill="none" stroke-width="2" {style}/>',
            f'<path d="M{left + 10} {row}h24" stroke-width="2" {style}/>',
            f'<text x="{left + 40}" y="{row + 4}">{escape(curve.name)}</text>',
        ]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )
