"""Networks that several detectors read: they run once for all of them."""

import threading
from collections.abc import Sequence
from typing import Any

import torch

from ..backbones.backbone import Backbone


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
            origin = None if backbone is None else backbone.origin
            if origin is not None:
                alike.setdefault(origin, {})[place] = backbone
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
