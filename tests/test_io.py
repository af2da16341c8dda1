"""save and load: exact, readable by others, atomic, and nothing but a whole gradcore file is taken."""

import json
import os
import struct

import numpy as np
import pytest

import gradcore as gc
from nets import Case, assert_same_bits, copies
from reference import Net

NETS = [
    Net((6, 9, 4), ("tanh",)),
    Net((6, 9, 9, 4), ("relu", "gelu_tanh"), "batch", residual=True),
    Net((6, 9, 9, 4), ("hard_tanh", "selu"), "rms", bias=False),
    Net((4, 3), ()),
]


def trained(net, dtype, tmp_path):
    """A net some steps away from its start, and where it was saved."""
    case = Case(net, dtype, batch_size=12)
    optimizer = gc.optim.Adam(case.mlp, lr=0.01)
    for _ in range(3):
        case.mlp.train_step(case.x, case.target, optimizer, loss="mse")
    path = tmp_path / "net.safetensors"
    case.mlp.save(path)
    return case, path


@pytest.mark.parametrize("net", NETS, ids=str)
def test_round_trip_is_exact(net, dtype, tmp_path):
    case, path = trained(net, dtype, tmp_path)
    loaded = gc.load(path)
    assert_same_bits(loaded.parameters, copies(case.mlp.parameters))
    assert_same_bits(loaded.buffers, copies(case.mlp.buffers))
    np.testing.assert_array_equal(loaded(case.x), case.mlp(case.x))
    for mlp in (loaded, case.mlp):
        mlp.loss_and_gradients(case.x, case.target, loss="mse")
    assert_same_bits(loaded.gradients, copies(case.mlp.gradients))


def test_special_values_survive(dtype, tmp_path):
    mlp = gc.MLP([3, 2], dtype=dtype.name)
    special = np.array([[0.0, -0.0, np.finfo(dtype).smallest_subnormal], [np.nan, np.inf, -np.inf]], dtype)
    mlp.parameters["dense0.weight"][...] = special
    mlp.save(tmp_path / "net.safetensors")
    loaded = gc.load(tmp_path / "net.safetensors").parameters["dense0.weight"]
    assert loaded.tobytes() == special.tobytes()


def test_the_safetensors_package_reads_it(dtype, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    case, path = trained(NETS[1], dtype, tmp_path)
    tensors = safetensors.load_file(path)
    assert_same_bits(tensors, copies(case.mlp.parameters) | copies(case.mlp.buffers))


@pytest.mark.parametrize("as_path", [str, os.fspath, lambda path: path], ids=["str", "fspath", "path"])
def test_paths(as_path, tmp_path):
    path = tmp_path / "net.safetensors"
    gc.MLP([3, 2]).save(as_path(path))
    assert gc.load(as_path(path)).depth == 1


# ---- atomic writes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash_in", ["write", "replace", "fsync"])
def test_a_crash_midway_leaves_the_old_file(crash_in, tmp_path, monkeypatch):
    old, path = trained(NETS[0], "float32", tmp_path)
    before = path.read_bytes()

    def crash(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"os.{crash_in}", crash)
    other = gc.MLP([7, 300, 5])
    with pytest.raises(OSError, match="No space left"):
        other.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name], "a temporary file was left behind"
    assert_same_bits(gc.load(path).parameters, copies(old.mlp.parameters))


def test_killed_midway_leaves_the_old_file(run_python, tmp_path):
    """The process dies without any cleanup, in the middle of writing."""
    _, path = trained(NETS[0], "float32", tmp_path)
    before = path.read_bytes()
    code = f"""
import os, gradcore as gc
os.replace = os.rename = lambda *a, **k: os._exit(0)
gc.MLP([7, 300, 5]).save({str(path)!r})
"""
    run_python(code)
    assert path.read_bytes() == before


def test_overwriting(tmp_path):
    path = tmp_path / "net.safetensors"
    gc.MLP([3, 2]).save(path)
    gc.MLP([3, 8, 8, 2]).save(path)
    assert gc.load(path).depth == 3


# ---- damaged and foreign files ---------------------------------------------------------------------------


def parts(data):
    """(header as a dictionary, bytes of the tensors) of a safetensors file."""
    (length,) = struct.unpack_from("<Q", data)
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def assembled(header, body):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def edit_header(change):
    def damage(data):
        header, body = parts(data)
        change(header)
        return assembled(header, body)

    return damage


def set_entry(**entry):
    return edit_header(lambda header: header["dense1.weight"].update(entry))


def shift_last_tensor(data, shift):
    """The last tensor starts `shift` bytes late, in a file that is as much longer."""
    header, body = parts(data)
    last = max((entry for name, entry in header.items() if name[0] != "_"), key=lambda entry: entry["data_offsets"])
    last["data_offsets"] = [offset + shift for offset in last["data_offsets"]]
    return assembled(header, (body + bytes(16))[: len(body) + shift])


def rename_tensor(header):
    header["dense9.weight"] = header.pop("dense1.weight")


def change_metadata(old, new):
    """Replaces `old` by `new` in the description of the architecture."""

    def change(header):
        architecture = header["__metadata__"]["gradcore"]
        assert old in architecture, "the damage would change nothing"
        header["__metadata__"]["gradcore"] = architecture.replace(old, new)

    return edit_header(change)


DAMAGE = {
    "empty": lambda data: b"",
    "only a length": lambda data: data[:8],
    "cut in the length": lambda data: data[:5],
    "cut in the header": lambda data: data[:40],
    "cut in the tensors": lambda data: data[:-200],
    "one byte short": lambda data: data[:-1],
    "one byte long": lambda data: data + b"\0",
    "header length beyond the file": lambda data: struct.pack("<Q", 1 << 40) + data[8:],
    "header length negative": lambda data: struct.pack("<q", -1) + data[8:],
    "header not JSON": lambda data: data[:8] + b"}" + data[9:],
    "header not UTF-8": lambda data: data[:8] + b"\xff" + data[9:],
    "header not an object": lambda data: struct.pack("<Q", 2) + b"[]",
    "no tensors": lambda data: assembled({"__metadata__": parts(data)[0]["__metadata__"]}, b""),
    "no metadata": edit_header(lambda header: header.pop("__metadata__")),
    "metadata of another program": edit_header(lambda header: header.update(__metadata__={"format": "pt"})),
    "a tensor missing": edit_header(lambda header: header.pop("dense1.weight")),
    "a tensor renamed": edit_header(rename_tensor),
    "a tensor too many": edit_header(lambda header: header.update(extra=header["dense0.bias"])),
    "another shape": set_entry(shape=[9, 4]),
    "a shape that does not fill its bytes": set_entry(shape=[4, 8]),
    "a negative shape": set_entry(shape=[-4, -9]),
    "another dtype": set_entry(dtype="I32"),
    "an unknown dtype": set_entry(dtype="F19"),
    "offsets beyond the end": set_entry(data_offsets=[10**6, 10**6 + 144]),
    "offsets reversed": set_entry(data_offsets=[144, 0]),
    "offsets missing": edit_header(lambda header: header["dense1.weight"].pop("data_offsets")),
    "a hole between tensors": lambda data: shift_last_tensor(data, 8),
    "tensors that overlap": lambda data: shift_last_tensor(data, -8),
    "an entry not an object": edit_header(lambda header: header.update({"dense1.weight": 7})),
    "an unknown activation": change_metadata("tanh", "sinh"),
    "an architecture of terabytes": change_metadata("[6, 9, 4]", "[1000000, 1000000, 4]"),
    "text": lambda data: b"width,height\n1,2\n",
    "a pickle": lambda data: b"\x80\x04\x95" + data,
    "a zip": lambda data: b"PK\x03\x04" + data,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_refused(kind, tmp_path):
    _, path = trained(NETS[0], "float32", tmp_path)
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    with pytest.raises(ValueError, match=r"net\.safetensors: "):
        gc.load(path)


def test_every_truncation_is_refused(tmp_path):
    _, path = trained(NETS[3], "float32", tmp_path)
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"net\.safetensors: "):
            gc.load(path)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        gc.load(tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError):
        gc.MLP([3, 2]).save(tmp_path / "absent" / "net.safetensors")
    with pytest.raises(IsADirectoryError):
        gc.load(tmp_path)
