"""The survey's table as data (`table`), and the recipes that build each row's objective, one file per rule."""

from flowcore.methods.compositional import (
    fmm_terms,
    pfmm_terms,
    psd_terms,
    shortcut_terms,
    split_mean_flow_terms,
)
from flowcore.methods.diagonal import (
    diagonal_terms,
    flow_matching_terms,
)
from flowcore.methods.eulerian import (
    ayf_emd_terms,
    cd_terms,
    ct_terms,
    ctm_terms,
    emd_terms,
    esd_terms,
    facm_terms,
    improved_mean_flow_terms,
    mean_flow_terms,
    soflow_terms,
    two_heun_steps,
)
from flowcore.methods.lagrangian import (
    ayf_lmd_terms,
    free_flow_terms,
    lmd_terms,
    lsd_terms,
    pid_terms,
    tvm_terms,
)
from flowcore.methods.table import (
    METHODS,
    Method,
    method,
    objective,
)
