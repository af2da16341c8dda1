"""Threads change the time, never the bits; forks and other Python threads are safe."""

import contextlib
import multiprocessing
import pickle
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import gradcore as gc
from nets import Case, assert_same_bits, copies
from reference import Net

NETS = {
    "small": (Net((6, 9, 9, 4), ("relu", "gelu")), 13),
    "odd": (Net((37, 129, 65, 10), ("tanh", "silu"), "layer", residual=True), 301),
    "wide": (Net((64, 300, 300, 10), ("relu", "relu"), "rms", residual=True), 257),
    "batch norm": (Net((33, 70, 70, 70, 5), ("relu", "gelu", "tanh"), "batch", residual=True), 190),
    "few rows": (Net((70,) * 12 + (3,), ("tanh",) * 11), 5),
    "few rows, batch norm": (Net((64,) * 9 + (3,), ("tanh", "relu") * 4, "batch"), 13),
    "few rows, wide": (Net((300, 300, 300, 10), ("relu", "gelu"), "batch", residual=True), 40),
    "deep": (Net((32,) * 30 + (3,), ("tanh",) * 29, "batch"), 96),
    "linear": (Net((500, 10), ()), 333),
    "many rows": (Net((20, 40, 40, 10), ("gelu", "tanh"), "layer", residual=True), 1111),
    "many more rows": (Net((30, 90, 90, 90, 10), ("relu", "silu", "tanh")), 5001),
    "many groups": (Net((7, 20, 20, 5), ("elu", "tanh"), "layer"), 17001),
    "weights larger than the cache": (Net((300, 1100, 1100, 10), ("relu", "tanh")), 70),
    "larger than the cache": (Net((200, 600, 600, 10), ("gelu", "relu"), "layer"), 2500),
    "batch norm, larger than the cache": (Net((200, 400, 400, 400, 10), ("relu",) * 3, "batch"), 900),
}
THREADS = [1, 2, 3, 7]


def train(name, dtype, steps=2, before=lambda step: None):
    """Everything that training leaves behind, bit for bit. Calls before(step) before each step."""
    net, batch_size = NETS[name]
    case = Case(net, dtype, batch_size, loss="cross_entropy")
    optimizer = gc.optim.Adam(case.mlp, lr=0.01)
    results = {}
    for step in range(steps):
        before(step)
        result = case.mlp.train_step(case.x, case.target, optimizer, loss="cross_entropy", clip_norm=1.0, record=True)
        results[f"step{step}"] = np.array([result.loss, result.total_norm])
    for field, value in case.mlp.flow.to_dict().items():
        results[f"flow.{field}"] = np.asarray(value)
    grads = {f"gradient.{name}": value for name, value in copies(case.mlp.gradients).items()}
    return results | grads | copies(case.mlp.parameters) | copies(case.mlp.buffers) | {"output": case.mlp(case.x)}


@pytest.mark.parametrize("compute_dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("name", NETS)
def test_same_bits_with_any_number_of_threads(name, compute_dtype, num_threads):
    num_threads(1)
    alone = train(name, compute_dtype)
    for count in THREADS[1:]:
        num_threads(count)
        assert gc.get_num_threads() == count
        assert_same_bits(train(name, compute_dtype), alone)


def test_same_bits_with_any_number_of_threads_on_every_target(target, num_threads):
    num_threads(1)
    alone = train("batch norm", "float32")
    num_threads(3)
    assert_same_bits(train("batch norm", "float32"), alone)


@pytest.mark.parametrize("name", NETS)
def test_same_bits_if_the_number_changes_from_call_to_call(name, num_threads):
    num_threads(1)
    alone = train(name, "float32", steps=7)
    counts = (2, 1, 3, 7, 1, 2, 7)
    assert_same_bits(train(name, "float32", steps=7, before=lambda step: num_threads(counts[step])), alone)


def test_backward_with_another_number_than_forward(num_threads):
    def gradients(*counts):
        case = Case(NETS["deep"][0], "float32", 96, loss="cross_entropy")
        num_threads(counts[0])
        out = case.mlp.forward(case.x, training=True)
        num_threads(counts[1])
        case.mlp.backward(out)
        return copies(case.mlp.gradients)

    alone = gradients(1, 1)
    for counts in ((1, 3), (3, 1), (2, 7)):
        assert_same_bits(gradients(*counts), alone)


def test_same_bits_every_time(num_threads):
    num_threads(3)
    first = train("odd", "float32")
    for _ in range(10):
        assert_same_bits(train("odd", "float32"), first)


def test_two_nets_from_two_python_threads(num_threads):
    num_threads(2)
    names = ["odd", "batch norm", "wide"]
    alone = {name: train(name, "float32", steps=5) for name in names}
    together, errors = {}, []
    barrier = threading.Barrier(len(names))

    def work(name):
        barrier.wait()
        try:
            for _ in range(3):
                together[name] = train(name, "float32", steps=5)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for name in names:
        assert_same_bits(together[name], alone[name])


WITHOUT_THE_GIL = {
    "forward": lambda net, optimizer, x, y: net(x),
    "step": lambda net, optimizer, x, y: net.train_step(x, y, optimizer),
    "update": lambda net, optimizer, x, y: optimizer.step(),
    "op": lambda net, optimizer, x, y: gc.ops.activation(x, "gelu"),
    "clip": lambda net, optimizer, x, y: gc.clip_grad_norm_(x, 1e9),
    "file": lambda net, optimizer, x, y: pickle.dumps(net),
}


@pytest.mark.parametrize("call", WITHOUT_THE_GIL)
def test_other_python_threads_run_during_a_call(call):
    """They never get a turn by time here, only while a call has released the interpreter."""
    net = gc.MLP([300, 500, 500, 10])
    optimizer, x, y = gc.optim.Adam(net), np.ones((500, 300), "float32"), np.zeros(500, int)
    inside, seen, ended = [False], [False], [False]

    def work():
        for _ in range(500):
            inside[0] = True
            WITHOUT_THE_GIL[call](net, optimizer, x, y)
            inside[0] = False
            if seen[0]:
                break
        ended[0] = True

    interval, worker = sys.getswitchinterval(), threading.Thread(target=work)
    sys.setswitchinterval(1000)
    try:
        worker.start()
        while not ended[0]:
            seen[0] |= inside[0]
            time.sleep(0)
        worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert seen[0]


def test_one_net_from_two_python_threads_is_an_error_or_in_turn(num_threads):
    """Whatever the second caller gets, an error or its turn, the net is not corrupted."""
    num_threads(2)
    net, _ = NETS["odd"]
    case = Case(net, "float32", 2000, loss="cross_entropy")
    case.mlp.loss_and_gradients(case.x, case.target)
    expected = copies(case.mlp.gradients)
    refusals = []

    def work():
        for _ in range(20):
            try:
                case.mlp.loss_and_gradients(case.x, case.target)
            except ValueError as error:
                refusals.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("thread" in text for text in refusals)
    assert_same_bits(case.mlp.gradients, expected)


DAEMONS = """
import threading
import numpy as np
import gradcore as gc

net, x, begun = gc.MLP([8, 8, 8]), np.ones((8, 8), "float32"), threading.Event()

def work(call):
    while True:
        call()
        begun.set()

for call in (lambda: net(x), lambda: gc.ops.activation(x, "tanh")):
    begun.clear()
    threading.Thread(target=work, args=(call,), daemon=True).start()
    begun.wait()
"""


def test_python_ends_while_daemon_threads_are_in_calls(run_python):
    """Before Python 3.14 it unwinds threads that want the interpreter back then, which must not end the process."""
    for _ in range(3):
        run_python(DAEMONS)


def _train_in_child(queue):
    queue.put(train("odd", "float32")["output"].tobytes())


def test_a_forked_child_works(num_threads):
    num_threads(2)
    expected = train("odd", "float32")["output"].tobytes()  # the pool's threads are running now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork with threads
        children = [context.Process(target=_train_in_child, args=(queue,)) for _ in range(2)]
        for child in children:
            child.start()
    assert [queue.get(timeout=60) for _ in children] == [expected] * 2
    for child in children:
        child.join(timeout=60)
        assert child.exitcode == 0
    assert train("odd", "float32")["output"].tobytes() == expected  # the parent's pool still works


def _train_busy_net(net, x, labels, queue):
    try:
        net.loss(x, labels)
    except ValueError as error:
        queue.put(str(error))


def test_a_net_in_use_at_the_fork_says_so(rng):
    """Its lock belongs to a thread that the child does not have."""
    net = gc.MLP([64, 256, 256, 8])
    x, labels = rng.standard_normal((64, 64)).astype("float32"), np.zeros(64, int)
    stop, context = threading.Event(), multiprocessing.get_context("fork")
    queue = context.Queue()

    def keep_busy():
        while not stop.is_set():
            with contextlib.suppress(ValueError):
                net.loss_and_gradients(x, labels)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            for _ in range(50):
                child = context.Process(target=_train_busy_net, args=(net, x, labels, queue))
                child.start()
                child.join(timeout=60)
                if not queue.empty():
                    break
    finally:
        stop.set()
        busy.join()
    assert "when this process was forked" in queue.get(timeout=10)
    net.loss(x, labels)  # the parent's is as it was


# ---- the pool ----------------------------------------------------------------------------------------------

# Programs of their own: `asleep(before)` waits until all threads started since sleep, and returns them.
ASLEEP = """
import os, time
tasks = lambda: set(os.listdir("/proc/self/task"))

def state(task):
    try:
        return open(f"/proc/self/task/{task}/stat").read().rpartition(")")[2].split()[0]
    except OSError:
        return "ended"

def asleep(before):
    for _ in range(3000):
        started = tasks() - before
        if all(state(task) == "S" for task in started):
            return started
        time.sleep(0.01)
    raise TimeoutError("a worker spins on")
"""
POOL = """
import threading
import numpy as np
before = tasks()
import gradcore as gc
gc.set_num_threads(3)

def work(seed):
    net = gc.MLP([100, 200, 200, 10], seed=seed)
    for _ in range(20):
        net.loss_and_gradients(np.ones((256, 100), "f"), np.zeros(256, int))

callers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
print(len(asleep(before)))
"""


def test_callers_at_once_share_one_pool_that_sleeps_after_them(run_python):
    """Two workers however many call, and none of them spins on."""
    assert run_python(ASLEEP + POOL) == "2"


LIMITED = """
{}
gc.set_num_threads(2)
pool, = (entry for entry in threadpoolctl.threadpool_info() if entry["user_api"] == "gradcore")
print(pool["num_threads"], pool["version"] == gc.__version__, pool["filepath"].startswith(gc.get_library_dir()))
with threadpoolctl.threadpool_limits(1):
    print(gc.get_num_threads())
with threadpoolctl.threadpool_limits(1, user_api="gradcore"):
    print(gc.get_num_threads())
with threadpoolctl.threadpool_limits(1, user_api="blas"):
    print(gc.get_num_threads())
print(gc.get_num_threads())
"""


@pytest.mark.parametrize("modules", [("gradcore as gc", "threadpoolctl"), ("threadpoolctl", "gradcore as gc")])
def test_threadpoolctl_limits_it(modules, run_python):
    """Whichever is imported first."""
    pytest.importorskip("threadpoolctl", minversion="3.2")
    imports = "\n".join(f"import {module}" for module in modules)
    assert run_python(LIMITED.format(imports)).split() == ["2", "True", "True", "1", "1", "2", "2"]


def test_a_fork_right_after_import_works(run_python):
    code = """
import os
import numpy as np
import gradcore as gc
gc.set_num_threads(2)
child = os.fork()
gc.MLP([64, 300, 10]).loss_and_gradients(np.ones((512, 64), "f"), np.zeros(512, int))
if child == 0:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(code, OPENBLAS_NUM_THREADS="1") == "7"


# ---- environment and settings -----------------------------------------------------------------------------

SHOW_THREADS = "import gradcore as gc; print(gc.get_num_threads())"
SHOW_TARGET = "import gradcore as gc; print(gc.cpu_info()['target'])"


def test_gradcore_num_threads_wins_over_omp(run_python):
    assert run_python(SHOW_THREADS, GRADCORE_NUM_THREADS="3", OMP_NUM_THREADS="5") == "3"


def test_omp_num_threads(run_python):
    assert run_python(SHOW_THREADS, GRADCORE_NUM_THREADS="", OMP_NUM_THREADS="5") == "5"


def test_default_is_the_cpus_of_this_process(run_python):
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n" + SHOW_THREADS
    assert run_python(code, GRADCORE_NUM_THREADS="", OMP_NUM_THREADS="") == "1"


WORKERS_MAY_RUN_ON = """
import os
cpus = set(sorted(os.sched_getaffinity(0))[:{}])
os.sched_setaffinity(0, cpus)
import numpy as np
import gradcore as gc
tasks = lambda: set(os.listdir("/proc/self/task"))
before = tasks()
gc.set_num_threads(4)
gc.MLP([100, 100, 10]).loss_and_gradients(np.ones((256, 100), "f"), np.zeros(256, int))
workers = tasks() - before
print(len(workers), all(os.sched_getaffinity(int(task)) == cpus for task in workers | before))
"""


@pytest.mark.parametrize("cpus", [1, 2])
def test_workers_may_run_wherever_the_process_may(cpus, run_python):
    """They leave their maker's CPU as they start, and nothing of that remains."""
    assert run_python(WORKERS_MAY_RUN_ON.format(cpus)) == "3 True"


SMALL_TEAM = """
import numpy as np
import gradcore as gc

def sleeps(task):  # how often it has begun to
    status = open(f"/proc/self/task/{task}/status").read().split()
    return int(status[status.index("voluntary_ctxt_switches:") + 1])

net = gc.MLP([64, 64, 64, 10])
def run(rows):
    net.loss_and_gradients(np.ones((rows, 64), "f"), np.zeros(rows, int))

before = tasks()
gc.set_num_threads(8)
run(2000)
workers = asleep(before)
gc.set_num_threads(2)
first = {worker: sleeps(worker) for worker in workers}
for _ in range(20):
    run(200)
    time.sleep(0.002)
asleep(before)
print(len(workers), sum(sleeps(worker) > first[worker] for worker in workers))
"""


def test_a_small_team_leaves_the_other_workers_asleep(run_python):
    assert run_python(ASLEEP + SMALL_TEAM) == "7 1"


def test_set_num_threads_wins_over_the_environment(run_python):
    code = "import gradcore as gc; gc.set_num_threads(4); print(gc.get_num_threads())"
    assert run_python(code, GRADCORE_NUM_THREADS="3") == "4"


THREADS_FROM = "import gradcore as gc; print(gc.cpu_info()['threads_from'])"


@pytest.mark.parametrize(
    ("source", "own", "omp", "before"),
    [
        ("GRADCORE_NUM_THREADS", "3", "5", ""),
        ("OMP_NUM_THREADS", "many", "5,2", ""),
        ("set_num_threads", "3", "", "import gradcore; gradcore.set_num_threads(2)"),
        ("CPU affinity", "", "-1", "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"),
    ],
)
def test_what_decided_the_number_of_threads(source, own, omp, before, run_python):
    """One CPU is never more than a cgroup's quota, which is rounded up."""
    code = f"{before}\n{THREADS_FROM}"
    assert run_python(code, GRADCORE_NUM_THREADS=own, OMP_NUM_THREADS=omp) == source


@pytest.mark.parametrize("value", ["0", "-2", "many", "1e9", "3.5", "2x", "2;3", ",3", " "])
def test_unusable_environment_falls_back(run_python, value):
    """As a whole: 3.5 is not 3."""
    assert run_python(SHOW_THREADS, GRADCORE_NUM_THREADS=value, OMP_NUM_THREADS="5") == "5"
    assert int(run_python(SHOW_THREADS, GRADCORE_NUM_THREADS="", OMP_NUM_THREADS=value)) >= 1


@pytest.mark.parametrize("value", ["6,2", " 6 , 2", "6\n", "+6"])
def test_the_first_number_of_a_list_counts(run_python, value):
    assert run_python(SHOW_THREADS, GRADCORE_NUM_THREADS="", OMP_NUM_THREADS=value) == "6"


def test_target_of_the_environment(run_python, target):
    assert run_python(SHOW_TARGET, GRADCORE_TARGET=target) == target


@pytest.mark.parametrize("bad", [0, -1, 2.5, "two", None, True])
def test_set_num_threads_refuses(bad):
    before = gc.get_num_threads()
    with pytest.raises((ValueError, TypeError), match="num_threads"):
        gc.set_num_threads(bad)
    assert gc.get_num_threads() == before
