"""The one gradient loop of the library: for one network, or for several that take turns."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ..runtime import progress, seeded
from ..validation import check_choice, check_number

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
}
SCHEDULES = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
ON_INTERRUPT = ("raise", "finish")


@dataclass(frozen=True)
class Objective:
    """What one optimizer lowers.

    Parameters
    ----------
    loss : callable (index, generator) -> torch.Tensor of shape ()
        The mean loss of the samples ``index`` (a tensor of ints on the CPU); whatever is random
        about it is drawn from ``generator`` (the CPU's). With ``bounded``, a pair of losses.
    parameters : iterable of nn.Parameter
        Those that move; parameters without ``requires_grad`` are passed over.
    name : str, default="loss"
        In the history.
    optimizer : str, callable or None, default=None
    learning_rate : float or None, default=None
        None takes what :func:`train` is given.
    watched : callable (index, generator) or None, default=None
        What is taken of held-out samples in place of ``loss``.
    bounded : float or None, default=None
        Weight of the second loss of a pair, which has its say but not the last word: see
        :func:`bounded_sum`. The history has the first loss.
    """

    loss: Callable
    parameters: object
    name: str = "loss"
    optimizer: object = None
    learning_rate: float | None = None
    watched: Callable | None = None
    bounded: float | None = None


def split_off(n_samples, share, generator):
    """(index of the samples to train on, of those held out): ``share`` of them, drawn at random.

    Examples
    --------
    >>> [len(part) for part in split_off(50, 0.1, torch.Generator().manual_seed(0))]
    [45, 5]
    """
    order = torch.randperm(n_samples, generator=generator, device="cpu")
    n_held_out = round(share * n_samples)
    return order[n_held_out:], order[:n_held_out]


def bounded_sum(first, second, weight=1.0):
    r"""Gradients ``first`` plus ``second``, as far as these are no larger.

    .. math:: g = g_1 + w \min(1, \|g_1\| / \|g_2\|) \, g_2

    with norms over all tensors together.

    Parameters
    ----------
    first, second : sequence of torch.Tensor
        Of the same shapes.
    weight : float, default=1.0
        :math:`w`.

    Returns
    -------
    gradients : list of torch.Tensor

    References
    ----------
    M. I. Belghazi et al., "Mutual Information Neural Estimation", ICML 2018, on adaptive clipping.

    Examples
    --------
    >>> bounded_sum([torch.tensor([3.0, 0.0])], [torch.tensor([0.0, 12.0])])
    [tensor([3., 3.])]
    """
    size, other = (torch.cat([g.flatten() for g in each]).norm() for each in (first, second))
    factor = weight * (size / other).nan_to_num(1.0).clamp_max(1.0)
    return [a + factor * b for a, b in zip(first, second, strict=True)]


def train(
    objectives,
    modules,
    samples,
    *,
    device,
    generator,
    epochs=None,
    steps=None,
    batch_size=32,
    optimizer="sgd",
    learning_rate=0.01,
    weight_decay=0.0,
    schedule="cosine",
    clip_norm=None,
    held_out=None,
    or_first=False,
    patience=None,
    frozen=(),
    on_interrupt="raise",
    verbose=False,
):
    """Lower the losses of one or several objectives, which take turns on every batch.

    Parameters
    ----------
    objectives : Objective or list of Objective
        The first one's loss is the one watched on ``held_out``.
    modules : nn.Module
        What is trained, as one module (``nn.ModuleList`` holds several): in training mode
        meanwhile, in eval mode afterwards.
    samples : torch.Tensor of shape (n,)
        Index of the samples. An epoch sees each once, in ceil(n / batch_size) batches of sizes that
        differ by one at most.
    device : torch.device
        On CUDA the losses run under autocast (float16, gradients scaled).
    generator : torch.Generator
        The CPU's: order, and whatever a loss draws. The global generators, which dropout draws
        from, are seeded by it and put back afterwards.
    epochs, steps : int or None, default=None
        How long; ``steps``, the number of batches, wins where both are given.
    batch_size : int, default=32
    optimizer : {"sgd", "adam", "adamw"} or callable (parameters, lr, weight_decay), default="sgd"
        "sgd" has momentum 0.9.
    learning_rate : float, default=0.01
    weight_decay : float, default=0.0
    schedule : {"cosine", "constant"} or callable, default="cosine"
        Factor of the learning rate after a share, in [0, 1), of all steps.
    clip_norm : float or None, default=None
        Largest norm of an objective's gradient; larger ones are scaled down to it.
    held_out : torch.Tensor or None, default=None
        Index of samples that are not trained on. Their loss, of the same random draws each time, is
        taken after each epoch, in eval mode; at the end the weights with the lowest come back.
    or_first : bool, default=False
        Those may be the first weights, too.
    patience : int or None, default=None
        Stop after so many epochs without a lower held-out loss.
    frozen : iterable of nn.Module, default=()
        Those that stay in eval mode all along, such as BatchNorm layers with trusted statistics.
    on_interrupt : {"raise", "finish"}, default="raise"
        What KeyboardInterrupt does; "finish" ends training with the best weights so far: of the
        lowest held-out loss, or of the last complete epoch.
    verbose : bool, default=False

    Returns
    -------
    history : list of dict
        An entry an epoch: "epoch", each objective's mean loss by name, "held_out", "learning_rate"
        of the first objective at the epoch's end.

    Raises
    ------
    ValueError
        If a loss becomes NaN or infinite.

    Examples
    --------
    >>> line = torch.nn.Linear(1, 1)
    >>> x = torch.arange(4.0)[:, None]
    >>> def loss(index, generator):
    ...     return (line(x[index]) - 2 * x[index]).square().mean()
    >>> history = train(
    ...     Objective(loss, line.parameters()), line, torch.arange(4), epochs=200,
    ...     device=torch.device("cpu"), generator=torch.Generator().manual_seed(0),
    ... )
    >>> round(line.weight.item(), 1), len(history)
    (2.0, 200)
    """
    objectives = [objectives] if isinstance(objectives, Objective) else list(objectives)
    frozen = list(frozen)
    n_batches = -(-len(samples) // batch_size)
    n_steps = steps or epochs * n_batches
    workers = [
        _Worker(each, optimizer, learning_rate, weight_decay, clip_norm, device)
        for each in objectives
    ]
    factor = SCHEDULES.get(schedule, schedule) if isinstance(schedule, str) else schedule
    best = _Best(modules, keep_last=held_out is None and on_interrupt == "finish")
    watched = None
    if held_out is not None:
        first = objectives[0]
        watched = _Watched(first.watched or first.loss, held_out, batch_size)
    history, n_done = [], 0
    bar = progress(total=n_steps, desc="train", verbose=verbose)
    try:
        with bar, torch.enable_grad(), seeded(generator, device):
            if or_first and watched is not None:
                best.see({"epoch": 0, "held_out": watched.loss(modules)})
            while n_done < n_steps:
                modules.train()
                for module in frozen:
                    module.eval()
                order = samples[torch.randperm(len(samples), generator=generator, device="cpu")]
                for index in order.tensor_split(n_batches)[: n_steps - n_done]:
                    for worker in workers:
                        worker.step(index, generator, factor(n_done / n_steps))
                    n_done += 1
                    bar.update()
                entry = {"epoch": len(history) + 1}
                entry |= {worker.objective.name: worker.mean_loss() for worker in workers}
                if watched is not None:
                    entry["held_out"] = watched.loss(modules)
                entry["learning_rate"] = workers[0].learning_rate
                _check(entry)
                history.append(entry)
                bar.set_postfix(loss=f"{entry[objectives[0].name]:.4g}")
                best.see(entry)
                if patience is not None and best.age(entry) >= patience:
                    break
    except KeyboardInterrupt:
        if on_interrupt == "raise" or not history:
            raise
    best.restore()
    modules.eval()
    return history


class _Worker:
    """One objective and its optimizer."""

    def __init__(self, objective, optimizer, learning_rate, weight_decay, clip_norm, device):
        self.objective, self._clip_norm, self._device = objective, clip_norm, device
        self._parameters = [p for p in objective.parameters if p.requires_grad]
        self._base = objective.learning_rate or learning_rate
        make = objective.optimizer or optimizer
        make = OPTIMIZERS[make] if isinstance(make, str) else make
        with torch.device("cpu"):  # where Adagrad keeps its count of steps
            self._optimizer = make(self._parameters, lr=self._base, weight_decay=weight_decay)
        self._scaler = torch.amp.GradScaler("cuda", enabled=device.type == "cuda")
        self._sum, self._count = 0, 0

    @property
    def learning_rate(self):
        return self._optimizer.param_groups[0]["lr"]

    def step(self, index, generator, factor):
        for group in self._optimizer.param_groups:
            group["lr"] = self._base * factor
        self._optimizer.zero_grad(set_to_none=True)
        is_cuda = self._device.type == "cuda"
        with torch.autocast(self._device.type, torch.float16 if is_cuda else None, is_cuda):
            loss = self.objective.loss(index, generator)
        loss = self._backward(loss)
        if self._clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        with torch.device("cpu"):  # where Adam keeps its own
            self._scaler.step(self._optimizer)
        self._scaler.update()
        self._sum = self._sum + loss.detach() * len(index)
        self._count += len(index)

    def _backward(self, loss):
        """Leaves the gradients; the loss that the history is to have."""
        if self.objective.bounded is None:
            self._scaler.scale(loss).backward(inputs=self._parameters)
            return loss
        gradients = [
            torch.autograd.grad(
                self._scaler.scale(each),
                self._parameters,
                retain_graph=each is loss[0],
                materialize_grads=True,
            )
            for each in loss
        ]
        summed = bounded_sum(*gradients, self.objective.bounded)
        for parameter, gradient in zip(self._parameters, summed, strict=True):
            parameter.grad = gradient
        return loss[0]

    def mean_loss(self):
        """Of the samples since the last call."""
        mean, self._sum, self._count = float(self._sum) / self._count, 0, 0
        return mean


class _Watched:
    """The loss of held-out samples, always with the same random draws."""

    def __init__(self, loss, held_out, batch_size):
        self._loss = loss
        self._batches = held_out.tensor_split(-(-len(held_out) // batch_size))

    @torch.no_grad()
    def loss(self, modules):
        modules.eval()
        generator = torch.Generator().manual_seed(0)
        total = sum(float(self._loss(index, generator)) * len(index) for index in self._batches)
        return total / sum(map(len, self._batches))


class _Best:
    """The weights to end with."""

    def __init__(self, modules, *, keep_last):
        self._modules, self._keep_last = modules, keep_last
        self._state, self._lowest, self._epoch = None, math.inf, 0

    def see(self, entry):
        if entry.get("held_out", math.inf) < self._lowest:
            self._lowest, self._epoch = entry["held_out"], entry["epoch"]
        elif not self._keep_last:
            return
        self._state = {
            name: value.detach().clone() for name, value in self._modules.state_dict().items()
        }

    def age(self, entry):
        """Epochs since the lowest loss."""
        return entry["epoch"] - self._epoch if "held_out" in entry else 0

    def restore(self):
        if self._state is not None:
            self._modules.load_state_dict(self._state)


def _check(entry):
    for name, value in entry.items():
        if not math.isfinite(value):
            raise ValueError(
                f"training: the {name} of epoch {entry['epoch']} is {value}. A lower learning_rate "
                "or clip_norm keeps it finite."
            )


# parameters of estimators, and what train calls them
_SETTINGS = {
    "epochs": "epochs",
    "train_steps": "steps",
    "train_batch_size": "batch_size",
    "optimizer": "optimizer",
    "learning_rate": "learning_rate",
    "weight_decay": "weight_decay",
    "schedule": "schedule",
    "clip_norm": "clip_norm",
    "patience": "patience",
    "on_interrupt": "on_interrupt",
    "verbose": "verbose",
}


def training_settings(estimator):
    """Keyword arguments of :func:`train` from those parameters that an estimator has.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> training_settings(SimpleNamespace(epochs=3, train_batch_size=8, image_size=64))
    {'epochs': 3, 'batch_size': 8}
    """
    given = vars(estimator)
    return {name: given[mine] for mine, name in _SETTINGS.items() if mine in given}


def check_training(estimator):
    """Raise ValueError unless what an estimator has for ``training.train`` makes sense."""
    given = vars(estimator)
    for name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        if name in given and not callable(given[name]):
            check_choice(name, given[name], tuple(choices))
    for name in ("learning_rate", "weight_decay"):
        check_number(name, given.get(name, 0), minimum=0)
    if given.get("clip_norm") is not None:
        check_number("clip_norm", given["clip_norm"], minimum=0)
