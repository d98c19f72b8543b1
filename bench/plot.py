"""Plots as SVG, written by hand: bars with their ranges, and lines over a logarithmic axis."""
import html
import math

INK, GRID = "#333", "#ddd"
COLOURS = {"ours": "#1f77b4", "peer": "#b0b0b0", "third": "#d95f02"}


def text(x, y, content, anchor="start", size=12, weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}" font-family="sans-serif" font-size="{size}" '
            f'font-weight="{weight}">{html.escape(content)}</text>')


def line(x1, y1, x2, y2, colour=INK, width=1.0):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def document(width, height, parts):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
            f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n")


def round_up(value):
    """The next of 1, 2, 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if value <= step * power)


def bars(title, axis, rows):
    """rows: (label, colour, {"median", "low", "high"}, note behind the bar)."""
    left, width, top, pitch = 150, 760, 46, 30
    right = width - 150
    scale = (right - left) / round_up(max(values["high"] for _, _, values, _ in rows))
    parts = [text(10, 20, title, weight="bold", size=13)]
    for i, (label, colour, values, note) in enumerate(rows):
        y = top + i * pitch
        parts += [text(left - 8, y + 15, label, "end"),
                  f'<rect x="{left}" y="{y}" width="{values["median"] * scale:.1f}" height="20" fill="{COLOURS[colour]}"/>',
                  line(left + values["low"] * scale, y + 10, left + values["high"] * scale, y + 10, width=1.5)]
        parts += [line(left + values[end] * scale, y + 6, left + values[end] * scale, y + 14, width=1.5) for end in ("low", "high")]
        parts.append(text(left + values["high"] * scale + 8, y + 15, note))
    bottom = top + len(rows) * pitch
    parts += [line(left, top - 6, left, bottom), text(left, bottom + 16, axis)]
    return document(width, bottom + 26, parts)


def lines(title, x_axis, y_axis, series):
    """series: (label, colour, [(x, y)]); x by powers of two, y from 0."""
    left, right, top, bottom, width = 70, 560, 46, 300, 760
    xs = [math.log2(x) for _, _, points in series for x, _ in points]
    low, high = min(xs), max(xs)
    most = round_up(max(y for _, _, points in series for _, y in points))

    def at(x, y):
        share = (math.log2(x) - low) / (high - low) if high > low else 0.5
        return left + share * (right - left), bottom - y / most * (bottom - top)

    parts = [text(10, 20, title, weight="bold", size=13)]
    for i in range(5):
        y = most * i / 4
        parts += [line(left, at(2 ** low, y)[1], right, at(2 ** low, y)[1], GRID), text(left - 6, at(2 ** low, y)[1] + 4, f"{y:.3g}", "end")]
    for power in range(math.ceil(low), math.floor(high) + 1):
        parts.append(text(at(2 ** power, 0)[0], bottom + 16, f"{2 ** power:,}", "middle"))
    for i, (label, colour, points) in enumerate(series):
        path = " ".join(f"{at(x, y)[0]:.1f},{at(x, y)[1]:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[colour]}" stroke-width="2"/>')
        parts += [f'<circle cx="{at(x, y)[0]:.1f}" cy="{at(x, y)[1]:.1f}" r="3" fill="{COLOURS[colour]}"/>' for x, y in points]
        parts += [f'<rect x="{right + 20}" y="{top + 20 * i}" width="12" height="12" fill="{COLOURS[colour]}"/>',
                  text(right + 38, top + 20 * i + 11, label)]
    parts += [text((left + right) / 2, bottom + 36, x_axis, "middle"), text(10, top - 10, y_axis)]
    return document(width, bottom + 46, parts)
