"""Tells Lightning the place of this process. The processes and their connection exist already."""

from __future__ import annotations

from lightning.fabric.plugins.environments import ClusterEnvironment

from alignlab.strategies.place import Place


class StartedTogether(ClusterEnvironment):
    """The processes of a run, which torchrun, SLURM or alignlab itself has started and connected."""

    def __init__(self, place: Place) -> None:
        self._place = place

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        raise NotImplementedError("the processes are connected already")

    @property
    def main_port(self) -> int:
        raise NotImplementedError("the processes are connected already")

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._place.world

    def set_world_size(self, size: int) -> None:
        """The number of processes is fixed."""

    def global_rank(self) -> int:
        return self._place.rank

    def set_global_rank(self, rank: int) -> None:
        """The place is fixed."""

    def local_rank(self) -> int:
        return self._place.local

    def node_rank(self) -> int:
        return self._place.node
