"""Renderings of synthetic reports as text, page and figure, at every depth, gain and degree of damage."""

import ast
import errno
import html as html_module
import math
import os
import re
import stat
import sys
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

import gradcore as gc
from gradcore import _files
from gradcore.analysis.training_report import PROFILES, TrainingReport
from gradcore.show import html, plots, story, svg, text
from synthetic_reports import CASES, make_report

ANSI = re.compile(r"\033\[[0-9;]*m")


@pytest.fixture(params=CASES)
def report(request):
    return CASES[request.param]()


# ---- text --------------------------------------------------------------------------------------------------


def test_at_the_prompt_a_report_is_one_line(report):
    """What it holds is printed, or shown in a notebook; its arrays are nothing to read."""
    training = TrainingReport("healthy", (), 900, {}, {}, {}, {"checks": 22})
    for said in map(repr, (report, gc.predict([9, 8, 8, 3]), training)):
        assert said[0] == "<" and said[-1] == ">" and len(said) < 80 and "\n" not in said
    assert report.verdict in repr(report)


@pytest.mark.parametrize("width", [72, 80, 120])
def test_text_fits_the_terminal(report, width):
    assert max(len(line) for line in text.render(report, width=width).splitlines()) <= width


def test_text_in_ascii_is_ascii(report):
    assert text.render(report, unicode=False).isascii()


def test_colour_adds_only_escape_codes(report):
    plain = text.render(report, color=False, width=90)
    colored = text.render(report, color=True, width=90)
    assert "\033[" not in plain
    assert ANSI.sub("", colored) == plain


def test_text_tells_the_story():
    shown = text.render(make_report(), width=100)
    assert shown.startswith("VANISHING GRADIENTS\n64, 100 x 30, 10, sigmoid")
    assert "0.0562 (95% interval" in " ".join(shown.split())
    assert "saturating activation" in shown
    assert "squared slope of the activation" in shown
    assert shown.index("batch norm before each activation") < shown.index("gradient clipping at norm 1")


def test_long_nets_are_elided_in_the_middle():
    shown = text.render(CASES["very deep"](), width=100)
    assert "377 more layers" in shown
    rows = re.findall(r"^ +(\d+) +\d+ +[\d.e-]+ ", shown, re.MULTILINE)
    assert rows[0] == "0"
    assert rows[-1] == "400"
    assert len(rows) == 24


@pytest.mark.parametrize(
    ("environment", "tty", "color"),
    [({}, True, True), ({}, False, False), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, True, False)],
)
def test_colours_only_where_wanted(monkeypatch, environment, tty, color):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = StringIO()
    stream.isatty = lambda: tty
    assert text.Terminal.of(stream).color == color


def test_ascii_where_the_stream_has_no_more():
    assert not text.Terminal.of(open_as("ascii")).unicode
    assert text.Terminal.of(open_as("utf-8")).unicode


def open_as(encoding):
    return TextIOWrapper(BytesIO(), encoding=encoding)


def test_str_of_a_report_has_no_escape_codes(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert "\033" not in str(make_report())


# ---- words and numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1.0, "1"), (0.05571, "0.056"), (1234.5, "1234"), (12345.0, "1.2e4"), (3.2e-20, "3.2e-20"),
     (-2.5, "-2.5"), (math.nan, "n/a"), (math.inf, "inf"), (-math.inf, "-inf"), (9999.9, "1.0e4"), (9999.0, "9999")],
)  # fmt: skip
def test_number(value, shown):
    assert story.number(value) == shown


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, "0%"), (1.0, "100%"), (1e-6, "<0.1%"), (0.99999, ">99.9%"), (0.1234, "12.3%")]
)
def test_percent_never_hides_a_little(share, shown):
    assert story.percent(share) == shown


def test_elide():
    assert story.elide(4, 4) == [0, 1, 2, 3]
    assert story.elide(9, 5) == [0, 1, 2, None, 7, 8]


def test_bars_are_logarithmic_and_flat_where_the_profile_is():
    shares = text.bar_shares(np.array([1.0, 1e-10, 1e-20, np.nan, 0.0, np.inf]))
    np.testing.assert_allclose(shares[:3], [1.0, 0.5, 0.0], atol=1e-12)
    assert np.isnan(shares[3:]).all()
    assert text.bar_shares(np.array([1.0, 0.9])).min() > 0.95


def test_every_number_said_about_the_slope_follows_from_the_report():
    report = make_report()
    sentence = story.why(report)[0]
    for value in (report.slope.value, report.slope.low, report.slope.high, report.slope.band_low):
        assert story.number(math.exp(value), 3) in sentence


@pytest.mark.parametrize(
    ("severity", "half", "ending"),
    [
        ("info", 0.0, "But under Adam this does not stop the layers from moving."),
        ("info", 9.0, "It may be outside that band only by the noise of batches or the luck of this draw of weights."),
        ("warning", 0.0, ""),
    ],
)
def test_a_slope_outside_its_band_that_is_no_verdict_says_why(severity, half, ending):
    finding = replace(make_report().findings[0], severity=severity)
    conditions = {"optimizer": "Adam(lr=0.001, betas=(0.9, 0.999))"}
    slope = replace(make_report().slope, batch_half=half)
    said = story.why(make_report(findings=(finding,), conditions=conditions, slope=slope))
    assert said[-1] == ending if ending else not any("moving" in sentence or "luck" in sentence for sentence in said)


def test_a_single_singular_value_is_no_range():
    """It read "from 2.4e-17 down to 2.4e-17 (root mean square 4.3e-17)", larger than the largest."""
    net, rng = gc.MLP([5, 8, 8, 1], activation="tanh"), np.random.default_rng(0)
    said = str(gc.analyze(net, rng.standard_normal((60, 5)), rng.standard_normal(60), loss="mse")).replace("\n", " ")
    assert "The only singular value of the input-output Jacobian is" in said and "down to" not in said


@pytest.mark.parametrize(("rate", "told"), [(20.0, False), (0.01, True)])
def test_a_level_profile_has_no_factor_to_explain(rate, told):
    """Steps that are too large: the gradient keeps its size, whatever its factors are; 20 sigmoid layers lose it."""
    x = np.random.default_rng(0).standard_normal((400, 20)).astype("f4")
    hidden, activation = ([32] * 20, "sigmoid") if told else ([32] * 4, "relu")
    net = gc.MLP([20, *hidden, 3], activation=activation)
    report = gc.analyze(net, x, np.arange(400) % 3, optimizer=gc.optim.SGD(net, lr=rate))
    assert report.verdict != "healthy" and report.slope.inside_band != told
    assert ("The largest part of that factor" in str(report)) == told


@pytest.mark.parametrize(
    ("severity", "title"), [("info", "Healthy gradients"), ("warning", "Healthy gradients, with warnings")]
)
def test_the_first_words_tell_of_warnings_beside_healthy_gradients(severity, title):
    report = make_report("healthy", findings=(replace(make_report().findings[-1], severity=severity),))
    assert text.render(report).splitlines()[0] == title.upper()
    assert f">{title}</p>" in html.render(report) and story.title(make_report()) == "Vanishing gradients"


def test_profiles_that_overflow_are_not_judged_by_their_words():
    assert story.exp(1e6) == math.inf
    layers = make_report().layers
    object.__setattr__(layers[0], "delta_norm", 0.0)
    assert math.isnan(story.end_ratio(make_report(layers=layers)))


# ---- HTML --------------------------------------------------------------------------------------------------


class Checker(HTMLParser):
    """Collects tags and fails on elements that are not closed in order."""

    VOID = frozenset(("meta", "br"))

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_loads_nothing(report):
    page = html.page(report)
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.addresses == []
    assert not {"script", "img", "link", "iframe"} & set(checker.tags)
    assert "url(" not in page
    assert "nan" not in re.findall(r'(?:points|c?[xy]|width|height)="([^"]*)"', page)


def test_charts_are_well_formed_xml_with_a_label(report):
    charts = re.findall(r"<svg.*?</svg>", html.page(report))
    assert len(charts) >= 4
    for chart in charts:
        assert ElementTree.fromstring(chart.replace("&times;", "x")).attrib["aria-label"]


def test_page_is_some_tens_of_kilobytes():
    assert len(html.page(make_report())) < 60_000


def test_a_regression_has_no_accuracy():
    report = make_report()
    for remedy in report.tried:
        for name in ("before", "after"):
            object.__setattr__(remedy, name, replace(getattr(remedy, name), accuracy=math.nan))
    assert '<th scope="col">accuracy</th>' in html.render(make_report()) and "96.2%" in text.render(make_report())
    for shown in (html.render(report), text.render(report)):
        assert not re.search(r"\baccuracy\b", shown[shown.index("Remedies, tried") : shown.index("Clipping never")])
        assert "loss reduced by" in shown and "0.21" in shown


def test_everything_is_escaped():
    nasty = '<script>alert("x")</script>'
    report = make_report()
    report.config |= {"activation": [nasty], "init": nasty}
    report.conditions["loss"] = nasty
    remedy = report.tried[0]
    object.__setattr__(remedy, "name", nasty)
    object.__setattr__(remedy, "note", nasty)
    object.__setattr__(report.findings[0], "explanation", nasty)
    object.__setattr__(report.findings[0], "cause", nasty)
    object.__setattr__(report.findings[0], "evidence", {nasty: nasty})
    page = html.page(report)
    assert "<script" not in page
    assert html_module.escape(nasty) in page


def test_the_fragment_stands_alone_and_repeats_no_id():
    report = make_report()
    assert report._repr_html_() == html.render(report)
    assert " id=" not in html.render(report)


def test_a_page_that_cannot_be_completed_leaves_the_old_one(tmp_path, monkeypatch):
    """As on a full disk: half a page used to be left in its place."""
    shown = {"report": make_report(), "prediction": gc.predict([4, 8, 8, 2]), "sweep": gc.sweep({"depth": [2]})}
    for name, each in shown.items():
        path = tmp_path / f"{name}.html"
        path.write_text("the old page")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full_disk)
            with pytest.raises(OSError, match="No space left on device") as error:
                each.save_html(path)
        assert error.value.filename == str(path) and path.read_text() == "the old page"
        each.save_html(path)
        assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert {entry.name for entry in tmp_path.iterdir()} == {f"{name}.html" for name in shown}


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_page_may_go_into_a_pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    _files.write_report(path, "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_save_html(tmp_path):
    make_report().save_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_quantile_interpolates_within_a_bin():
    exponents = np.arange(-3, 1)
    counts = np.array([[0, 10, 10, 0], [0, 0, 0, 0]])
    found = html.quantile(exponents, counts, 0.25)
    assert found[0] == -1.5  # half of the bin from 2^-2 to 2^-1
    assert np.isnan(found[1])


# ---- charts ------------------------------------------------------------------------------------------------


def test_gaps_split_a_line():
    assert svg.runs(np.array([1.0, np.nan, 2.0, 3.0, np.inf])) == [(0, 1), (2, 4)]
    chart = svg.Chart((0, 4), (0, 4))
    chart.line([1.0, np.nan, 2.0, 3.0, np.nan], "measured")
    assert chart.svg("x").count("<polyline") == 2


def test_axis_range_holds_the_data_and_at_least_two_decades():
    assert svg.log_range(np.array([-0.5, -0.4])) == (-2, 0)
    assert svg.log_range(np.array([-20.5, 3.2])) == (-21, 4)
    assert svg.log_range(np.array([np.nan])) == (-1.0, 1.0)


def test_a_chart_over_checks_tells_their_steps():
    steps = np.array([5.0, 40.0, 900.0])
    history = {name: np.ones((3, 2)) for name in PROFILES} | {"step": steps, "loss": np.array([1.0, 0.5, 0.1])}
    cost = {"checks": 3, "recorded_passes": 3, "analyses": 0}
    conditions = {"loss": "mse", "optimizer": "SGD"}
    report = TrainingReport("healthy", (), 900, history, gc.MLP([4, 4, 2]).config, conditions, cost)
    page = report._repr_html_()
    loss = page[page.index("Loss at the checks") :]
    assert re.findall(r"<title>step (\d+): ", loss) == ["5", "40", "900"]
    assert re.findall(r'y="219">(\d+)<', loss) == ["5", "40", "900"] and "step of the check" in loss
    assert "step (up: layer)" in page  # layer 0 is at the bottom


def test_points_stay_inside_the_frame():
    chart = svg.Chart((0, 1), (0, 1))
    assert chart.y(99.0) == chart.top
    assert chart.y(-99.0) == chart.height - chart.bottom


# ---- figures -----------------------------------------------------------------------------------------------


def test_figure(report, tmp_path):
    figure = report.plot()
    assert len(figure.axes) >= 6
    figure.savefig(tmp_path / "figure.png", dpi=40)
    assert (tmp_path / "figure.png").stat().st_size > 5000


@pytest.mark.parametrize("top", [-10, -17, -25])
def test_labels_of_low_precision_stay_in_their_panel(top):
    """The deltas reach up to, or down to, just where a format loses them."""
    for exponents in (np.arange(top - 8, top), np.arange(top - 1, top + 8)):
        flow = SimpleNamespace(exponents=exponents, delta_histogram=np.ones((31, len(exponents)), np.int64))
        figure = make_report(flows=(flow,)).plot()
        figure.draw_without_rendering()
        (panel,) = (ax for ax in figure.axes if ax.get_title().startswith("size of the single deltas"))
        boxes = [label.get_window_extent() for label in panel.texts]
        assert boxes and all(panel.bbox.y0 - 1 < box.y0 and box.y1 < panel.bbox.y1 + 1 for box in boxes)


def test_figure_without_raw_flows():
    titles = [ax.get_title() for ax in make_report(flows=()).plot().axes]
    assert "deltas, norm" in titles


def test_a_missing_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gradcore\[plot\]'"):
        plots.plot(make_report())


def test_renderers_import_nothing_beyond_numpy():
    for module in (text, html, svg, story):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            assert not set(names) - (set(sys.stdlib_module_names) | {"numpy"}), module.__name__


# ---- what has no place on an axis ----------------------------------------------------------------------------


def _net_report(net):
    rng = np.random.default_rng(0)
    return gc.analyze(net, rng.standard_normal((256, 8)), rng.integers(0, 4, 256))


def _closed_net():
    net = gc.MLP([8] + [16] * 6 + [4])
    net.parameters["dense3.bias"][:] = -100.0  # no unit of layer 3 is ever active
    return net


def test_zeros_are_marked_at_the_lower_edge_not_finite_ones_at_the_upper():
    closed, broken = _net_report(_closed_net()), _closed_net()
    broken.parameters["dense0.weight"][0, 0] = np.nan
    for report, mark, edge in ((closed, "0", 261), (_net_report(broken), "&#215;", 21)):
        chart = html.delta_chart(report)
        assert len(re.findall(rf'class="bad"[^>]*y="{edge}">{mark}<', chart)) == chart.count('class="bad"') > 0
    pytest.importorskip("matplotlib")
    labels = {line.get_label() for line in closed.plot().axes[0].get_lines()}
    assert "exactly 0" in labels and "NaN or infinite" not in labels


def test_nets_of_one_and_two_layers_show_their_layers_and_no_others():
    for net, layers in ((gc.MLP([8, 4]), ["0"]), (gc.MLP([8, 16, 4]), ["0", "1"])):
        report = _net_report(net)
        chart, page = html.delta_chart(report), html.render(report)
        assert re.findall(r'y="279">(-?\d+)</text>', chart) == layers
        assert "healthy at this depth" not in page
        assert all("<circle" in part or len(layers) == 2 for part in re.findall(r"<polyline.*?</svg>", page))
    pytest.importorskip("matplotlib")
    for ax in report.plot().axes[:3]:
        assert all(float(tick).is_integer() for tick in ax.get_xticks())


def test_a_large_factor_lies_within_its_chart():
    chart = html.factor_chart({"weight_scale": 2.0e180, "mask": 1e-100})
    texts = re.findall(r'<text x="(\d+)"[^>]*>&#215; (.*?)</text>', chart)
    assert all(int(x) + 6.2 * (2 + len(number)) <= 420 for x, number in texts) and len(texts) == 3


def test_words_after_a_power_of_ten_stand_on_the_line():
    chart = ElementTree.fromstring(svg.heat_map(np.zeros((1, 2)), np.array([3.0]), (-1.0, 1.0), "map"))
    scale = next(text for text in chart.iter("text") if "shades" in (text.text or ""))
    shifts = [float(part.get("dy", 0)) for part in scale]
    assert "".join(scale.itertext()) == "step (up: layer); shades from 10-1 to 101" and sum(shifts[:2]) == 0


def test_maps_of_a_training_that_broke_at_once_are_red():
    pytest.importorskip("matplotlib")
    history = {name: np.full((1, 3), np.nan) for name in PROFILES} | {"step": np.zeros(1), "loss": np.full(1, np.nan)}
    report = TrainingReport("non_finite", (), 0, history, gc.MLP([4, 4, 4, 2]).config, {}, {"checks": 1})
    assert all(len(ax.images) == 1 for ax in report.plot().axes[:4])


def test_skip_connections_are_told_from_branches():
    page = html.render(_net_report(gc.MLP([8] + [16] * 6 + [4], residual=True)))
    assert "|dL/dh|<sup>2</sup>" in page
    assert "|^2" not in re.sub(r'aria-label="[^"]*"', "", page)  # which a screen reader speaks
    assert "that of dL/dh" in page and "that of dL/dh" not in html.render(_net_report(gc.MLP([8, 16, 16, 4])))


def test_an_output_that_does_not_move_is_said_in_words():
    assert "On the rows sampled, the output does not change with the input." in story.nearby_lines(
        _net_report(_closed_net())
    )


@pytest.mark.parametrize(("steps", "axis"), [([5.0], "step 5"), ([5.0, 9.0], "step 5 9")])
def test_a_map_of_a_single_check_names_its_step_once(steps, axis):
    history = {name: np.ones((len(steps), 3)) for name in PROFILES} | {"step": np.array(steps)}
    cost = {"checks": len(steps), "recorded_passes": 1, "analyses": 0}
    report = TrainingReport("healthy", (), 9, history, {"widths": [4, 4, 4, 2]}, {}, cost)
    assert axis in (line.strip() for line in str(report).splitlines())
