"""Networks that several detectors read: they run once for all of them."""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..backbones.backbone import Backbone


class Watch:
    """Notices what is changed in place, though others look at it, too.

    Parameters
    ----------
    tensors : iterable of torch.Tensor
    """

    def __init__(self, tensors: Iterable[torch.Tensor]):
        self._seen = [(tensor, tensor._version) for tensor in tensors]

    def check(self, detector: Any = None) -> None:
        """Raise ValueError if a detector changed one of them."""
        if any(tensor._version != version for tensor, version in self._seen):
            who = "a detector" if detector is None else type(detector).__name__
            raise ValueError(
                f"detectors: {who} changes a network's input or feature maps in place, which the "
                "others of the ensemble see, too. Let it change a clone."
            )


class SharedNetwork:
    """A network that runs once for all who ask for its maps of one batch, one after the other.

    Parameters
    ----------
    backbone : Backbone
    """

    def __init__(self, backbone: Backbone):
        self._backbone = backbone
        self._last = threading.local()  # a worker has a batch of its own

    def maps(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps, those of the last time if the batch is the same object."""
        last = self._last
        if getattr(last, "batch", None) is not batch:
            last.maps, last.batch = self._backbone.trainable_maps(batch), batch
            last.watch = Watch(last.maps)
        last.watch.check()
        return last.maps

    def forget(self) -> None:
        """Free what this thread was given last."""
        vars(self._last).clear()


class NetworkReader:
    """Stands in for a detector's backbone: some maps of a shared network.

    Parameters
    ----------
    own : Backbone
        What it stands in for; whatever else is asked for is its.
    network : SharedNetwork
    """

    def __init__(self, own: Backbone, network: SharedNetwork, places: Sequence[int]):
        self._own, self._network, self._places = own, network, places

    def trainable_maps(self, batch: torch.Tensor) -> list[torch.Tensor]:
        maps = self._network.maps(batch)
        return [maps[place] for place in self._places]

    __call__ = trainable_maps  # callers have left the caller's contexts already

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def __reduce__(self):  # for copies and pickles it is what it stands in for
        return _itself, (self._own,)


def _itself(own):
    return own


class Sharing:
    """Which of some detectors' networks run once for several.

    Those do that are pretrained ones of the same name, see the same input, and whose maps are the
    same bits when one network gives all of them.

    Parameters
    ----------
    detectors : sequence of BaseDetector
        Started or fitted.

    Attributes
    ----------
    readers : dict of int to NetworkReader
        What stands in for a detector's ``backbone_``, by its place.
    networks : list of SharedNetwork
    """

    def __init__(self, detectors: Sequence[Any]):
        self.readers, self.networks = {}, []
        alike = {}
        for place, detector in enumerate(detectors):
            backbone = getattr(detector, "backbone_", None)
            if isinstance(backbone, Backbone) and backbone.origin is not None:
                alike.setdefault(backbone.origin, {})[place] = backbone
        for backbones in alike.values():
            self._share(backbones)

    def _share(self, backbones):
        union = Backbone.union([*backbones.values()]) if len(backbones) > 1 else None
        if union is None:
            return
        network = SharedNetwork(union)
        self.networks.append(network)
        for place, own in backbones.items():
            places = [union.layer_names.index(name) for name in own.layer_names]
            self.readers[place] = NetworkReader(own, network, places)

    def forget(self) -> None:
        """Free what networks gave this thread last."""
        for network in self.networks:
            network.forget()
