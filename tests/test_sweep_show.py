"""A sweep as panels, text, page, figure and command."""

import json
import math
import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

import gradcore as gc
from gradcore import sweeps
from gradcore.show import sweep_html, sweep_story, sweep_text
from test_cli import run
from test_show import Checker
from test_sweep import GRID, SMALL


@pytest.fixture(scope="module")
def result():
    return gc.sweep(GRID, **SMALL)


@pytest.fixture(scope="module")
def plane():
    grid = {"weight_var": [2.0, 1.0, 3.0], "bias_var": [0.0, 0.2], "activation": ["tanh", "relu"]}
    return gc.sweep({**grid, "depth": 8, "width": 16}, **SMALL)


@pytest.fixture(params=["designs", "plane", "one"])
def shown(request, result, plane):
    one = gc.sweep({"depth": 3, "width": 4}, **SMALL) if request.param == "one" else None
    return {"designs": result, "plane": plane, "one": one}[request.param]


def test_panels_of_a_plane(plane):
    panels = sweep_story.panels(plane)
    assert [panel.title for panel in panels] == ["tanh", "relu"]
    tanh, relu = panels
    assert (tanh.x_name, tanh.xs, tanh.y_name, tanh.ys) == ("weight_var", (1.0, 2.0, 3.0), "bias_var", (0.0, 0.2))
    assert (tanh.cells[1][0]["weight_var"], tanh.cells[1][0]["bias_var"]) == (1.0, 0.2)
    assert tanh.value == "deep_gain"
    assert tanh.line[0] == pytest.approx((1.0, 0.0))
    assert relu.line[-1] == pytest.approx((2.0, 0.2))


def test_a_figure_holds_its_title_and_its_labels():
    grid = {"weight_var": [1, 1.5, 2, 2.5], "bias_var": [0, 0.1, 0.2], "activation": "tanh", "depth": 5, "width": 8}
    figure = gc.sweep(grid, **SMALL).plot()
    figure.draw_without_rendering()
    bar = figure.axes[-1].yaxis.label
    assert bar.get_text().startswith("gain")
    for text in (figure._suptitle, bar):
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_panels_of_designs(result):
    (panel,) = sweep_story.panels(result)
    assert (panel.x_name, panel.xs, panel.y_name, panel.ys) == ("depth", (3, 6), "activation", ("tanh", "sigmoid"))
    assert (panel.line, panel.value) == ((), "gain")


def test_no_line_where_theory_has_another():
    grid = {"weight_var": [1.0, 2.0], "bias_var": [0.0, 0.1], "normalization": "layer", "depth": 3, "width": 4}
    assert sweep_story.panels(gc.sweep(grid, **SMALL))[0].line == ()


def test_points_not_measured_are_left_out(result):
    part = sweeps.SweepResult(result.rows[:4], result.grid, result.settings, interrupted=True)
    (panel,) = sweep_story.panels(part)
    assert panel.cells[0][1] is None
    assert sweep_html.heat_map(panel).count("<title>") == 2
    part.plot()
    empty = sweeps.SweepResult([], result.grid, result.settings, interrupted=True)
    assert "interrupted" in str(empty)
    assert "<svg" in empty._repr_html_()


@pytest.mark.parametrize(
    ("value", "place"), [(1, 0), (2, 1), (10, 2), (6, 1.5), (0.5, -0.5), (14, 2.5), (0.4, math.nan), (14.1, math.nan)]
)
def test_position_on_an_axis_of_cells(value, place):
    np.testing.assert_equal(sweep_story.position((1, 2, 10), value), place)


def test_colours_are_full_at_a_factor_of_two():
    assert sweep_story.colour(2.0) == pytest.approx(1.0)
    assert sweep_story.colour(0.5) == pytest.approx(-1.0)
    assert (sweep_story.colour(1.0), sweep_story.colour(0.0), sweep_story.colour(1e9)) == (0.0, -1.0, 1.0)


@pytest.mark.parametrize("width", [72, 100])
def test_text_fits(shown, width):
    text = sweep_text.render(shown, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert len([line for line in text.splitlines() if re.search(r"healthy|vanishing|exploding", line)]) == len(
        shown.summary()
    )
    plain = re.sub(r"\033\[[0-9;]*m", "", sweep_text.render(shown, width=width, color=True))
    assert plain == text


def test_page_is_well_formed(shown, tmp_path):
    shown.save_html(tmp_path / "sweep.html")
    page = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.addresses == []
    assert "nan" not in re.findall(r'(?:points|x|y|width|height)="([^"]*)"', page)
    for chart in re.findall(r"<svg.*?</svg>", page):
        assert ElementTree.fromstring(chart).attrib["aria-label"]
    assert page.count('<polyline class="theory"') == sum(bool(panel.line) for panel in sweep_story.panels(shown))


def test_a_net_too_shallow_for_a_gain_is_no_alarm():
    shallow = gc.sweep({"depth": [1, 2], "seed": range(2)}, batch_size=16, progress=False)
    page = sweep_html.render(shallow)
    assert "n/a to n/a" not in page
    assert page.count(">n/a</text>") == 2 and 'rect class="bad"' not in page
    pytest.importorskip("matplotlib")
    assert [text.get_text() for text in shallow.plot().axes[0].texts] == ["n/a", "n/a"]


def test_batches_are_told_as_they_are():
    """Of 50 rows each of four batches has 12 but those under batch norm, which are drawn from all."""
    x, labels = np.random.default_rng(0).standard_normal((50, 3)), np.arange(50) % 2
    grid = {"depth": 3, "normalization": [None, "batch"]}
    told = [sweep_story.conditions(gc.sweep(grid, x, labels, batch_size=size, progress=False)) for size in (8, 32, 64)]
    assert "; 4 batches of 8, cross_entropy" in told[0]
    assert "; 4 batches of 12 and 4 batches of 32 under batch norm, cross_entropy" in told[1]
    assert "; 4 batches of 12 and 1 batch of 50 under batch norm, cross_entropy" in told[2]
    both = gc.sweep({"depth": 3, "normalization": "batch"}, x, labels, batch_size=32, progress=False)
    assert "; 4 batches of 32, cross_entropy" in sweep_story.conditions(both)


def test_titles_of_axes_lie_within_small_maps():
    few = gc.sweep({"weight_var": [1.0, 2.0], "bias_var": [0.0, 0.1]}, batch_size=16, progress=False)
    chart = ElementTree.fromstring(re.search(r"<svg.*?</svg>", sweep_html.render(few))[0])
    width, height = (float(edge) for edge in chart.attrib["viewBox"].split()[2:])
    below, beside = (next(text for text in chart.iter("text") if text.text == sweep_story.TITLES[name])
                     for name in ("weight_var", "bias_var"))  # fmt: skip
    half = 3.1 * len(below.text)
    assert half <= float(below.attrib["x"]) <= width - half
    middle, half = float(re.search(r"translate\(11 ([\d.]+)\)", beside.attrib["transform"])[1]), 3.1 * len(beside.text)
    assert half - 0.1 <= middle <= height - half + 0.1


def test_figure(shown, tmp_path):
    pytest.importorskip("matplotlib")
    figure = shown.plot()
    assert len(figure.axes) >= 2
    assert ("deeper half" in figure.axes[-1].get_ylabel()) == sweep_story.is_phase_diagram(shown)
    figure.savefig(tmp_path / "sweep.png", dpi=40)


def test_a_missing_matplotlib_says_what_to_install(monkeypatch, result):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gradcore\[plot\]'"):
        result.plot()


def test_a_net_that_overflows_is_a_cross():
    shown = gc.sweep({"depth": 60, "weight_var": 1e4, "width": 8}, **SMALL)
    assert math.isnan(sweep_story.colour(shown["gain"][0]))
    assert "&#215;" in sweep_html.render(shown)
    shown.plot()


# ---- the command -------------------------------------------------------------------------------------------


def run_sweep(capsys, *arguments):
    return run(capsys, "sweep", "--width", "8", "--batch-size", "16", *arguments)


def test_command(capsys, tmp_path):
    page, file = tmp_path / "s.html", tmp_path / "s.jsonl"
    arguments = [
        "--depth",
        "2:4:3",
        "--activation",
        "tanh, relu",
        "--normalization",
        "none,layer",
        "--residual",
        "no,yes",
    ]
    code, out, err = run_sweep(
        capsys, *arguments, "--seeds", "2", "--html", str(page), "--out", str(file), "--workers", "2"
    )
    assert code == 0
    assert out.startswith(
        "Sweep of 24 designs over depth (dense layers), activation, normalization, residual, 2 seeds each"
    )
    assert f"wrote {page}" in err
    assert page.read_text(encoding="utf-8").count("<svg") == 4
    assert len(sweeps.load(file)) == 48
    code, again, _ = run_sweep(capsys, *arguments, "--seeds", "2", "--out", str(file))
    assert (code, again) == (0, out)


def test_command_on_a_plane_and_as_data(capsys):
    code, out, _ = run_sweep(capsys, "--weight-var", "1:2:2", "--bias-var", "0,0.1", "--depth", "6", "--csv", "-")
    assert (code, len(out.splitlines())) == (0, 5)
    assert out.startswith("depth,width")
    code, out, _ = run_sweep(capsys, "--depth", "2", "--json", "-")
    assert (code, len(json.loads(out)["rows"])) == (0, 1)


def test_command_on_a_table(capsys, tmp_path):
    rows = [f"{a:.3f},{b:.3f},{a * b:.3f}" for a, b in np.random.default_rng(0).normal(size=(40, 2))]
    (tmp_path / "t.csv").write_text("a,b,product\n" + "\n".join(rows))
    code, out, _ = run_sweep(capsys, "--data", str(tmp_path / "t.csv"), "--standardize", "--depth", "3")
    assert code == 0
    assert "mse" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--depth", "3,x"], "expected whole numbers such as 5,10,20 or first:last:count, got '3,x'"),
        (["--depth", "1:4:3"], "expected whole numbers such as"),
        (["--weight-var", "1:2"], "expected numbers such as"),
        (["--activation", "rely"], "gradcore: --activation: expected one of"),
        (["--depth", "0"], "gradcore: --depth: expected a whole number from 1 to 100000, got 0"),
        (["--weight-var", "-1"], "gradcore: --weight-var: expected a finite number > 0, got -1.0"),
        (["--init", "glorot"], "gradcore: --init: expected one of 'auto', "),
        (["--normalization", "no"], "--normalization: expected one of 'none', 'batch', 'layer', 'rms', got 'no'"),
        (["--target", "a"], "--target and --standardize: expected --data as well, got none"),
        (["--csv", "."], "--csv: cannot write"),
        (["--out", "/no/such/place/s.jsonl"], "--out: cannot write"),
    ],
)
def test_command_errors_are_one_line(capsys, arguments, message):
    code, out, err = run_sweep(capsys, *arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"gradcore: [^\n]+\n", err)
    assert message in err


def test_command_interrupted(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("gradcore._status.Status.__call__", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    code, out, _ = run_sweep(capsys, "--depth", "2,3", "--out", str(tmp_path / "s.jsonl"))
    assert code == 130
    assert "interrupted" in out
