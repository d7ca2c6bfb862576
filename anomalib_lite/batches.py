"""Images as a network takes them, read and worked on by a team, in order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch

from .data.images import CheckedImage, Glance, ImageStream, grouped
from .data.inputs import NetworkInput
from .data.scales import ScaleCheck
from .runtime import progress
from .workers import Team, borrowed_team


class _Prepared(NamedTuple):
    """What is left of an image that was read: a look at it, its network input, and a digest."""

    image: Glance
    input: torch.Tensor  # (1, 3, h, w), on the CPU
    digest: Any


@dataclass(frozen=True, eq=False)
class Batches:
    """Network inputs (B, 3, h, w) of a stream of images, on a device. Iterate once.

    On a CPU workers take whole images: reading, resizing and what :meth:`map` is given. For an
    accelerator they read and resize, and the caller's thread does the rest, batch by batch.

    Parameters
    ----------
    stream : ImageStream
    input : NetworkInput
    device : torch.device
    size : int
        Images of a batch.
    n_jobs : int or None
    desc : str
        What the progress bar says.
    verbose : bool
        Whether there is one.
    scale : ScaleCheck or None, default=None
        Sees each image, in order, and is asked at the end.
    learn : callable or None, default=None
        Called with (image, its network input (3, h, w), its digest) for each image, in order.
    digest : callable or None, default=None
        Of a network input (3, h, w); workers call it.
    reads_ahead : bool, default=True
        Whether images may be read before the results of earlier ones are asked for. Without it each
        is a batch of its own.
    """

    stream: ImageStream
    input: NetworkInput
    device: torch.device
    size: int
    n_jobs: int | None
    desc: str
    verbose: bool
    scale: ScaleCheck | None = None
    learn: Callable[[Glance, torch.Tensor, Any], None] | None = None
    digest: Callable[[torch.Tensor], Any] | None = None
    reads_ahead: bool = True

    def __iter__(self) -> Iterator[tuple[list[Glance], torch.Tensor]]:
        """(images, network input (B, 3, h, w)) of each batch."""
        return self.each(lambda _, batch: batch)

    def map(self, function: Callable[[torch.Tensor], Any]) -> Iterator[tuple[list[Glance], Any]]:
        """(images, ``function(network input)``) of each batch; workers call the function.

        It must not depend on the order of its calls: draw random numbers outside of it.
        """
        return self.each(lambda _, batch: function(batch))

    def each(
        self, function: Callable[[list[Glance], torch.Tensor], Any]
    ) -> Iterator[tuple[list[Glance], Any]]:
        """The same, of a function that is given the images, too."""
        total = self.stream.n_images
        with (
            borrowed_team(self.n_jobs) as team,
            progress(total=total, desc=self.desc, verbose=self.verbose) as bar,
        ):
            run = self._by_workers if self.device.type == "cpu" else self._by_caller
            for prepared, result in run(function, team):
                for image, pixels, digest in prepared:
                    if self.scale is not None:
                        self.scale.see(image)
                    if self.learn is not None:
                        self.learn(image, pixels[0], digest)
                yield [each.image for each in prepared], result
                bar.update(len(prepared))
        if self.scale is not None:
            self.scale.finish()

    def _by_workers(self, function, team):
        def finish(prepared):
            inputs = [each.input for each in prepared]
            batch = inputs[0] if len(inputs) == 1 else torch.cat(inputs)
            return prepared, function([each.image for each in prepared], batch)

        yield from self._work(team, finish, self._task_size(team))

    def _by_caller(self, function, team):
        read = self._work(team, list, -(-self._most // team.n_workers))  # a batch ahead
        for prepared in grouped(chain.from_iterable(read), self._most):
            batch = torch.cat([each.input for each in prepared]).to(self.device)
            yield prepared, function([each.image for each in prepared], batch)

    def _work(self, team, finish, size):
        ahead = self.reads_ahead and self.stream.n_images != 1
        return self.stream.work(team, self._prepare, finish, size=size, ahead=ahead)

    @property
    def _most(self):
        """Images of a batch that is full."""
        return self.size if self.reads_ahead else 1

    def _task_size(self, team: Team) -> int:
        """Images of a task: a whole batch, unless some workers would have nothing to do."""
        n_images = self.stream.n_images
        return self._most if n_images is None else min(self._most, -(-n_images // team.n_workers))

    def _prepare(self, image: CheckedImage) -> _Prepared:
        batch = self.input.batch([image])
        digest = None if self.digest is None else self.digest(batch[0])
        levels = self.learn is not None or self.scale.needs_levels(image.dtype)
        return _Prepared(image.glance(levels=levels), batch, digest)
