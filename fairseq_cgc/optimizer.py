"""A learning rate of its own for the gate (supplement A.2), through fairseq's parameter groups."""

from fairseq.optim import register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig

from .errors import OptionError

GROUP = "cgc_gate"
OPTIMIZERS = ("cgc_adam", "composite")  # those that look at what ``scale_learning_rate`` says


def scale_learning_rate(parameters, scale: float):
    """Mark parameters in fairseq's way, which its composite optimizer and its fp16 copies know too."""
    for parameter in parameters:
        parameter.param_group = GROUP
        parameter.optim_overrides = {"optimizer": {"lr_scale": scale}}


def check_optimizer(args):
    """Refuse a training whose optimizer would not see the scale.

    Raises:
        OptionError: naming the option to change
    """
    optimizer = getattr(args, "optimizer", None)
    if optimizer is not None and optimizer not in OPTIMIZERS:
        raise OptionError(
            f"--cgc-lr-scale {args.cgc_lr_scale} needs an optimizer with parameter groups, and --optimizer is {optimizer}; "
            "take --optimizer cgc_adam, which is adam with them"
        )
    apart = getattr(args, "memory_efficient_fp16", False) or getattr(args, "fp16_no_flatten_grads", False)
    if getattr(args, "fp16", False) and not apart:
        raise OptionError(
            f"--cgc-lr-scale {args.cgc_lr_scale} needs parameters that are kept apart, and --fp16 joins them in one tensor; "
            "add --fp16-no-flatten-grads"
        )
    sharded = getattr(args, "ddp_backend", None) == "fully_sharded"
    if sharded and not getattr(args, "not_fsdp_flatten_parameters", False):
        raise OptionError(
            f"--cgc-lr-scale {args.cgc_lr_scale} needs parameters that are kept apart, and --ddp-backend fully_sharded joins "
            "them in one tensor; add --not-fsdp-flatten-parameters"
        )


@register_optimizer("cgc_adam", dataclass=FairseqAdamConfig)
class GroupedAdam(FairseqAdam):
    """fairseq's Adam, whose groups of parameters have their own share of the scheduler's rate.

    fairseq sets one rate for every group at every update; here it is multiplied by the group's
    ``lr_scale``. With no parameter marked it is fairseq's Adam. The scales are those asked for now, not
    the checkpoint's, as with fairseq's other settings.

    Args:
        cfg: fairseq's settings for ``adam``
        params: parameters, those of a scale of their own marked by ``scale_learning_rate``

    Raises:
        OptionError: when resuming, if the checkpoint has other groups
    """

    def __init__(self, cfg, params):
        by_scale = {1.0: []}
        for parameter in params:
            overrides = getattr(parameter, "optim_overrides", None) or {}
            scale = float(overrides.get("optimizer", {}).get("lr_scale", 1.0))
            by_scale.setdefault(scale, []).append(parameter)
        groups = [{"params": group, "lr_scale": scale} for scale, group in by_scale.items() if group]
        super().__init__(cfg, groups)

    def get_lr(self):
        """The scheduler's rate."""
        first = self.param_groups[0]
        return first["lr"] / first["lr_scale"]

    def set_lr(self, lr):
        """Set the scheduler's rate."""
        for group in self.param_groups:
            group["lr"] = lr * group["lr_scale"]

    def load_state_dict(self, state_dict, optimizer_overrides=None):
        """Load a checkpoint's optimizer state."""
        here = [(len(group["params"]), group["lr_scale"]) for group in self.param_groups]
        there = [len(group["params"]) for group in state_dict["param_groups"]]
        if [size for size, _ in here] != there:
            raise OptionError(
                f"the checkpoint's optimizer has groups of {_listed(there)} parameters, and --cgc-lr-scale makes groups of "
                f"{_listed([size for size, _ in here])}; resume with the option as it was, or add --reset-optimizer"
            )
        super().load_state_dict(state_dict, optimizer_overrides)
        for group, (_, scale) in zip(self.param_groups, here):
            group["lr_scale"] = scale


def _listed(sizes):
    return " and ".join(map(str, sizes))
