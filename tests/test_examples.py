"""The programs of examples/ and of the README run, and show what they promise."""

import re
import runpy
import warnings
from pathlib import Path

import numpy as np
import pytest

import gradcore as gc

ROOT = Path(__file__).resolve().parent.parent


def example(name):
    return runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]


def test_diagnose_and_cure():
    report, remedies, history = example("diagnose_and_cure")()
    assert report.verdict == "vanishing"
    assert remedies[0].helps
    assert history["val_accuracy"][-1] > 0.9


def test_watch_training(capsys):
    losses = example("watch_training")()
    assert losses[-1] < 0.3 * losses[0]
    assert "update / weight" in capsys.readouterr().out


def test_monitor_training(capsys):
    with pytest.warns(gc.TrainingWarning, match="restored the net"):
        losses, monitor = example("monitor_training")()
    assert monitor.findings[0].since >= 150 and monitor.findings[0].cause == "learning_rate"
    assert losses[-1] < 0.5 * losses[0]
    assert "|delta| by layer and step" in capsys.readouterr().out


def test_clip_any_gradients(capsys):
    total_norm, clipped = example("clip_any_gradients")()
    assert total_norm > 1e31
    assert clipped == pytest.approx(1.0, abs=1e-5)
    assert "refused: total_norm" in capsys.readouterr().out


@pytest.mark.torch
def test_beside_torch():
    difference, clipped, norms = example("beside_torch")()
    assert difference < 1e-4
    assert clipped == pytest.approx(0.1, abs=1e-6)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.torch
def test_cure_torch_model():
    pytest.importorskip("sklearn")
    report, before, after = example("cure_torch_model")()
    assert report.verdict == "vanishing"
    assert before < 0.2 and after > 0.8


def test_without_backpropagation(capsys):
    pytest.importorskip("sklearn")
    rows = example("without_backpropagation")(depths=(1,), activations=("tanh",), rates=(3e-3,), epochs=15, seeds=1)
    assert [row["method"] for row in rows] == ["backpropagation", "with batch norm", "direct feedback"]
    assert min(row["accuracy"] for row in rows) > 0.9
    assert rows[-1]["first_angle"] < 80
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_readme_example(capsys, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    program = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    assert len(program.splitlines()) <= 22
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert out.startswith("vanishing\n")
    assert (tmp_path / "report.html").exists()
    assert float(re.findall(r"held-out accuracy ([\d.]+)%", out)[-1]) > 90.0


def test_readme_watches_a_training_without_a_warning(capsys, tmp_path, monkeypatch):
    """The cure is batch norm over 30 layers, which a last batch of five rows would harm."""
    x, labels = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    program = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    cured = gc.MLP([64] + [100] * 30 + [10], activation="selu", normalization="batch")
    given = {"gc": gc, "cured": cured, "x": x / 8 - 1, "labels": labels, "optimizer": gc.optim.SGD(cured, lr=0.01)}
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", gc.TrainingWarning)
        exec(compile(program.replace("epochs=50", "epochs=1"), "README.md", "exec"), given)
    assert capsys.readouterr().out and (tmp_path / "run.html").exists()


def test_the_guide_to_reports(capsys, rng, tmp_path, monkeypatch):
    """Its programs run, and it explains every kind of finding and every cause."""
    guide = (ROOT / "docs" / "reading-a-report.md").read_text(encoding="utf-8")
    x = rng.standard_normal((300, 6)).astype("float32")
    net = gc.MLP([6] + [16] * 10 + [2], activation="sigmoid")
    given = {"gc": gc, "net": net, "x": x, "labels": (x[:, 0] > 0).astype(int), "optimizer": gc.optim.SGD(net, lr=0.1)}
    monkeypatch.chdir(tmp_path)
    for program in re.findall(r"```python\n(.*?)```", guide, re.DOTALL):
        exec(compile(program, "reading-a-report.md", "exec"), given)
    assert "VANISHING" in capsys.readouterr().out and (tmp_path / "report.html").exists()
    assert {*gc.analysis.report.KINDS, *gc.analysis.report.CAUSES} <= set(re.findall(r"`(\w+)`", guide))


@pytest.mark.torch
def test_readme_cures_a_model_of_pytorch(rng, torch):
    program = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[2]
    hidden = [part for width in [5] + [16] * 20 for part in (torch.nn.Linear(width, 16), torch.nn.Sigmoid())]
    model = torch.nn.Sequential(*hidden, torch.nn.Linear(16, 3))
    x = rng.standard_normal((256, 5)).astype("float32")
    given = {"gc": gc, "model": model, "x": x, "labels": np.argmax(x[:, :3], axis=1)}
    given["optimizer"] = torch.optim.Adam(model.parameters(), lr=1e-3)
    exec(compile(program, "README.md", "exec"), given)
    assert given["report"].verdict == "vanishing" and "Adam" in given["report"].conditions["optimizer"]
    assert isinstance(given["cured"], torch.nn.Module)


def test_readme_opens_with_its_two_commands():
    blocks = re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    setup = "python3 -m venv .venv && .venv/bin/pip install -q"
    assert blocks[0] == f"{setup} '.[demo]' && .venv/bin/gradcore demo"
    assert blocks[1] == f"{setup} '.[test]' && .venv/bin/python -m pytest -q"
