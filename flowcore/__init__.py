"""Flow maps, proven side by side. This file is the index: the whole public surface, one import line per name.

    path -> calculus, maps -> losses -> terms -> methods -> train -> sample, metrics, cost, plots, record

Modules are part of the surface too: `flowcore.times.ordered`, `flowcore.plots.points`, `flowcore.record.check`.
"""

from flowcore import (
    attention,
    calculus,
    checkpoints,
    data,
    guidance,
    landscape,
    metrics,
    nets,
    networks,
    path,
    plots,
    record,
    sample,
    tasks,
    teachers,
    times,
    train,
)
from flowcore.exact import GaussianMap
from flowcore.exact import MixtureMap
from flowcore.exact import checkerboard
from flowcore.exact import ring
from flowcore.losses.compositional import fmm
from flowcore.losses.compositional import fmm_inverse
from flowcore.losses.compositional import psd
from flowcore.losses.diagonal import flow_matching
from flowcore.losses.distances import adaptive
from flowcore.losses.distances import cauchy
from flowcore.losses.distances import directed
from flowcore.losses.distances import per_entry
from flowcore.losses.distances import perceptual
from flowcore.losses.distances import pseudo_huber
from flowcore.losses.distances import squared
from flowcore.losses.eulerian import ayf_emd
from flowcore.losses.eulerian import ct
from flowcore.losses.eulerian import ctm
from flowcore.losses.eulerian import emd
from flowcore.losses.eulerian import esd
from flowcore.losses.eulerian import facm
from flowcore.losses.eulerian import improved_mean_flow
from flowcore.losses.eulerian import mean_flow
from flowcore.losses.eulerian import soflow
from flowcore.losses.lagrangian import ayf_lmd
from flowcore.losses.lagrangian import free_flow
from flowcore.losses.lagrangian import free_flow_auxiliary
from flowcore.losses.lagrangian import lmd
from flowcore.losses.lagrangian import lsd
from flowcore.losses.lagrangian import pid
from flowcore.maps import AbstractFlowMap
from flowcore.maps import Accompanied
from flowcore.maps import AverageVelocityMap
from flowcore.maps import DenoisedMap
from flowcore.maps import EdmHeunMap
from flowcore.maps import EndpointMap
from flowcore.maps import Given
from flowcore.maps import Guided
from flowcore.maps import HeunMap
from flowcore.maps import OdeMap
from flowcore.maps import RepeatedMap
from flowcore.maps import TangentMap
from flowcore.methods import METHODS
from flowcore.methods import Method
from flowcore.methods import method
from flowcore.methods import objective
from flowcore.nets import DiT
from flowcore.nets import ResidualMLP
from flowcore.networks import NETWORKS
from flowcore.terms import Objective
from flowcore.terms import Term
from flowcore.terms import conditional
from flowcore.terms import from_noise
from flowcore.terms import on_path
from flowcore.terms import own
from flowcore.terms import pretrained
from flowcore.terms import taught
from flowcore.terms import trusted
from flowcore.train import fit
from flowcore.unet import UNet
