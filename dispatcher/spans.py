"""Spans as OTLP has them, https://opentelemetry.io/docs/specs/otlp/. Needs the extra ``otel``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status

from dispatcher.traces import Traced, phases, whole


def encode(tasks: Sequence[Traced], version: str, new_id: Callable[[int], bytes]) -> bytes:
    """Write the spans of tasks as a request of OTLP.

    Args:
        new_id: Makes an id of so many bytes.
    """
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.extend(_attributes({"service.name": "fernd", "service.version": version}))
    scope = resource.scope_spans.add()
    scope.scope.name, scope.scope.version = "fernd.dispatcher", version
    for task in tasks:
        _add(scope, task, new_id)
    encoded: bytes = request.SerializeToString()
    return encoded


def _add(scope: ScopeSpans, task: Traced, new_id: Callable[[int], bytes]) -> None:
    trace = task.trace
    begun, ended = whole(task)
    top = scope.spans.add(
        trace_id=trace.trace_id,
        span_id=new_id(8),
        parent_span_id=trace.parent_id,
        trace_state=trace.state,
        name="task",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=begun,
        end_time_unix_nano=ended,
    )
    told: dict[str, str | int | bool | None] = {
        "fernd.task": task.task,
        "fernd.function": task.function,
        "fernd.attempt": task.attempt,
        "fernd.node": task.node,
        "faas.coldstart": task.cold,
        "http.response.status_code": task.status,
        "error.type": task.error,
    }
    top.attributes.extend(_attributes(told))
    if task.error is not None:
        top.status.code, top.status.message = Status.STATUS_CODE_ERROR, task.detail
    for name, begun, ended in phases(task):
        scope.spans.add(
            trace_id=trace.trace_id,
            span_id=new_id(8),
            parent_span_id=top.span_id,
            name=name,
            kind=Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=begun,
            end_time_unix_nano=ended,
        )


def _attributes(values: dict[str, str | int | bool | None] | dict[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in values.items() if value is not None]


def _value(value: str | int | bool) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    return AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
