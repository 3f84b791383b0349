"""Tables and numbers as the page shows them."""
import math


def table(head, lines):
    """Empty without lines: a head alone would look like a result."""
    if not lines:
        return ""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def number(value, digits=3):
    """Three significant digits, without an exponent where that is short."""
    if value is None or math.isnan(value):
        return ""
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.{digits - 2}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def fixed(value, decimals, unit=""):
    return "" if value is None or math.isnan(value) else f"{value:,.{decimals}f}{unit}"


def interval(estimate, scale=1, show=number):
    """The mean with its bootstrap interval."""
    if estimate is None:
        return ""
    if math.isnan(estimate.low):
        return show(scale * estimate.mean)
    return f"{show(scale * estimate.mean)} [{show(scale * estimate.low)}, {show(scale * estimate.high)}]"


def clt_interval(estimate, scale=1, show=number):
    if estimate is None or math.isnan(estimate.clt_low):
        return ""
    return f"[{show(scale * estimate.clt_low)}, {show(scale * estimate.clt_high)}]"


def signed(value, decimals=3):
    return "" if math.isnan(value) else f"{value:+.{decimals}f}"


def p_value(p):
    if math.isnan(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
