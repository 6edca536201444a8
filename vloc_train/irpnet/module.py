"""The Lightning module of one pass: equation 1 or learned weights, Adam, validation on held-out descriptors."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vloc_ros.geometry.torch_ops import rotation_angle_quaternion
from vloc_ros.localizers.irpnet.network import TASKS, Regressor, Task, rotation_quaternion
from vloc_train.irpnet.data import Batch, SceneDescriptors, batches
from vloc_train.irpnet.losses import LearnedWeights, pose_loss
from vloc_train.irpnet.settings import TrainSettings
from vloc_train.training.module import ScheduledModule, cosine

__all__ = ["RegressorModule"]


class RegressorModule(ScheduledModule):
    """Trains the regressor of one pass.

    :param kept: the tasks that are wanted of it: ``("position",)``, ``("orientation",)`` or both (MLP). Branches whose
        loss has no weight are not made; a branch that only helps is left out of :meth:`result`.
    """

    def __init__(
        self,
        scene: SceneDescriptors,
        settings: TrainSettings,
        kept: tuple[Task, ...],
    ) -> None:
        super().__init__()
        self.settings, self.scene, self.kept = settings, scene, kept
        self.weights = settings.position_weights if kept == ("position",) else settings.orientation_weights
        learned = kept == TASKS
        tasks = TASKS if learned else tuple(t for t, w in zip(TASKS, self.weights, strict=True) if w)
        self.regressor = Regressor(scene.dimension, settings.network, tasks)
        self.regressor.set_statistics(scene.sample(), scene.poses[:, :3])
        self.learned = LearnedWeights() if learned else None

    # -- training ---------------------------------------------------------------------------------

    def loader(self) -> DataLoader[Batch]:
        """Batches from the step that the run has come to."""
        return batches(self.scene, self.settings, lambda: int(self.global_step))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        s = self.settings
        return torch.optim.Adam(
            self.parameters(),
            lr=s.learning_rate,
            betas=(0.9, 0.999),
            eps=s.adam_epsilon,
            weight_decay=s.weight_decay * s.learning_rate,
            # One pass over the weights instead of one for each operation: they are all that takes time here.
            fused=True,
        )

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch."""
        descriptors, truth = batch
        found = self.regressor(descriptors)
        return self.learned(found, truth) if self.learned is not None else pose_loss(found, truth, self.weights)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.settings.schedule == "cosine":
            self.set_learning_rate(self.settings.learning_rate * cosine(self.progress()))
        loss = self.loss(batch)
        if self.is_logged():
            self.log("loss", loss.detach(), prog_bar=True)
        return loss

    # -- validation -------------------------------------------------------------------------------

    @torch.no_grad()
    def validation_errors(self) -> dict[Task, float]:
        """Median errors of the held-out descriptors: position (m) and orientation (deg), what of them is trained."""
        was_training = self.regressor.training
        self.regressor.eval()
        found = self.regressor(self.scene.held_out.to(self.device))
        self.regressor.train(was_training)
        truth = self.scene.held_out_poses.to(self.device)
        errors: dict[Task, float] = {}
        if found.position is not None:
            errors["position"] = float(torch.linalg.vector_norm(found.position - truth[:, :3], dim=-1).median())
        if found.rotation is not None:
            angle = rotation_angle_quaternion(rotation_quaternion(found.rotation), truth[:, 3:])
            errors["orientation"] = float(torch.rad2deg(angle).median())
        return errors

    @property
    def exported(self) -> Regressor:
        """See :class:`ScheduledModule`."""
        return self.regressor

    def validation(self) -> tuple[dict[str, float], float]:
        """Median errors; what is wanted decides, 2 m counting as 5 degrees."""
        errors = self.validation_errors()
        error = sum(errors[t] / (2.0 if t == "position" else 5.0) for t in self.kept)
        return {f"validation_{'m' if task == 'position' else 'deg'}": e for task, e in errors.items()}, error

    def result(self) -> Regressor:
        """The trained regressor with the branches that are kept, on the CPU."""
        best = self.settings.keep == "best" and self._best
        state = self._best if best else {k: v.detach().cpu() for k, v in self.regressor.state_dict().items()}
        out = Regressor(self.scene.dimension, self.settings.network, self.kept)
        out.load_state_dict({name: copy.copy(state[name]) for name in out.state_dict()})
        return out.eval()
