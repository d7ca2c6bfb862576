"""The gradient loop: minimizes one objective, or several that take turns."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import nn

from ..contexts import OwnDraws, plain
from ..runtime import draw_seed
from ..validation import check_choice, check_count, check_number
from .course import Steps
from .draws import may_draw

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

Loss = Callable[[torch.Tensor, torch.Generator], Any]


@dataclass(frozen=True)
class Objective:
    """A loss, and the parameters that one optimizer moves to lower it.

    Parameters
    ----------
    loss : callable (index, generator) -> torch.Tensor of shape ()
        Mean loss of the samples ``index``, a tensor of ints on the CPU. Random numbers come from
        ``generator``, the CPU's. With ``bounded``, it returns a pair of losses.
    parameters : iterable of nn.Parameter
        Those to move; parameters without ``requires_grad`` are skipped.
    name : str, default="loss"
        Key of the loss in the history.
    optimizer : str, callable or None, default=None
    learning_rate : float or None, default=None
        In place of those :func:`train` is given; None takes these.
    watched : callable (index, generator) or None, default=None
        Loss of held-out samples, in place of ``loss``.
    bounded : float or None, default=None
        Weight of the second loss of a pair, whose gradient is clipped to the norm of the first's:
        see :func:`bounded_sum`. The history has the first loss.
    """

    loss: Loss
    parameters: Iterable[nn.Parameter]
    name: str = "loss"
    optimizer: str | Callable | None = None
    learning_rate: float | None = None
    watched: Loss | None = None
    bounded: float | None = None


@dataclass(frozen=True)
class TrainingOptions:
    """Options of :func:`train`.

    Parameters
    ----------
    epochs : int or None, default=None
        Passes over the training samples.
    steps : int or None, default=None
        Number of training batches, in place of ``epochs``.
    batch_size : int, default=32
        Samples of a training step.
    optimizer : {"sgd", "adam", "adamw"} or callable, default="sgd"
        A callable takes (parameters, lr, weight_decay). "sgd" has momentum 0.9.
    learning_rate : float, default=0.01
        Learning rate of the optimizer.
    weight_decay : float, default=0.0
        Weight decay of the optimizer.
    schedule : {"cosine", "constant"} or callable, default="cosine"
        Schedule of the learning rate. A callable takes the fraction of all steps done, in [0, 1),
        and returns a factor.
    clip_norm : float or None, default=None
        Largest norm of an objective's gradient; None for no limit.
    patience : int or None, default=None
        Stop after so many epochs without a lower held-out loss.
    on_interrupt : {"raise", "finish"}, default="raise"
        What Ctrl-C does during training: "finish" ends it with the best weights so far, those of
        the lowest held-out loss or else of the last complete epoch. Before the end of the first
        epoch it raises in any case.
    verbose : bool, default=False
        Show a progress bar.
    shortening : sequence of str, default=()
        What would make the training shorter, such as "fewer epochs", for the warning of a long one.

    Raises
    ------
    ValueError
        If an option makes no sense, or neither ``epochs`` nor ``steps`` is given.
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 32
    optimizer: str | Callable = "sgd"
    learning_rate: float = 0.01
    weight_decay: float = 0.0
    schedule: str | Callable[[float], float] = "cosine"
    clip_norm: float | None = None
    patience: int | None = None
    on_interrupt: str = "raise"
    verbose: bool = False
    shortening: Sequence[str] = ()

    def __post_init__(self):
        if self.epochs is None and self.steps is None:
            raise ValueError("epochs: expected a number of epochs, or of steps, got neither.")
        for name, minimum in (("epochs", 0), ("steps", 0), ("patience", 1)):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), minimum=minimum)
        check_count("batch_size", self.batch_size)
        check_training(self)

    def n_batches(self, n_samples: int) -> int:
        """Batches of an epoch: of equal size, or one sample apart."""
        return -(-n_samples // self.batch_size)

    def n_steps(self, n_samples: int) -> int:
        """Batches of the whole training."""
        return self.epochs * self.n_batches(n_samples) if self.steps is None else self.steps

    def factor(self, done: float) -> float:
        """Factor of the learning rate when a fraction of all steps is done."""
        named = isinstance(self.schedule, str)
        return (SCHEDULES[self.schedule] if named else self.schedule)(done)


def split_off(
    n_samples: int, fraction: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a fraction of the samples to hold out; indices of (the others, those held out).

    Examples
    --------
    >>> [len(part) for part in split_off(50, 0.1, torch.Generator().manual_seed(0))]
    [45, 5]
    """
    order = torch.randperm(n_samples, generator=generator, device="cpu")
    n_held_out = round(fraction * n_samples)
    return order[n_held_out:], order[:n_held_out]


def bounded_sum(
    first: Sequence[torch.Tensor], second: Sequence[torch.Tensor], weight: float = 1.0
) -> list[torch.Tensor]:
    r"""Gradients ``first`` plus ``second``, with ``second`` clipped to the norm of ``first``.

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


@plain
def train(
    objectives: Objective | Iterable[Objective],
    modules: nn.Module,
    samples: torch.Tensor,
    *,
    device: torch.device,
    generator: torch.Generator,
    held_out: torch.Tensor | None = None,
    or_first: bool = False,
    frozen: Iterable[nn.Module] = (),
    **options: Any,
) -> list[dict[str, float]]:
    """Minimize objectives by gradient descent.

    On each batch every objective takes a step, in the order given. Gradients reach an objective's
    own parameters only. A fit that is going to take more than ten minutes is warned of after a few
    steps; where it has several trainings, :func:`portion` says so.

    Parameters
    ----------
    objectives : Objective or iterable of Objective
        The first one's loss is watched on ``held_out``.
    modules : nn.Module
        Everything that trains, as one module (``nn.ModuleList`` holds several): in training mode
        meanwhile, in eval mode afterwards.
    samples : torch.Tensor of shape (n,)
        Indices of the training samples. An epoch draws each once, in batches whose sizes differ by
        one at most.
    device : torch.device
        On CUDA the losses run under autocast (float16, gradients scaled).
    generator : torch.Generator
        The CPU's: draws the order, and whatever a loss draws. What takes no generator, such as
        dropout, draws from others that it seeds; PyTorch's global ones are left alone.
    held_out : torch.Tensor or None, default=None
        Indices of samples that are not trained on; may be empty. Their loss, with the same random
        draws each time, is computed in eval mode after each epoch. Training ends with the weights
        of the lowest.
    or_first : bool, default=False
        Whether those may be the initial weights, too.
    frozen : iterable of nn.Module, default=()
        Modules that stay in eval mode, such as BatchNorm layers with trusted statistics.
    **options
        Fields of :class:`TrainingOptions`: ``epochs`` or ``steps``, ``batch_size``, ``optimizer``,
        ``learning_rate``, and so on.

    Returns
    -------
    history : list of dict
        An entry an epoch: "epoch", each objective's mean loss by name, "held_out" where there are
        such samples, and the "learning_rate" of the first objective at the epoch's end.

    Raises
    ------
    ValueError
        If an option makes no sense, or a loss becomes NaN or infinite.

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
    settings = TrainingOptions(**options)
    objectives = [objectives] if isinstance(objectives, Objective) else list(objectives)
    workers = [_Worker(objective, settings, device) for objective in objectives]
    held_out_loss = None
    if held_out is not None and len(held_out):
        held_out_loss = _HeldOutLoss(objectives[0], modules, held_out, settings.batch_size)
    shortening = [*settings.shortening, *["a GPU (device='cuda')"] * (device.type == "cpu")]
    loop = _Loop(workers, modules, samples, settings, generator, held_out_loss, list(frozen))
    own_draws = OwnDraws(draw_seed(generator))
    if not may_draw(modules, [function for worker in workers for function in worker.functions]):
        own_draws = nullcontext()
    try:
        with (
            torch.enable_grad(),
            own_draws,
            Steps(settings.n_steps(len(samples)), shortening, settings.verbose) as steps,
        ):
            loop.run(steps, or_first=or_first)
    except KeyboardInterrupt:
        if settings.on_interrupt == "raise" or not loop.history:
            raise
    loop.best.restore()
    modules.eval()
    return loop.history


class _Loop:
    """Epochs over the samples; keeps the history and the best weights."""

    def __init__(self, workers, modules, samples, settings, generator, held_out_loss, frozen):
        self._workers, self._modules, self._samples = workers, modules, samples
        self._settings, self._generator = settings, generator
        self._held_out_loss, self._frozen = held_out_loss, frozen
        keep_last = held_out_loss is None and settings.on_interrupt == "finish"
        self.best = _Best(modules, keep_last=keep_last)
        self.history = []
        self._n_done, self._n_steps = 0, settings.n_steps(len(samples))

    def run(self, steps, *, or_first):
        if or_first and self._held_out_loss is not None:
            self.best.see({"epoch": 0, "held_out": self._held_out_loss()})
        patience = self._settings.patience
        while self._n_done < self._n_steps:
            self._train_epoch(steps)
            entry = self._entry()
            self.history.append(entry)
            steps.show(entry[self._workers[0].name])
            self.best.see(entry)
            if patience is not None and self.best.age(entry) >= patience:
                break

    def _train_epoch(self, steps):
        self._modules.train()
        for module in self._frozen:
            module.eval()
        for index in self._batches()[: self._n_steps - self._n_done]:
            factor = self._settings.factor(self._n_done / self._n_steps)
            for worker in self._workers:
                worker.step(index, self._generator, factor)
            self._n_done += 1
            steps.done()

    def _batches(self):
        n = len(self._samples)
        order = torch.randperm(n, generator=self._generator, device="cpu")
        return self._samples[order].tensor_split(self._settings.n_batches(n))

    def _entry(self):
        """What the history says of the epoch just done."""
        epoch = len(self.history) + 1
        entry = {"epoch": epoch, **{worker.name: worker.mean_loss() for worker in self._workers}}
        if self._held_out_loss is not None:
            entry["held_out"] = self._held_out_loss()
        entry["learning_rate"] = self._workers[0].learning_rate
        for name, value in entry.items():
            if not math.isfinite(value):
                raise ValueError(
                    f"training: the {name} of epoch {epoch} is {value}. A lower learning_rate or "
                    "clip_norm keeps it finite."
                )
        return entry


class _Worker:
    """One objective and its optimizer."""

    def __init__(self, objective, settings, device):
        self.name, self._objective = objective.name, objective
        self._clip_norm, self._device = settings.clip_norm, device
        self._parameters = [p for p in objective.parameters if p.requires_grad]
        rate, make = objective.learning_rate, objective.optimizer
        self._base_rate = settings.learning_rate if rate is None else rate
        make = settings.optimizer if make is None else make
        make = OPTIMIZERS[make] if isinstance(make, str) else make
        self._optimizer = make(
            self._parameters, lr=self._base_rate, weight_decay=settings.weight_decay
        )
        self._scaler = torch.amp.GradScaler("cuda", enabled=device.type == "cuda")
        self._sum, self._count = 0, 0

    @property
    def functions(self):
        """What runs in a step of it, besides the networks."""
        both = self._objective.loss, self._objective.watched
        return [*(loss for loss in both if loss is not None), self._optimizer]

    @property
    def learning_rate(self):
        return self._optimizer.param_groups[0]["lr"]

    def step(self, index, generator, factor):
        for group in self._optimizer.param_groups:
            group["lr"] = self._base_rate * factor
        self._optimizer.zero_grad(set_to_none=True)
        is_cuda = self._device.type == "cuda"
        with torch.autocast(self._device.type, torch.float16 if is_cuda else None, is_cuda):
            loss = self._objective.loss(index, generator)
        loss = self._backward(loss)
        if self._clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._sum = self._sum + loss.detach() * len(index)
        self._count += len(index)

    def _backward(self, loss):
        """Set the gradients; the loss for the history."""
        bounded = self._objective.bounded
        if bounded is None:
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
        summed = bounded_sum(*gradients, bounded)
        for parameter, gradient in zip(self._parameters, summed, strict=True):
            parameter.grad = gradient
        return loss[0]

    def mean_loss(self):
        """Of the samples since the last call."""
        mean, self._sum, self._count = float(self._sum) / self._count, 0, 0
        return mean


class _HeldOutLoss:
    """The mean loss of held-out samples, always with the same random draws."""

    def __init__(self, objective, modules, held_out, batch_size):
        self._loss = objective.loss if objective.watched is None else objective.watched
        self._modules = modules
        self._batches = held_out.tensor_split(-(-len(held_out) // batch_size))

    @torch.no_grad()
    def __call__(self):
        self._modules.eval()
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


# -- training settings of estimators --------------------------------------------------------------

# option of train: parameter of an estimator, whose batch_size is about reading images
_PARAMETERS = {field.name: field.name for field in fields(TrainingOptions)} | {
    "steps": "train_steps",
    "batch_size": "train_batch_size",
}


def training_settings(estimator: object) -> dict[str, Any]:
    """Options of :func:`train` from those of its parameters that an estimator has.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> training_settings(SimpleNamespace(epochs=3, train_batch_size=8, image_size=64))
    {'epochs': 3, 'batch_size': 8, 'shortening': ['fewer epochs', 'a smaller image_size']}
    """
    given = vars(estimator)
    settings = {option: given[name] for option, name in _PARAMETERS.items() if name in given}
    return settings | {"shortening": _shortening(given)}


def _shortening(given):
    """What would make the training of an estimator with these parameters shorter."""
    by_steps = given.get("train_steps") is not None
    is_large = given.get("weights") == "random" and given.get("backbone") != "convnet"
    ways = {
        "epochs": not by_steps and "fewer epochs",
        "train_steps": by_steps and "fewer train_steps",
        "image_size": "a smaller image_size",
        "levels": "fewer levels",
        "width": "a smaller width",
        "train_from": "a later train_from" if not is_large else "backbone='convnet'",
    }
    return [way for name, way in ways.items() if way and name in given]


def check_training(estimator: object) -> None:
    """Raise ValueError if an estimator's parameters for :func:`train` make no sense.

    It reads ``optimizer``, ``schedule``, ``on_interrupt``, ``learning_rate``, ``weight_decay`` and
    ``clip_norm``, where the estimator has them.
    """
    given = vars(estimator)
    for name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        if name in given and not callable(given[name]):
            check_choice(name, given[name], tuple(choices))
    if "on_interrupt" in given:
        check_choice("on_interrupt", given["on_interrupt"], ON_INTERRUPT)
    for name in ("learning_rate", "weight_decay"):
        check_number(name, given.get(name, 0), minimum=0)
    if given.get("clip_norm") is not None:
        check_number("clip_norm", given["clip_norm"], minimum=0)
