"""save and load: exact, readable by others, atomic; anything but a complete gradcore file is refused."""

import copy
import errno
import json
import os
import pickle
import struct

import numpy as np
import pytest

import gradcore as gc
from gradcore.io import from_bytes
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


@pytest.mark.parametrize("net", NETS, ids=str)
def test_every_byte_is_as_described(net, dtype, tmp_path):
    """The format once more, in Python."""
    case, path = trained(net, dtype, tmp_path)
    tensors = dict(sorted({**case.mlp.parameters, **case.mlp.buffers}.items()))
    header, end = {"__metadata__": {"gradcore": json.dumps({"version": 1, **case.mlp.config})}}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": f"F{8 * tensor.itemsize}", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(tensor.astype(tensor.dtype.newbyteorder("<")).tobytes() for tensor in tensors.values())
    assert path.read_bytes() == struct.pack("<Q", len(text)) + text + body


def test_any_order_and_spelling_of_the_header_is_read(tmp_path):
    case, path = trained(NETS[1], "float32", tmp_path)
    header, body = parts(path.read_bytes())
    architecture = json.loads(header["__metadata__"]["gradcore"])
    reordered = dict(reversed(header.items()))
    reordered["__metadata__"] = {
        "by": "h\u00e9 \U0001f600",
        "gradcore": json.dumps(dict(reversed(architecture.items()))),
    }
    text = json.dumps(reordered, indent=2, ensure_ascii=False).replace("dense0.weight", "d\\u0065nse0.weight").encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    loaded = gc.load(path)
    assert_same_bits(loaded.parameters, copies(case.mlp.parameters))
    assert loaded.config == case.mlp.config


@pytest.mark.parametrize("seed", [0, None, 2**64 - 1, 10**30])
def test_the_origin_is_kept(seed, tmp_path):
    path = tmp_path / "net.safetensors"
    gc.MLP([3, 2], init="he_normal", seed=seed).save(path)
    assert gc.load(path).config["seed"] == seed and gc.load(path).config["init"] == "he_normal"
    gc.MLP([3, 2], init=lambda shape, rng: np.ones(shape), seed=seed).save(path)
    assert gc.load(path).config["init"] == "custom"


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


# Other failures of the system (a disk that is full, a flush that fails): tests/cpp/test_io.cpp.

SMALL_DISK = """
import os, resource, signal
import gradcore as gc
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # no file may grow beyond it
"""


def test_a_failed_write_leaves_the_old_file(run_python, tmp_path):
    old, path = trained(NETS[0], "float32", tmp_path)
    before = path.read_bytes()
    code = f"""{SMALL_DISK}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    gc.MLP([7, 300, 5]).save({str(path)!r})
except OSError as error:
    print(error.errno, error.filename == {str(path)!r})
"""
    assert run_python(code) == f"{errno.EFBIG} True"
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name], "a temporary file was left behind"
    assert_same_bits(gc.load(path).parameters, copies(old.mlp.parameters))


def test_killed_midway_leaves_the_old_file(run_python, tmp_path):
    """The process dies without any cleanup, in the middle of writing."""
    _, path = trained(NETS[0], "float32", tmp_path)
    before = path.read_bytes()
    code = f"""{SMALL_DISK}
if os.fork() == 0:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    gc.MLP([7, 300, 5]).save({str(path)!r})
    os._exit(0)
print(os.WTERMSIG(os.wait()[1]) == signal.SIGXFSZ)
"""
    assert run_python(code) == "True"
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2, "the process was not killed while it wrote"


def test_what_cannot_be_replaced_is_left(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        gc.MLP([3, 2]).save(tmp_path / "folder")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_link_leads_to_what_is_replaced(tmp_path):
    target, link = tmp_path / "run7.safetensors", tmp_path / "latest"
    gc.MLP([3, 2]).save(target)
    link.symlink_to(target.name)
    gc.MLP([3, 8, 2]).save(link)
    assert link.is_symlink() and gc.load(target).depth == 2
    target.unlink()
    (tmp_path / "newest").symlink_to(link)
    gc.MLP([3, 2]).save(tmp_path / "newest")  # to a link to a link, which leads to nothing yet
    assert link.is_symlink() and gc.load(target).depth == 1


def test_links_in_a_circle_are_refused(tmp_path):
    for name, other in ("one", "two"), ("two", "one"):
        (tmp_path / name).symlink_to(other)
    with pytest.raises(OSError, match="symbolic links") as error:
        gc.MLP([3, 2]).save(tmp_path / "one")
    assert error.value.errno == errno.ELOOP and (tmp_path / "one").is_symlink()


@pytest.fixture
def terminal():
    """A device that nobody else has: one that is replaced after all must not be the machine's."""
    controller, device = os.openpty()
    yield os.ttyname(device)
    os.close(controller)
    os.close(device)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_are_not_replaced(kind, terminal, tmp_path):
    path = tmp_path / "there"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(terminal)
    before = path.stat()
    with pytest.raises(OSError, match="not a regular file") as error:
        gc.MLP([3, 2]).save(path)
    assert error.value.errno == errno.EINVAL
    assert path.stat().st_ino == before.st_ino and [entry.name for entry in tmp_path.iterdir()] == ["there"]


def test_permissions_are_kept(tmp_path):
    path = tmp_path / "net.safetensors"
    gc.MLP([3, 2]).save(path)
    path.chmod(0o640)
    gc.MLP([3, 2]).save(path)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_root_leaves_files_to_their_owners(tmp_path):
    path = tmp_path / "net.safetensors"
    gc.MLP([3, 2]).save(path)
    os.chown(path, 1234, 5678)
    gc.MLP([3, 2]).save(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 5678)


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


def edit_text(old, new):
    """Replaces `old` by `new` in the header's text; where `old` ends an entry's name, `new` comes before it."""

    def damage(data):
        (length,) = struct.unpack_from("<Q", data)
        text = data[8 : 8 + length]
        assert old in text, "the damage would change nothing"
        text = text.replace(old, new + old if old.endswith(b":") else new, 1)
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return damage


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
    "more layers than tensors": change_metadata("[6, 9, 4]", str([1] * 10**5)),
    "an architecture of negative widths": change_metadata("[6, 9, 4]", "[6, -9, 4]"),
    "a width beyond 64 bits": change_metadata("[6, 9, 4]", "[6, 99999999999999999999, 4]"),
    "a fraction as a width": change_metadata("[6, 9, 4]", "[6, 9.0, 4]"),
    "another version": change_metadata('"version": 1', '"version": 2'),
    "an entry of the architecture missing": change_metadata('"residual": false, ', ""),
    "an entry of the architecture twice": change_metadata('"residual": false, ', '"residual": false, ' * 2),
    "a flag that is a number": change_metadata('"residual": false', '"residual": 0'),
    "a negative seed": change_metadata('"seed": 0', '"seed": -1'),
    "no name of an initializer": change_metadata('"init": "auto"', '"init": ""'),
    "a tensor twice": edit_text(b'"dense0.bias":', b'"dense0.bias":{"dtype":"F32","shape":[9],"data_offsets":[0,36]},'),
    "an offset with a leading zero": edit_text(b"[0,36]", b"[00,36]"),
    "a header with a comma too many": edit_text(b'{"__metadata__"', b'{,"__metadata__"'),
    "a header that ends within a string": lambda data: struct.pack("<Q", 10) + data[8:],
    "half of a surrogate pair": edit_text(b'"dense0.bias"', b'"\\ud83d"'),
    "an unknown escape": edit_text(b'"dense0.bias"', b'"\\x41"'),
    "a control character in a name": edit_text(b'"dense0.bias"', b'"dense0\nbias"'),
    "an overlong UTF-8 sequence": edit_text(b'"dense0.bias"', b'"\xc0\xaf"'),
    "a name of a megabyte": edit_text(b'"dense0.bias"', b'"' + b"x" * 10**6 + b'"'),
    "deep nesting": edit_text(b'"dense0.bias":', b'"a":' + b"[" * 10**6),
    "a pickle": lambda data: b"\x80\x04\x95" + data,
    "a zip": lambda data: b"PK\x03\x04" + data,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_refused(kind, tmp_path):
    _, path = trained(NETS[0], "float32", tmp_path)
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    with pytest.raises(ValueError, match=r"net\.safetensors: "):
        gc.load(path)


def test_memory_and_file_are_refused_alike(tmp_path):
    """Text out of a file is no text for a message: every one must still be readable."""
    _, path = trained(NETS[0], "float32", tmp_path)
    data = path.read_bytes()
    for damage in DAMAGE.values():
        with pytest.raises(ValueError, match=r"^[ -~]{20,}$"):
            from_bytes(damage(data))


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
    with pytest.raises(ValueError, match="null byte"):
        gc.load("a\0b")


# ---- optimizers ------------------------------------------------------------------------------------------------

OPTIMIZERS = [
    lambda net: gc.optim.SGD(net, lr=0.05),
    lambda net: gc.optim.SGD(net, lr=0.05, momentum=0.9, nesterov=True),
    lambda net: gc.optim.RMSprop(net, lr=0.01, momentum=0.5),
    lambda net: gc.optim.AdamW(net, lr=0.01),
]


@pytest.mark.parametrize("make", OPTIMIZERS, ids=["sgd", "momentum", "rmsprop", "adamw"])
@pytest.mark.parametrize("net", NETS, ids=str)
def test_training_goes_on_from_files_to_the_bit(net, make, dtype, tmp_path):
    case = Case(net, dtype, batch_size=12)
    optimizer, path = make(case.mlp), tmp_path / "optimizer.safetensors"
    for step in range(10):
        if step == 5:
            case.mlp.save(tmp_path / "net.safetensors")
            optimizer.save(path)
        case.mlp.train_step(case.x, case.target, optimizer, loss="mse")
    loaded = gc.load(tmp_path / "net.safetensors")
    again = make(loaded)
    again.load(path)
    assert again.step_count == 5
    for _ in range(5):
        loaded.train_step(case.x, case.target, again, loss="mse")
    assert_same_bits(loaded.parameters, copies(case.mlp.parameters))
    assert_same_bits(loaded.buffers, copies(case.mlp.buffers))


def test_the_state_of_another_optimizer_is_refused_and_changes_nothing(tmp_path):
    case, path = Case(NETS[0], "float32", batch_size=12), tmp_path / "optimizer.safetensors"
    optimizer = gc.optim.Adam(case.mlp, lr=0.01)
    case.mlp.train_step(case.x, case.target, optimizer, loss="mse")
    optimizer.save(path)
    data = path.read_bytes()
    with pytest.raises(ValueError, match="expected the state of an optimizer of kind sgd, got 'adam'"):
        gc.optim.SGD(case.mlp, lr=0.1).load(path)
    with pytest.raises(ValueError, match=r"dense0.weight: expected shape \[9, 5\]"):
        gc.optim.Adam(gc.MLP([5, 9, 4])).load(path)
    case.mlp.save(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="not the file of an optimizer"):
        optimizer.load(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="not a gradcore file"):
        gc.load(path)
    before = [state.copy() for state in optimizer._core.states()]
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"optimizer\.safetensors: .*expected"):
            optimizer.load(path)
    assert optimizer.step_count == 1
    assert all((a == b).all() for a, b in zip(before, optimizer._core.states(), strict=True))
    with pytest.raises(FileNotFoundError):
        optimizer.load(tmp_path / "none")


@pytest.mark.parametrize(("step", "loads"), [(0, True), (2**53, True), (2**53 + 1, False), (-1, False)])
def test_a_file_counts_as_many_steps_as_an_optimizer_does(step, loads, tmp_path):
    """So that what was loaded can be given to load_state_dict again."""
    optimizer, path = gc.optim.Adam(gc.MLP([5, 4]), lr=0.01), tmp_path / "optimizer.safetensors"
    optimizer.save(path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(b'step\\": 0', b'step\\": %d' % step)
    assert str(step).encode() in header
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    if not loads:
        with pytest.raises(ValueError, match="metadata: expected"):
            optimizer.load(path)
        assert optimizer.step_count == 0
        return
    optimizer.load(path)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.step_count == step


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda tensors: pickle.loads(pickle.dumps(tensors))])
@pytest.mark.parametrize("name", ["parameters", "gradients", "buffers"])
def test_copies_of_tensors_hold_the_values_of_their_moment(name, duplicate):
    net = gc.MLP([3, 4, 2], normalization="batch")
    tensors = getattr(net, name)
    tensors.flat[...] = 1
    before = duplicate(tensors)
    tensors.flat[...] = 2
    assert type(before) is type(tensors) and list(before) == list(tensors)
    for key, values in before.items():
        assert values.shape == tensors[key].shape and (values == 1).all()
    before.flat[...] = 3
    assert (tensors.flat == 2).all()
