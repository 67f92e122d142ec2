"""The fronts that one suite is run over. A further one needs an adapter and a place here."""

from tests.contract.fronts.front import Front
from tests.contract.fronts.grpc import GrpcFront
from tests.contract.fronts.http import AsgiFront, ListenerFront
from tests.contract.fronts.invocations import InvocationsFront

FRONTS: dict[str, type[Front]] = {
    kind.name: kind for kind in (AsgiFront, ListenerFront, GrpcFront, InvocationsFront)
}
