"""What a flow map is, how it is asked, and what it may be made of."""

from flowcore.maps.flow_map import AbstractFlowMap, ConditionedMap, WithAuxiliary
from flowcore.maps.ode import GuidedMap, OdeMap, in_float32
from flowcore.maps.predictions import AverageVelocityMap, DenoisedMap, EndpointMap
from flowcore.maps.steps import EdmHeunMap, HeunMap, RepeatedMap, TangentMap
