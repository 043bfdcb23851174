"""What the plugin registers with fairseq: the architectures ``lightconv_cgc*`` and ``lightconv_gct``, the optimizer
``cgc_adam`` and the criterion ``label_smoothed_cross_entropy_with_simcut``; and the package's public names."""

from . import compat

compat.require_environment()
compat.quiet_fairseq()
compat.explain_user_errors()
compat.let_tasks_be_copied()

from . import safe_loading

safe_loading.keep_weights_only_loading()
safe_loading.guard_fairseq()

from .channel_gate import GatedChannelTransformation
from .context_gate import ContextGate
from .convolutions import ContextGatedDynamicConv, ContextGatedLightweightConv
from .lightconv_cgc import (
    LightConvCGCEncoder,
    LightConvCGCEncoderLayer,
    LightConvCGCModel,
)
from .simcut import SimCutCriterion
from .summary_gate import SummaryGate

__all__ = [
    "ContextGate",
    "ContextGatedDynamicConv",
    "ContextGatedLightweightConv",
    "GatedChannelTransformation",
    "LightConvCGCEncoder",
    "LightConvCGCEncoderLayer",
    "LightConvCGCModel",
    "SimCutCriterion",
    "SummaryGate",
]
