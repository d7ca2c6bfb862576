"""A million images on 10 to 1,000 workers: a simulation from times of tasks measured here.

    python examples/benchmarks/cluster_simulation.py                   # some minutes

First the tasks of ``anomalib_lite.distributed`` are timed on solar cells, in one thread: learning
from a chunk of 64 images, merging states, calibrating and inspecting a chunk; and what they send is
measured. Then a model hands them out as the library does: the same tree of merges, the same number
of chunks to a task. In it a worker takes the first task that is ready; one that needs results of
others fetches all but the largest from their workers, at a bandwidth, and runs there where the
largest is free soonest; every task costs the scheduler a moment, one after the other. Detectors
reach the workers in rounds, each of which doubles the number of those who have it.

Left out: reading from storage that many share, workers that are slower or lost, other traffic.
"""

import argparse
import heapq
import pickle
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import clusters

CHUNK = 64


@dataclass
class Costs:
    """Seconds of tasks in one thread, and bytes of what they send."""

    learn: float  # of a chunk
    merge: float  # of fan_in states
    finish: float  # by the client
    calibrate: float  # of a chunk
    inspect: float  # of a chunk
    state: int
    detector: int
    fan_in: int


def timed(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def measured(detector, good, new, n_images):
    """Costs of a detector, by chunks of real images."""
    from anomalib_lite.distributed.cargo import packed, pickled, unpacked

    def chunk(paths, i):
        return paths[i * CHUNK : (i + 1) * CHUNK]

    learner = detector._started()

    def learn(i):
        return packed(learner._state_of(chunk(good, i), i * CHUNK, n_images, "raise", False))

    def merge(states):
        return packed(learner.merge_states(map(unpacked, states)))

    learn(0)  # what is loaded at first
    seconds, states = zip(*(timed(lambda i=i: learn(i)) for i in range(6)), strict=True)
    fan_in = learner._fan_in
    # of states that have been merged, as most of those on the way up the tree
    merges, merged = zip(
        *(timed(lambda: merge((states * 2)[:fan_in])) for _ in range(3)), strict=True
    )
    merges, root = zip(
        *(timed(lambda: merge((merged * 3)[:fan_in])) for _ in range(3)), strict=True
    )
    whole = unpacked(merge(states))
    finish, _ = timed(lambda: detector.finish(whole))
    part = detector._calibration_groups()
    same = [path for path, group in zip(good, part, strict=False) if group == part[0]]
    some = (same * CHUNK)[:CHUNK]
    calibrate, found = timed(lambda: detector.partial_calibration(some))
    detector.finish_calibration([found])
    inspect, _ = timed(lambda: detector.inspect(chunk(new, 0), maps="network").records())
    state = max(len(pickle.dumps(each)) for each in (*states, *merged, *root))
    size = len(pickled(detector))
    return Costs(
        sorted(seconds)[3], sorted(merges)[1], finish, calibrate, inspect, state, size, fan_in
    )


class Machine:
    """Workers, their network, and their scheduler.

    Parameters
    ----------
    n_workers : int
    bandwidth : float
        Bytes a second, of each worker.
    moment : float
        Seconds of the scheduler for a task.
    """

    def __init__(self, n_workers, bandwidth, moment):
        self.n_workers, self.bandwidth, self.moment = n_workers, bandwidth, moment
        self.n_tasks = self.n_bytes = 0
        self.now = 0.0  # of the client

    def broadcast(self, n_bytes):
        """Send something to all workers."""
        rounds = max(self.n_workers, 1).bit_length()
        self.now += rounds * n_bytes / self.bandwidth
        self.n_bytes += self.n_workers * n_bytes

    def fetch(self, n_bytes):
        """Bring something to the client."""
        self.now += n_bytes / self.bandwidth
        self.n_bytes += n_bytes

    def alone(self, n_tasks, seconds):
        """Tasks that need nothing of each other."""
        each = max(seconds, self.moment * self.n_workers)  # the scheduler may be the slowest
        self.now += -(-n_tasks // self.n_workers) * each
        self.n_tasks += n_tasks

    def tree(self, n_leaves, costs):
        """Learn and merge, until the root is there; gives the end of the leaves."""
        from anomalib_lite.distributed.trees import leaves_of_a_task

        size = leaves_of_a_task(n_leaves, costs.fan_in, self.n_workers)
        inside = (size - 1) / (costs.fan_in - 1) * costs.merge
        seconds = size * costs.learn + inside
        free = [(self.now, worker) for worker in range(self.n_workers)]
        free_at, scheduler, nodes = (
            {worker: self.now for worker in range(self.n_workers)},
            self.now,
            [],
        )
        for _ in range(-(-n_leaves // size)):
            start, worker = heapq.heappop(free)
            scheduler = max(scheduler, start) + self.moment
            end = scheduler + seconds
            free_at[worker] = end
            heapq.heappush(free, (end, worker))
            nodes.append((end, worker))
        self.n_tasks += len(nodes)
        leaves_end = max(end for end, _ in nodes)
        while len(nodes) > 1:
            parents = []
            for i in range(0, len(nodes), costs.fan_in):
                children = nodes[i : i + costs.fan_in]
                if len(children) == 1:
                    parents += children
                    continue
                worker = min((worker for _, worker in children), key=free_at.get)
                moved = sum(where != worker for _, where in children) * costs.state
                ready = max(max(end for end, _ in children), free_at[worker]) + self.moment
                share = len(children) / costs.fan_in
                end = ready + moved / self.bandwidth + share * costs.merge
                free_at[worker] = end
                parents.append((end, worker))
                self.n_bytes += moved
                self.n_tasks += 1
            nodes = parents
        ((self.now, _),) = nodes
        return leaves_end


def simulate(costs, n_images, n_workers, bandwidth, moment):
    machine = Machine(n_workers, bandwidth, moment)
    n_chunks = -(-n_images // CHUNK)
    leaves = machine.tree(n_chunks, costs)
    tail = machine.now - leaves
    machine.fetch(costs.state)
    machine.now += costs.finish
    learned = machine.now
    machine.broadcast(costs.detector)
    machine.alone(n_chunks, costs.calibrate)
    fitted = machine.now
    ideal_fit = n_chunks * (costs.learn + costs.calibrate) / n_workers
    ideal_inspect = n_chunks * costs.inspect / n_workers
    n_fit, moved = machine.n_tasks, machine.n_bytes
    machine.broadcast(costs.detector)
    machine.alone(n_chunks, costs.inspect)
    return {
        "workers": f"{n_workers:,}",
        "first pass": clock(learned),
        "of it merges at the end": clock(tail),
        "second pass": clock(fitted - learned),
        "fit, of the ideal": f"{ideal_fit / fitted:.0%}",
        "inspect": clock(machine.now - fitted),
        "inspect, of the ideal": f"{ideal_inspect / (machine.now - fitted):.0%}",
        "tasks of fit": f"{n_fit:,}",
        "moved by fit, GB": f"{moved / 1e9:,.1f}",
    }


def clock(seconds):
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, default=10**6)
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--bandwidth", type=float, default=1.0, help="GB a second of a worker")
    parser.add_argument("--moment", type=float, default=1.0, help="ms of the scheduler for a task")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "false_alarm_rate=.* needs")
    with tempfile.TemporaryDirectory() as place:
        folders = clusters.write_cells(Path(place))[:2]
        good, new = (sorted(map(str, folder.iterdir())) for folder in folders)
        made = clusters.detectors(n_jobs=1)
        for name in ("PatchCore, 10,000 rows", "PaDiM"):
            costs = measured(made[name], good, new, args.images)
            print(f"\n{name}: {costs}\n", flush=True)
            rows = [
                simulate(costs, args.images, n, args.bandwidth * 1e9, args.moment / 1e3)
                for n in args.workers
            ]
            clusters.table(*rows[0])
            for each in rows:
                clusters.row(*each.values())
