"""What the experiment wrote: JSON lines of three kinds, read and checked.

A line that is not as described here stops the reading with its file and number, because a table over silently dropped
lines would look like a result.
"""
import collections
import dataclasses
import gzip
import json
import math

GROUPS = ("reference", "control", "reuse", "repair", "format", "order")
SETS = ("xquad", "nq", "hotpot", "musique", "text")
CACHES = ("chunk", "prefix-retrieved", "prefix-sorted", "prefix-shuffled", "prefix-served")
REFERENCE = "full"
FLOOR = "shuffled-full"
OURS = "budget"
# Rounding may leave a divergence a little below zero, nothing else may.
LEAST_KL = -1e-4
# What theory says is zero may be this by rounding, in nats.
EXACT_KL = 1e-5


def open_text(path):
    """A file of lines, packed by gzip where its name says so."""
    return gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")


class BadResults(Exception):
    """Says which line of which file cannot be used, and why."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One prompt computed in one way. A number that was not measured is not a number."""

    set: str
    case: str
    cluster: str
    arm: str
    group: str
    kl: float
    top1: float
    nll: float
    rms_dp: float
    rows: float
    approx_rows: float
    prompt_rows: float
    passes: float
    ms: float
    attention_cos: float
    attention_js: float
    em: float
    f1: float
    subspan: float
    k_err: tuple
    v_err: tuple

    @property
    def base(self):
        """The way of reuse that is repaired; the arm itself without repair."""
        return self.arm.split("+", 1)[0]

    @property
    def policy(self):
        """The repair, "first:16"; empty without."""
        return self.arm.partition("+")[2]

    @property
    def fraction(self):
        """Rows computed again over the rows that reuse left approximate."""
        return self.rows / self.approx_rows if self.approx_rows > 0 else math.nan


@dataclasses.dataclass(frozen=True)
class MapPoint:
    axis: str
    x: object
    y_axis: str
    y: object
    set: str
    case: str
    kl: float
    v_err: float
    floor: float


@dataclasses.dataclass(frozen=True)
class HitRate:
    trace: str
    cache: str
    capacity_tokens: int  # 0: no limit
    hit_rate: float
    tenths: tuple


@dataclasses.dataclass
class Results:
    runs: list = dataclasses.field(default_factory=list)
    map_points: list = dataclasses.field(default_factory=list)
    hits: list = dataclasses.field(default_factory=list)

    def sets(self):
        """Those with runs: known ones in the order of SETS, then others by name."""
        found = {run.set for run in self.runs}
        return [name for name in SETS if name in found] + sorted(found - set(SETS))

    def by_arm(self, set_name):
        """{arm: {case: run}} of one set, arms as they came."""
        arms = collections.defaultdict(dict)
        for run in self.runs:
            if run.set == set_name:
                arms[run.arm][run.case] = run
        return dict(arms)


class _Line:
    """One object of a file, and complaints that say where it stands."""

    def __init__(self, path, number, text):
        self.where = f"{path}:{number}"
        try:
            self.fields = json.loads(text)
        except json.JSONDecodeError as error:
            self.refuse(f"not JSON: {error}")
        if not isinstance(self.fields, dict):
            self.refuse(f"expected an object, found {type(self.fields).__name__}")

    def refuse(self, why):
        raise BadResults(f"{self.where}: {why}")

    def text(self, name, among=None):
        value = self.fields.get(name)
        if not isinstance(value, str) or not value:
            self.refuse(f'"{name}" must be a text, found {json.dumps(value)}')
        if among and value not in among:
            self.refuse(f'"{name}" is "{value}", expected one of {", ".join(among)}')
        return value

    def number(self, name, least=-math.inf, most=math.inf, required=False):
        """Not a number where the line has none or null."""
        value = self.fields.get(name)
        if value is None and not required:
            return math.nan
        return self._checked(f'"{name}"', value, least, most)

    def numbers(self, name, least=-math.inf, most=math.inf, count=None):
        """Empty where the line has none or null."""
        values = self.fields.get(name)
        if values is None and count is None:
            return ()
        if not isinstance(values, list) or (count is not None and len(values) != count):
            self.refuse(f'"{name}" must be a list of {count or ""} numbers'.replace("  ", " "))
        return tuple(self._checked(f'"{name}"[{i}]', value, least, most) for i, value in enumerate(values))

    def place(self, name):
        """Where a point stands on an axis: a number or a name."""
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            self.refuse(f'"{name}" must be a number or a text, found {json.dumps(value)}')
        return value

    def _checked(self, label, value, least, most):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            self.refuse(f"{label} must be a finite number, found {json.dumps(value)}")
        if not least <= value <= most:
            self.refuse(f"{label} is {value}, expected {least} to {most}")
        return float(value)


def _run(line):
    return Run(
        set=line.text("set"), case=line.text("case"), cluster=line.text("cluster"), arm=line.text("arm"),
        group=line.text("group", GROUPS), kl=line.number("kl", LEAST_KL, required=True),
        top1=line.number("top1", 0, 1), nll=line.number("nll", LEAST_KL), rms_dp=line.number("rms_dp", 0),
        rows=line.number("rows", 0), approx_rows=line.number("approx_rows", 0),
        prompt_rows=line.number("prompt_rows", 0), passes=line.number("passes", 0), ms=line.number("ms", 0),
        attention_cos=line.number("attention_cos"), attention_js=line.number("attention_js", LEAST_KL),
        em=line.number("em", 0, 1), f1=line.number("f1", 0, 1), subspan=line.number("subspan", 0, 1),
        k_err=line.numbers("k_err", 0), v_err=line.numbers("v_err", 0))


def _map_point(line):
    second = "y_axis" in line.fields
    return MapPoint(
        axis=line.text("axis"), x=line.place("x"), y_axis=line.text("y_axis") if second else "",
        y=line.place("y") if second else None, set=line.text("set"), case=line.text("case"),
        kl=line.number("kl", LEAST_KL, required=True), v_err=line.number("v_err", 0),
        floor=line.number("floor", LEAST_KL))


def _hit_rate(line):
    capacity = line.number("capacity_tokens", 0, required=True)
    return HitRate(
        trace=line.text("trace"), cache=line.text("cache", CACHES), capacity_tokens=int(capacity),
        hit_rate=line.number("hit_rate", 0, 1, required=True), tenths=line.numbers("tenths", 0, 1, count=10))


def read(paths, growing=False):
    """All files together. growing: an experiment may still be writing them, so a last line without an end is not there
    yet. Throws BadResults."""
    results = Results()
    first = {}   # (set, case, arm) -> where it was first met
    layers = {}  # set -> number of layers
    for path in paths:
        try:
            with open_text(path) as file:
                content = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise BadResults(f"{path}: cannot be read: {error}") from error
        if growing:
            content = content[:content.rfind("\n") + 1]
        for number, text in enumerate(content.splitlines(), 1):
            if text.strip():
                _add(results, _Line(path, number, text), first, layers)
    return results


def _add(results, line, first, layers):
    kind = line.text("kind", ("run", "map", "hits"))
    if kind == "map":
        results.map_points.append(_map_point(line))
        return
    if kind == "hits":
        results.hits.append(_hit_rate(line))
        return
    run = _run(line)
    earlier = first.setdefault((run.set, run.case, run.arm), line.where)
    if earlier != line.where:
        line.refuse(f'arm "{run.arm}" of case "{run.case}" of set "{run.set}" is already in {earlier}')
    for name, errors in (("k_err", run.k_err), ("v_err", run.v_err)):
        if errors and len(errors) != layers.setdefault(run.set, len(errors)):
            line.refuse(f'"{name}" has {len(errors)} layers, earlier lines of set "{run.set}" have {layers[run.set]}')
    results.runs.append(run)
