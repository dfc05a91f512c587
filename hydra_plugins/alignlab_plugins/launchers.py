"""Registers the launchers with Hydra. They are defined in alignlab/sweep/launchers; see docs/launchers.md.

Hydra accepts only launcher classes whose module is in `hydra_plugins`, so each launcher has a subclass here.
"""

from hydra.core.config_store import ConfigStore

from alignlab.sweep.launchers import auto, local, ray, serial, slurm, vectorized


class AutoLauncher(auto.AutoLauncher):
    """hydra/launcher=auto"""


class VectorizedLauncher(vectorized.VectorizedLauncher):
    """hydra/launcher=vectorized"""


class SerialLauncher(serial.SerialLauncher):
    """hydra/launcher=serial"""


class LocalLauncher(local.LocalLauncher):
    """hydra/launcher=local"""


class RayLauncher(ray.RayLauncher):
    """hydra/launcher=ray"""


class SlurmLauncher(slurm.SlurmLauncher):
    """hydra/launcher=slurm"""


_CONFIGS: dict[str, type] = {
    "auto": auto.AutoLauncherConf,
    "vectorized": vectorized.VectorizedLauncherConf,
    "serial": serial.SerialLauncherConf,
    "local": local.LocalLauncherConf,
    "ray": ray.RayLauncherConf,
    "slurm": slurm.SlurmLauncherConf,
}
for name, config in _CONFIGS.items():
    ConfigStore.instance().store(group="hydra/launcher", name=name, node=config, provider="alignlab")
