"""The commands of the page "More than one machine", on two machines that Linux pretends.

    sudo python examples/benchmarks/two_machines.py          # Linux, root, iproute2; some minutes

Two network namespaces are two machines: each has its own loopback, and one cable (a veth pair)
joins them. Machine A, at the address that the page uses, runs the scheduler and a worker; machine B
runs a worker and the commands. Both see one folder. What is run is read from
``docs/distributed.md``. Then the tables are compared with those of one machine alone, byte by byte.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
A, B = "anomalib_a", "anomalib_b"
N_GOOD, N_NEW = 96, 64
PATIENCE = 60  # seconds

SEEN_BY_WORKERS = """
import json, sys, time
from distributed import Client
with Client(sys.argv[1], timeout=30) as client:
    print(json.dumps(client.run(time.process_time)))
"""


def documented(start):
    """The only command of the page that begins so."""
    text = re.sub(r"\\\n\s*", "", PAGE.read_text(encoding="utf-8"))
    (found,) = re.findall(rf"^\$ ({start}.*)$", text, re.M)
    return found


def command_on(machine, command):
    return ["ip", "netns", "exec", machine, *shlex.split(command)]


def run(command, **options):
    return subprocess.run(command, check=True, **options)


@contextmanager
def machines(address):
    """Both, joined by a cable; ``address`` is that of A."""
    other = re.sub(r"\d+$", "2", address)
    for machine in (A, B):
        run(["ip", "netns", "add", machine])
    try:
        run(["ip", "link", "add", "eth_a", "netns", A, "type", "veth", "peer", "eth_b", "netns", B])
        for machine, link, place in ((A, "eth_a", address), (B, "eth_b", other)):
            for words in (
                f"addr add {place}/24 dev {link}",
                f"link set {link} up",
                "link set lo up",
            ):
                run(command_on(machine, f"ip {words}"))
        yield
    finally:
        for machine in (A, B):
            run(["ip", "netns", "del", machine])


@contextmanager
def service(machine, command, folder, log):
    """A command that runs for as long as the context."""
    with open(log, "w") as file:
        process = subprocess.Popen(
            command_on(machine, command), cwd=folder, stdout=file, stderr=file
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(PATIENCE)


def bytes_received(machine, link):
    shown = run(command_on(machine, f"ip -s -j link show {link}"), capture_output=True)
    return json.loads(shown.stdout)[0]["stats64"]["rx"]["bytes"]


def write_cells(folder):
    from PIL import Image

    from anomalib_lite.data import load_elpv

    data = load_elpv(n_train=N_GOOD)
    for name, images in (("good", data.train), ("new", data.test[:: len(data.test) // N_NEW])):
        (folder / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{i:04}.png")


def timed(command, folder, codes=(0,)):
    """Run a command, and print it with its time."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    print(f"{seconds:6.1f} s  exit {done.returncode}  {shlex.join(command)}", flush=True)
    assert done.returncode in codes, done


def main(folder):
    fit, inspect = (documented(f"anomalib-lite {name} .*--cluster") for name in ("fit", "inspect"))
    url = re.search(r"--cluster (\S+)", fit)[1]
    address = re.search(r"//(.*):", url)[1]
    os.environ.update(word.split("=") for word in shlex.split(documented("export"))[1:])
    write_cells(folder)
    with ExitStack() as stack:
        stack.enter_context(machines(address))
        for name, machine, command in (
            ("scheduler", A, documented("dask scheduler")),
            ("worker_a", A, documented("dask worker")),
            ("worker_b", B, documented("dask worker")),
        ):
            stack.enter_context(service(machine, command, folder, folder / f"{name}.log"))
            print(f"{machine}: {command}")
        names = [run(command_on(each, "ip -4 -br addr"), capture_output=True) for each in (A, B)]
        print("".join(each.stdout.decode() for each in names))
        timed(command_on(B, fit), folder)
        timed(command_on(B, inspect), folder, codes=(0, 1))
        asked = command_on(
            B, f"{shlex.quote(sys.executable)} -c {shlex.quote(SEEN_BY_WORKERS)} {url}"
        )
        busy = json.loads(run(asked, capture_output=True).stdout)
        for worker, seconds in busy.items():
            print(f"{worker}: {seconds:.1f} s of a processor")
        to_b, to_a = bytes_received(B, "eth_b"), bytes_received(A, "eth_a")
        print(f"over the cable: {to_b / 1e6:.1f} MB to B, {to_a / 1e6:.1f} MB to A")
    assert len(busy) == 2 and len({worker.rpartition(":")[0] for worker in busy}) == 2

    table = re.search(r"--csv (\S+)", inspect)[1]
    alone = re.sub(r" --cluster \S+", "", inspect).replace(table, "here.csv")
    timed(shlex.split(alone), folder, codes=(0, 1))
    again = fit.replace(f"--cluster {url}", "--workers 1").replace("part.alite", "again.alite")
    timed(shlex.split(again), folder)
    of_again = alone.replace("part.alite", "again.alite").replace("here.csv", "again.csv")
    timed(shlex.split(of_again), folder, codes=(0, 1))
    for other, what in (("here.csv", "inspected alone"), ("again.csv", "fitted by one worker")):
        same = (folder / table).read_bytes() == (folder / other).read_bytes()
        print(f"{table} and {other}, {what}: {'the same bytes' if same else 'NOT THE SAME'}")
        assert same


if __name__ == "__main__":
    if not (sys.platform == "linux" and os.geteuid() == 0):
        sys.exit("needs Linux, root and iproute2")
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
