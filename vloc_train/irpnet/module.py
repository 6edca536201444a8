"""One pass of IRPNet: equation 1 or learned weights, Adam, validation on held-out descriptors."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from vloc_ros.geometry.torch_ops import rotation_angle_quaternion
from vloc_ros.localizers.irpnet.network import TASKS, Regressor, Task, rotation_quaternion
from vloc_train.irpnet.data import Batch, KeyedDescriptors, SceneDescriptors
from vloc_train.irpnet.losses import LearnedWeights, pose_loss
from vloc_train.irpnet.settings import TrainSettings
from vloc_train.training.module import TrainingModule
from vloc_train.training.sampling import TrainingData

__all__ = ["RegressorModule"]

#: Of Adam, so small that it never matters (paper).
_EPSILON = 1e-10


class RegressorModule(TrainingModule[Regressor]):
    """Trains the regressor of one pass.

    :param kept: the tasks that are wanted of it: ``("position",)``, ``("orientation",)`` or both (MLP). Branches whose
        loss has no weight are not made; a branch that only helps is left out of :meth:`result`.
    """

    settings: TrainSettings

    def __init__(self, scene: SceneDescriptors, settings: TrainSettings, kept: tuple[Task, ...]) -> None:
        weights = settings.position_weights if kept == ("position",) else settings.orientation_weights
        learned = kept == TASKS
        tasks = TASKS if learned else tuple(t for t, w in zip(TASKS, weights, strict=True) if w)
        network = Regressor(scene.dimension, settings.network, tasks)
        network.set_statistics(scene.sample(), scene.poses[:, :3])
        super().__init__(settings, network)
        self.scene, self.kept, self.weights = scene, kept, weights
        self.learned = LearnedWeights() if learned else None

    def data(self) -> TrainingData:
        """What the pass is trained on."""
        return TrainingData(KeyedDescriptors(self.scene, self.settings))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        s = self.settings
        return torch.optim.Adam(
            self.trained(),
            lr=s.learning_rate,
            eps=_EPSILON,
            weight_decay=s.weight_decay * s.learning_rate,
            # One pass over the weights instead of one for each operation: they are all that takes time here.
            fused=True,
        )

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch."""
        descriptors, truth = batch
        found = self.network(descriptors)
        return self.learned(found, truth) if self.learned is not None else pose_loss(found, truth, self.weights)

    def step(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`TrainingModule`."""
        return self.loss(batch), {}

    def validation_errors(self) -> dict[Task, float]:
        """Median errors of the held-out descriptors: position (m) and orientation (deg), what of them is trained."""
        with self.evaluated() as network:
            found = network(self.scene.held_out.to(self.device))
        truth = self.scene.held_out_poses.to(self.device)
        errors: dict[Task, float] = {}
        if found.position is not None:
            errors["position"] = float(torch.linalg.vector_norm(found.position - truth[:, :3], dim=-1).median())
        if found.rotation is not None:
            angle = rotation_angle_quaternion(rotation_quaternion(found.rotation), truth[:, 3:])
            errors["orientation"] = float(torch.rad2deg(angle).median())
        return errors

    def validation(self) -> tuple[dict[str, float], float]:
        """Median errors; what is wanted decides, 2 m counting as 5 degrees."""
        errors = self.validation_errors()
        error = sum(errors[t] / (2.0 if t == "position" else 5.0) for t in self.kept)
        return {f"validation_{'m' if task == 'position' else 'deg'}": e for task, e in errors.items()}, error

    def result(self) -> Regressor:
        """The trained regressor with the branches that are kept, on the CPU."""
        state = (self.best() if self.settings.keep == "best" else copy.deepcopy(self.exported).cpu()).state_dict()
        out = Regressor(self.scene.dimension, self.settings.network, self.kept)
        out.load_state_dict({name: state[name] for name in out.state_dict()})
        return out.eval()
