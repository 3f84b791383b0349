"""How all figures look, and how they are written: the same input gives the same bytes."""
import io
import math
import os
import re

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plot  # noqa: E402  (after the backend is chosen)
from matplotlib import ticker  # noqa: E402

# Okabe and Ito's colours, which stay apart for colour-blind readers.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PINK = (
    "#222222", "#E69F00", "#56B4E9", "#009E73", "#C9B800", "#0072B2", "#D55E00", "#CC79A7")
GREY, PALE = "#7A7A7A", "#DADADA"
CYCLE = (BLUE, GREEN, PINK, ORANGE, SKY, BLACK, YELLOW, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
OURS = {"color": VERMILION, "marker": "*"}
GROUP_COLORS = {"reference": GREY, "control": GREY, "order": ORANGE, "reuse": BLUE, "repair": VERMILION,
                "format": GREEN}
SET_TITLES = {"xquad": "XQuAD", "nq": "Natural Questions", "hotpot": "HotpotQA", "musique": "MuSiQue",
              "text": "Running text"}
HEAT = "cividis_r"

plot.rcParams.update({
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.labelsize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": GREY, "axes.linewidth": 0.8, "axes.axisbelow": True, "axes.grid": True,
    "grid.color": "#EBEBEB", "grid.linewidth": 0.7, "xtick.color": "#444444", "ytick.color": "#444444",
    "xtick.labelsize": 8, "ytick.labelsize": 8, "xtick.major.size": 3, "ytick.major.size": 3,
    "xtick.minor.size": 0, "ytick.minor.size": 0, "legend.frameon": False, "legend.fontsize": 8.5,
    "lines.linewidth": 1.5, "lines.markersize": 5, "figure.facecolor": "white", "savefig.facecolor": "white",
    "svg.hashsalt": "pikv", "svg.fonttype": "none", "figure.constrained_layout.use": True})


def title(set_name):
    return SET_TITLES.get(set_name, set_name)


def distinct(names):
    """{name: colour and marker}, by place; colours come again with another marker."""
    return {name: {"color": CYCLE[i % len(CYCLE)], "marker": MARKERS[(i + i // len(CYCLE)) % len(MARKERS)]}
            for i, name in enumerate(names)}


def panels(num_rows, num_columns, width, height, **options):
    """A figure of panels of this size in inches, as a grid of axes even if there is one."""
    return plot.subplots(num_rows, num_columns, figsize=(width * num_columns, height * num_rows), squeeze=False,
                         **options)


def legend_above(figure, handles):
    """One legend for all panels, above them, in as few and as even rows as the figure is wide for."""
    for num_rows in range(1, len(handles) + 1):
        legend = figure.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncol=-(-len(handles) // num_rows),
            borderaxespad=0.2 + 0.4 * num_rows / figure.get_figheight(), handletextpad=0.5, columnspacing=1.4)
        if legend.get_window_extent().width <= figure.bbox.width or num_rows == len(handles):
            return
        legend.remove()


def save(figure, folder, name, png=False):
    """Writes NAME.svg, and NAME.png beside it for a quick look; returns the file name of the former."""
    os.makedirs(folder, exist_ok=True)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight", pad_inches=0.08)
    # A hundredth of a point is finer than any screen, and Verdana is as wide as the font that the layout was made with.
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", text.getvalue())
    svg = svg.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    with open(os.path.join(folder, f"{name}.svg"), "w", encoding="utf-8") as file:
        file.write(re.sub(r" +$", "", svg, flags=re.MULTILINE))
    if png:
        figure.savefig(os.path.join(folder, f"{name}.png"), dpi=110, bbox_inches="tight", pad_inches=0.08)
    plot.close(figure)
    return f"{name}.svg"


def plain(value):
    """Small powers of ten as such."""
    exponent = math.log10(value) if value > 0 else 0
    if exponent > -2.5 or abs(exponent - round(exponent)) > 1e-9:
        return f"{value:g}"
    return "10" + str(round(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def log_ticks(axis):
    """1, 2 and 5 of each decade where few decades show, in plain digits where these are short."""
    low, high = axis.get_view_interval()
    many = high / max(low, 1e-300) > 100
    axis.set_major_locator(ticker.LogLocator(subs=(1,) if many else (1, 2, 5), numticks=12))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: plain(value)))
    axis.set_minor_locator(ticker.NullLocator())
