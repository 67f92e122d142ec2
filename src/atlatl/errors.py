"""What a call, a deployment or a start can fail with.

One leaf class per row of the table of errors. A leaf carries everything that
the fronts, the breaker and the figures need to know about it, so that no other
module maps errors to anything.
"""

from __future__ import annotations

from typing import ClassVar


class AtlatlError(Exception):
    """Base of every error that atlatl raises on purpose.

    Attributes:
        code: machine-readable reason, as sent in `error_code` and `code`.
        http_status: status of the problem document.
        grpc_status: name of the gRPC status, where one must be raised.
        retryable: whether the same call may succeed later without a change.
        outcome: how the execution is counted: `invalid`, `rejected`, `error`,
            `timeout`, `cancelled` or `crashed`.
        trips_breaker: whether it counts as a failure of the function.
        retry_after_s: seconds after which to try again, or None.
        detail: text for the record only (a traceback), never for strangers.
        execution_id: of the call that failed; known to clients only, else empty.
    """

    code: ClassVar[str] = "RUNTIME_ERROR"
    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    outcome: ClassVar[str] = "error"
    trips_breaker: ClassVar[bool] = False
    execution_id: str = ""

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, detail: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.detail = detail


class ExecutionError(AtlatlError):
    """Base of all that a call can raise, except the refusals of access."""


class ArtifactError(ExecutionError):
    """The code is missing, broken or not what it was said to be."""


class TaskError(ExecutionError):
    """The call or its function failed."""


class InstanceError(ExecutionError):
    """The process that ran the call failed."""


class RuntimeFailure(ExecutionError):
    """The service could not run the call."""


class ConfigurationError(ExecutionError):
    """Settings are wrong; raised at start or at deploy."""


class Unauthenticated(AtlatlError):
    code = "UNAUTHENTICATED"
    http_status = 401
    grpc_status = "UNAUTHENTICATED"
    outcome = "invalid"


class PermissionDenied(AtlatlError):
    code = "PERMISSION_DENIED"
    http_status = 403
    grpc_status = "PERMISSION_DENIED"
    outcome = "invalid"


class InvalidRequest(TaskError):
    code = "INVALID_REQUEST"
    http_status = 400
    grpc_status = "INVALID_ARGUMENT"
    outcome = "invalid"


class StreamModeNotSupported(InvalidRequest):
    """A streaming call at a door that answers once."""

    code = "STREAM_MODE_NOT_SUPPORTED"


class UnknownExecutionMode(InvalidRequest):
    """The call does not say whether it is synchronous."""

    code = "UNKNOWN_EXECUTION_MODE"


class TaskNotFound(TaskError):
    code = "TASK_NOT_FOUND"
    http_status = 404
    grpc_status = "NOT_FOUND"
    outcome = "invalid"


class ArtifactNotFound(ArtifactError):
    code = "ARTIFACT_NOT_FOUND"
    http_status = 404
    grpc_status = "NOT_FOUND"
    outcome = "invalid"


class ExecutionNotFound(TaskError):
    code = "EXECUTION_NOT_FOUND"
    http_status = 404
    grpc_status = "NOT_FOUND"
    outcome = "invalid"


class Conflict(TaskError):
    code = "CONFLICT"
    http_status = 409
    grpc_status = "ALREADY_EXISTS"
    outcome = "invalid"


class PayloadTooLarge(TaskError):
    code = "PAYLOAD_TOO_LARGE"
    http_status = 413
    grpc_status = "RESOURCE_EXHAUSTED"
    outcome = "invalid"


class ArtifactInvalid(ArtifactError):
    """Does not import, has no such function, or is an unsafe archive."""

    code = "CONFIGURATION_ERROR"
    http_status = 422
    grpc_status = "FAILED_PRECONDITION"
    outcome = "invalid"


class ChecksumMismatch(ArtifactError):
    code = "CHECKSUM_MISMATCH"
    http_status = 422
    grpc_status = "FAILED_PRECONDITION"
    outcome = "invalid"


class FetchFailed(ArtifactError):
    """The machine that holds the code did not give it out."""

    code = "IO_ERROR"
    http_status = 502
    retryable = True


class UnsupportedOperation(RuntimeFailure):
    code = "UNSUPPORTED_OPERATION"
    http_status = 501
    grpc_status = "UNIMPLEMENTED"
    outcome = "invalid"


class QueueFull(TaskError):
    code = "QUEUE_FULL"
    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    retryable = True
    outcome = "rejected"


class RateLimited(TaskError):
    code = "RATE_LIMITED"
    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    retryable = True
    outcome = "rejected"


class CircuitOpenError(TaskError):
    """The breaker refused the call; the function did not run."""

    code = "CIRCUIT_OPEN"
    http_status = 503
    grpc_status = "UNAVAILABLE"
    retryable = True
    outcome = "rejected"

    def __init__(self, name: str, *, retry_after_s: float | None = None) -> None:
        hint = "" if retry_after_s is None else f"; it admits a probe in {retry_after_s:.1f} s"
        super().__init__(f"circuit breaker is open for {name!r}{hint}", retry_after_s=retry_after_s)
        self.name = name


class NoCapacity(RuntimeFailure):
    """A budget or a limit of the service is used up."""

    code = "RESOURCE_EXHAUSTED"
    http_status = 503
    grpc_status = "RESOURCE_EXHAUSTED"
    retryable = True
    outcome = "rejected"


class Draining(RuntimeFailure):
    code = "DRAINING"
    http_status = 503
    grpc_status = "UNAVAILABLE"
    retryable = True
    outcome = "rejected"


class PoolClosed(Draining):
    """The pool was closed while the caller waited, or before it asked."""


class FunctionRaised(TaskError):
    """The function raised, or called `sys.exit`; `detail` has the traceback."""

    code = "EXECUTION_ERROR"
    http_status = 500
    grpc_status = "ABORTED"
    trips_breaker = True


class ResultInvalid(TaskError):
    """The function returned something that JSON can't hold."""

    code = "SERIALIZATION_ERROR"
    http_status = 500
    grpc_status = "INTERNAL"
    trips_breaker = True


class OutOfMemory(InstanceError):
    """`MemoryError` in the function."""

    code = "RESOURCE_LIMIT_EXCEEDED"
    http_status = 500
    grpc_status = "RESOURCE_EXHAUSTED"
    trips_breaker = True


class KilledOutOfMemory(OutOfMemory):
    """The instance was killed because it used too much memory."""

    outcome = "crashed"


class CpuTimeExceeded(InstanceError):
    """The instance was killed because a call used more CPU time than `confinement.cpu_s`."""

    code = "RESOURCE_LIMIT_EXCEEDED"
    http_status = 500
    grpc_status = "RESOURCE_EXHAUSTED"
    outcome = "crashed"
    trips_breaker = True


class TimedOut(TaskError):
    """The deadline passed while the function ran."""

    code = "EXECUTION_TIMEOUT"
    http_status = 504
    grpc_status = "DEADLINE_EXCEEDED"
    outcome = "timeout"
    trips_breaker = True


class TimedOutWaiting(TimedOut):
    """The deadline passed before the function began."""

    retryable = True
    trips_breaker = False


class Cancelled(TaskError):
    code = "CANCELLED"
    http_status = 499
    grpc_status = "CANCELLED"
    outcome = "cancelled"


class InstanceCrashed(InstanceError):
    """The instance died while it ran this call; the message names exit code or signal."""

    code = "INSTANCE_CRASHED"
    http_status = 502
    grpc_status = "UNAVAILABLE"
    outcome = "crashed"
    trips_breaker = True


class InstanceLost(InstanceError):
    """The instance went away, and not by this call's doing."""

    code = "INSTANCE_LOST"
    http_status = 502
    grpc_status = "UNAVAILABLE"
    retryable = True
    outcome = "crashed"


class StartFailed(InstanceError):
    code = "START_FAILED"
    http_status = 502
    grpc_status = "UNAVAILABLE"
    retryable = True


class StoreUnavailable(RuntimeFailure):
    code = "STORE_UNAVAILABLE"
    http_status = 503
    grpc_status = "UNAVAILABLE"
    retryable = True
    outcome = "rejected"


class SettingInvalid(ConfigurationError):
    code = "CONFIGURATION_ERROR"
    http_status = 422
    grpc_status = "FAILED_PRECONDITION"
    outcome = "invalid"


class InternalFailure(RuntimeFailure):
    """A fault of the service itself, for which there is no closer word."""

    code = "SYNC_EXECUTION_FAILED"
    http_status = 500
    grpc_status = "INTERNAL"
