"""Parameter groups for fairseq's Adam: a learning rate of the gate's own (supplement A.2), no weight decay on GCT's beta."""

from collections.abc import Iterable

from fairseq.optim import register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from torch.nn import Parameter

from .errors import OptionError

GROUP = "cgc_gate"
SHARES = "lr_scale", "weight_decay_scale"


def scale_learning_rate(parameters: Iterable[Parameter], scale: float) -> None:
    """Mark parameters in fairseq's way, which its composite optimizer and its fp16 copies know too."""
    for parameter in parameters:
        parameter.param_group = GROUP
        parameter.optim_overrides = {"optimizer": {"lr_scale": scale}}


def exempt_from_weight_decay(parameters: Iterable[Parameter]) -> None:
    """Mark parameters, in fairseq's way, that ``cgc_adam`` is not to decay."""
    for parameter in parameters:
        parameter.optim_overrides = {"optimizer": {"weight_decay_scale": 0.0}}


@register_optimizer("cgc_adam", dataclass=FairseqAdamConfig)
class GroupedAdam(FairseqAdam):
    """fairseq's Adam, whose groups of parameters have their own share of the scheduler's rate and of the weight decay.

    fairseq sets one rate for every group at every update; here it is multiplied by the group's
    ``lr_scale``. With no parameter marked it is fairseq's Adam. When resuming, the shares are those asked for now; what they
    are shares of is the checkpoint's, or ``--optimizer-overrides``', as with fairseq's other settings.

    Args:
        cfg: fairseq's settings for ``adam``
        params: parameters, those with shares of their own marked by the functions above

    Raises:
        OptionError: when resuming, if the checkpoint has other groups
    """

    def __init__(self, cfg, params):
        by_shares = {(1.0, 1.0): []}
        for parameter in params:
            given = (getattr(parameter, "optim_overrides", None) or {}).get("optimizer", {})
            shares = tuple(float(given.get(name, 1.0)) for name in SHARES)
            by_shares.setdefault(shares, []).append(parameter)
        groups = [{"params": group, **dict(zip(SHARES, shares))} for shares, group in by_shares.items() if group]
        super().__init__(cfg, groups)
        self._scale_weight_decay(cfg.weight_decay)

    def _scale_weight_decay(self, whole):
        for group in self.param_groups:
            group["weight_decay"] = whole * group["weight_decay_scale"]

    def get_lr(self) -> float:
        """The scheduler's rate."""
        first = self.param_groups[0]
        return first["lr"] / first["lr_scale"]

    def set_lr(self, lr: float) -> None:
        """Set the scheduler's rate."""
        for group in self.param_groups:
            group["lr"] = lr * group["lr_scale"]

    def load_state_dict(self, state_dict, optimizer_overrides=None):
        """Load a checkpoint's optimizer state."""
        here = [{name: group[name] for name in SHARES} for group in self.param_groups]
        sizes, saved = (
            [len(group["params"]) for group in groups] for groups in (self.param_groups, state_dict["param_groups"])
        )
        if sizes != saved:
            raise OptionError(
                f"the checkpoint's optimizer has groups of {_listed(saved)} parameters, and this training makes groups of "
                f"{_listed(sizes)} (--cgc-lr-scale and GCT make groups); resume with the options as they were, or add "
                "--reset-optimizer"
            )
        decays = [(group["weight_decay"], group.get("weight_decay_scale", 1.0)) for group in state_dict["param_groups"]]
        weight_decay = next((decay / share for decay, share in decays if share), self.cfg.weight_decay)
        super().load_state_dict(state_dict, optimizer_overrides)
        for group, shares in zip(self.param_groups, here):
            group.update(shares)
        self._scale_weight_decay((optimizer_overrides or {}).get("weight_decay", weight_decay))


def _listed(sizes):
    return " and ".join(map(str, sizes))
